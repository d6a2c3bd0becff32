"""Between the training loop and the run directory: metrics, checkpoints, pictures, and the signals that stop it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from probgen.commands.film import drop_later, is_due, shoot
from probgen.commands.pictures import draw_progress
from probgen.data import ImageData
from probgen.errors import UserError
from probgen.inference.loop import Loop, Recorder
from probgen.runs import Run

SECONDS_BETWEEN_CHECKPOINTS = 20.0
SECONDS_BETWEEN_PICTURES = 10.0


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM asks for a stop between two steps; a second one does not wait."""
    received: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Helper(Recorder):
    """Of a process beside the first: it writes nothing, and can be asked to stop."""

    def __init__(self, stop: list[int]) -> None:
        self.stop = stop

    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM came to this process."""
        return bool(self.stop)


class RunRecorder(Recorder):
    """Puts a loop's progress into a run directory."""

    def __init__(self, run: Run, data: ImageData, stop: list[int]) -> None:
        self.run, self.data, self.stop = run, data, stop
        self.last_checkpoint = self.last_pictures = time.monotonic()
        self.saved_step = 0

    def __enter__(self) -> "RunRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "events"):
            self.events.close()

    def restore(self, loop: Loop) -> None:
        """Put the loop where the last checkpoint was; a damaged one is refused."""
        state = self.run.load_checkpoint()
        if state is not None:
            try:
                loop.load_state_dict(state)
                self.saved_step = loop.trainer.steps_done
            except (KeyError, TypeError, RuntimeError, ValueError, AttributeError, IndexError) as error:
                file = self.run.path / "checkpoint.pt"
                raise UserError(f"{file} does not fit this run: restore it, or train anew with --overwrite") from error
        else:
            self.save(loop)
        self.run.rewind_metrics(loop.trainer.steps_done)
        loop.history = self.run.read_metrics()
        drop_later(self.run, loop.trainer.steps_done)
        if loop.trainer.steps_done == 0:
            self.stepped(loop)
        self.open_events(loop.trainer.steps_done)

    def stepped(self, loop: Loop) -> None:
        """A frame of the film, of the weights that would be kept."""
        step = loop.trainer.steps_done
        if self.run.config.animate and is_due(step, loop.config.steps):
            loop.trainer.swap_average()
            shoot(self.run, loop.trainer.pair, self.data, step)
            loop.trainer.swap_average()

    def open_events(self, step: int) -> None:
        """TensorBoard's event files; what an earlier process wrote there after `step` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=step + 1)

    def record(self, record: dict[str, Any]) -> None:
        """A line in metrics.jsonl and a point in TensorBoard for each term."""
        self.run.append_metrics(record)
        for name, value in record.items():
            if name not in ("step", "split", "time", "seconds", "epoch"):
                self.events.add_scalar(f"{name}/{record['split']}", value, record["step"])

    def validated(self, loop: Loop) -> None:
        """Pictures, now and then."""
        if time.monotonic() - self.last_pictures > SECONDS_BETWEEN_PICTURES:
            draw_progress(self.run, loop.trainer.pair, self.data, loop.history)
            self.last_pictures = time.monotonic()

    def checkpoint(self, loop: Loop) -> None:
        """Save, now and then."""
        if time.monotonic() - self.last_checkpoint > SECONDS_BETWEEN_CHECKPOINTS:
            self.save(loop)

    def save(self, loop: Loop) -> None:
        """Checkpoint and weights, only if every weight is a number."""
        if all(bool(torch.isfinite(p).all()) for p in loop.trainer.parameters):
            self.run.save_checkpoint(loop.state_dict())
            self.run.save_weights(loop.final_weights())
            self.saved_step = loop.trainer.steps_done
        self.last_checkpoint = time.monotonic()

    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return bool(self.stop)
