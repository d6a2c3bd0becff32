"""`probgen train`: a configuration, a run directory, and the loop between them."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from probgen.commands.common import check_data, choose_device
from probgen.commands.pictures import draw_progress
from probgen.console import stderr_console
from probgen.data import DATASET_NAMES, ImageData, Split, load_data
from probgen.errors import UserError
from probgen.inference.batches import BatchOrder
from probgen.inference.checks import check_pair
from probgen.inference.loop import Loop, Recorder, validation_terms
from probgen.inference.traces import as_real
from probgen.inference.trainer import TrainConfig, Trainer, TrainingError
from probgen.models.registry import build, check_options, find_class, options_of
from probgen.runs import Run, RunConfig, build_model

DEFAULT_EPOCHS = 50
MOST_VALIDATION_IMAGES = 5_000
SECONDS_BETWEEN_CHECKPOINTS = 20.0
SECONDS_BETWEEN_PICTURES = 10.0


def train(
    model: str | None,
    given: Mapping[str, Any],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train `model` as `given` says (fields of `RunConfig`, only those that the user gave) into `out`.

    Returns a summary: model, run, steps, whether it finished, the last validation's terms.
    """
    if resume and overwrite:
        raise UserError("both --resume and --overwrite came, expected one of them")
    started = time.time()
    data_dir = given.get("data_dir")
    if resume:
        run = Run.open(out)
        config = continued(run.config, model, given)
        run = Run(out, config)
    else:
        if model is None:
            raise UserError("no model came: probgen train MODEL --data D --out RUN; see `probgen models`")
        config = None
    data = load_data(
        config.data if config else given.get("data", "digits"),
        data_dir=data_dir or (config.data_dir if config else None),
        binarize=config.binarize if config else given.get("binarize", "none"),
    )
    if config is None:
        config = new_config(model or "", given, data)
    check_data(data, config.image_shape, config.levels)
    device = choose_device(config.device)
    pyro.set_rng_seed(config.seed)
    pair = build_model(config, config.model).to(device)
    check_pair(pair, as_real(data.train.batch(torch.arange(min(3, len(data.train)))).to(device)))
    if not resume:
        run = Run.create(out, config, overwrite=overwrite)
    with run.locked():
        run.write_config()
        if getattr(pair, "estimator", None) == "closed-form":
            summary = solve(run, pair, data)
        else:
            summary = climb(run, pair, data, device, quiet)
    return {"model": config.model, "run": str(out), **summary, "seconds": round(time.time() - started, 1)}


def new_config(model: str, given: Mapping[str, Any], data: ImageData) -> RunConfig:
    """The configuration of a new run: what was given, the data's shape, defaults for the rest."""
    if given.get("steps") is not None and given.get("epochs") is not None:
        raise UserError("both --epochs and --steps came, expected one of them")
    fields = {"data": "digits", **given, "model": model, "image_shape": data.image_shape, "levels": data.levels}
    fields |= {name: lasting(fields[name]) for name in ("data", "data_dir") if fields.get(name)}
    fields["device"] = str(choose_device(given.get("device", "auto")))
    if fields.get("steps") is None:
        fields.setdefault("epochs", DEFAULT_EPOCHS)
        fields["steps"] = 1  # counted below, once the other fields are known to be sound
    cls = find_class(model)
    defaults = {option.name: option.default for option in options_of(cls)}
    fields["options"] = as_data(defaults | check_options(cls, given.get("options", {})))
    try:
        config = RunConfig(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise UserError(f"{name}={problem['input']!r} came: {problem['msg'].lower()}") from error
    built = build(cls, data.image_shape, data.levels, config.options)
    if not isinstance(built, nn.Module):
        raise UserError(f"{type(built).__name__} is no torch.nn.Module: make it one, so that its weights can be saved")
    if config.epochs is not None:
        steps = BatchOrder(len(data.train), config.batch_size, config.seed).steps_for(config.epochs)
        config = config.model_copy(update={"steps": max(1, steps)})
    return config


def lasting(place: str) -> str:
    """A path as an absolute one, so that the run finds its data from anywhere; a data set's name as it is."""
    named = place.partition(":")[0] in DATASET_NAMES
    return place if named or not Path(place).exists() else str(Path(place).resolve())


def continued(config: RunConfig, model: str | None, given: Mapping[str, Any]) -> RunConfig:
    """A run's own configuration; what is given again must agree with it, but for the device and the data's place."""
    wanted = {k: v for k, v in given.items() if v is not None} | ({"model": model} if model is not None else {})
    free = {"data_dir", "device"}
    if wanted.get("device") == "auto":
        wanted.pop("device")
    for name, value in wanted.items():
        recorded = getattr(config, name)
        if name == "data":
            value = lasting(str(value))
        elif name == "options":
            value = as_data(check_options(find_class(model or config.model), value))
            recorded = {k: recorded.get(k) for k in value}
        if name not in free and value != recorded:
            raise UserError(
                f"--resume with {name}={value} came, but the run has {name}={recorded}: leave it out, or train anew"
            )
    return config.model_copy(update={k: str(wanted[k]) for k in free & wanted.keys()})


def as_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a configuration file holds them; a default that is no plain value stays the code's own."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return {k: v for k, v in plain.items() if isinstance(v, str | int | float | list | None)}


def solve(run: Run, pair: Any, data: ImageData) -> dict[str, Any]:
    """Maximum likelihood in closed form: no steps to take."""
    pair.maximum_likelihood(data.train.images)
    pair.eval()
    terms = validation_terms(pair, as_real(validation_images(data.valid)))
    run.save_weights(pair.state_dict())
    run.rewind_metrics(-1)
    run.append_metrics({"step": 0, "epoch": 0.0, "split": "valid", **terms})
    draw_progress(run, pair, data, [])
    return {"steps": 0, "finished": True, "closed_form": True, "valid": terms}


def climb(run: Run, pair: Any, data: ImageData, device: torch.device, quiet: bool) -> dict[str, Any]:
    """Gradient steps, from the last checkpoint if there is one."""
    config = run.config
    fields = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    trainer = Trainer(pair, data.train, TrainConfig(**fields), device)
    with stop_signals() as stop, RunRecorder(run, data, stop) as recorder:
        loop = Loop(trainer, valid=validation_images(data.valid).to(device), recorder=recorder, quiet=quiet)
        recorder.restore(loop)
        try:
            loop.run()
        except TrainingError as error:
            raise UserError(f"{error}; the checkpoint of step {recorder.saved_step} is kept in {run.path}") from error
        recorder.save(loop)
        if loop.finished:
            pair.load_state_dict(loop.final_weights())
            draw_progress(run, pair.eval(), data, run.read_metrics())
    valid = [r for r in run.read_metrics() if r["split"] == "valid"]
    terms = {k: v for k, v in valid[-1].items() if k not in ("step", "epoch", "split", "time")} if valid else {}
    summary = {"steps": trainer.steps_done, "finished": loop.finished, "closed_form": False, "valid": terms}
    if loop.best is not None:
        summary["best"] = {"step": loop.best["step"], "loss": loop.best["loss"]}
    return summary


def validation_images(split: Split) -> Tensor:
    """The images whose bound is watched: at most 5,000, the first ones."""
    return split.batch(torch.arange(min(MOST_VALIDATION_IMAGES, len(split))))


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
            except (KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
                file = self.run.path / "checkpoint.pt"
                raise UserError(f"{file} does not fit this run: restore it, or train anew with --overwrite") from error
        else:
            self.save(loop)
        self.run.rewind_metrics(loop.trainer.steps_done)
        loop.history = self.run.read_metrics()
        self.open_events(loop.trainer.steps_done)

    def open_events(self, step: int) -> None:
        """TensorBoard's event files; those after `step` are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=step + 1 if step else None)

    def record(self, record: dict[str, Any]) -> None:
        """A line in metrics.jsonl and a point in TensorBoard for each term."""
        self.run.append_metrics(record)
        for name, value in record.items():
            if name not in ("step", "split", "time", "epoch"):
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


def tell(summary: Mapping[str, Any]) -> None:
    """How a run ended, for people, on stderr."""
    console = stderr_console()
    terms = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in summary["valid"].items())
    if summary["finished"]:
        console.print(f"trained {summary['model']} in {summary['seconds']:.0f} s; on validation images: {terms}")
        console.print(f"look at {summary['run']}/pictures; next: probgen evaluate {summary['run']}", highlight=False)
    else:
        console.print(
            f"stopped after step {summary['steps']}, saved; go on with: probgen train --out {summary['run']} --resume",
            highlight=False,
        )
