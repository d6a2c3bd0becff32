"""The one training loop: steps, averaged records, validation, early stopping, checkpoints when they are due."""

import math
import time
from typing import Any

import pyro
from torch import Tensor

from probgen.console import progress_bar
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.means import Means
from probgen.inference.processes import ALONE, Processes
from probgen.inference.randomness import own_randomness, random_state, seed_of, set_random_state
from probgen.inference.trainer import TrainConfig, Trainer

NUM_RECORDS = 200  # training records in a run
NUM_VALIDATIONS = 50
SECONDS_BETWEEN_UPDATES = 0.1  # of the progress bar
VALIDATION_SEED = 20_140_501
Record = dict[str, Any]
PLAYED = {  # what is told of two players
    "value": "value",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "critic_real": "critic at x",
    "critic_fake": "critic at G(z)",
}


class Recorder:
    """What happens to a run's progress: nothing here; a run directory overrides it."""

    def record(self, record: Record) -> None:
        """A line of metrics: training terms averaged since the last one, or a validation's."""

    def checkpoint(self, loop: "Loop") -> None:
        """The end of an interval: a place where the run may be saved."""

    def validated(self, loop: "Loop") -> None:
        """After a validation, with the weights that were validated in place."""

    def stepped(self, loop: "Loop") -> None:
        """After each step."""

    def stop_requested(self) -> bool:
        """Whether to stop before the next step."""
        return False


class Loop:
    """Runs a `Trainer` to the end of its configuration; all that it remembers is in `state_dict()`.

    Among several processes (see `join`) each has a loop, and all loops do the same.
    """

    def __init__(
        self,
        trainer: Trainer | AdversarialTrainer,
        *,
        valid: Tensor | None = None,
        valid_labels: Tensor | None = None,
        recorder: Recorder | None = None,
        quiet: bool = False,
    ) -> None:
        self.trainer, self.valid, self.valid_labels, self.quiet = trainer, valid, valid_labels, quiet
        self.recorder = recorder or Recorder()
        self.history: list[Record] = []
        self.pending = Means()
        self.processes: Processes = ALONE
        self.noise_of_others: list[Any] = []  # random states of the processes beside the first
        self.best: dict[str, Any] | None = None
        self.validations_since_best = 0
        self.seconds_before, self.started = 0.0, time.monotonic()
        self.record_every = max(1, trainer.config.steps // NUM_RECORDS)
        epoch = math.ceil(trainer.order.steps_for(1) / trainer.batches_per_step)
        self.validate_every = max(epoch, math.ceil(trainer.config.steps / NUM_VALIDATIONS))

    @property
    def config(self) -> TrainConfig:
        """The trainer's."""
        return self.trainer.config

    @property
    def finished(self) -> bool:
        """All steps are done, or the validation bound has stopped rising."""
        patience = self.config.patience
        out_of_patience = patience is not None and self.validations_since_best >= patience
        return out_of_patience or self.trainer.steps_done >= self.config.steps

    def join(self, processes: Processes) -> None:
        """Go on together with other processes, from the first one's state; each of the others has noise of its own.

        That is the stream it had when the state was saved; where there is none, a new one of the seed, the rank and
        the step.
        """
        self.processes = processes
        if processes.world == 1:
            return
        self.trainer.join(processes)
        state = processes.from_first(self.state_dict)
        if processes.rank > 0:
            self.load_state_dict(state)
            if processes.rank <= len(self.noise_of_others):
                set_random_state(self.noise_of_others[processes.rank - 1])
            else:
                pyro.set_rng_seed(seed_of(self.config.seed, processes.rank, self.trainer.steps_done))

    def run(self) -> list[Record]:
        """Train; returns the records of this call. Weights are the best (with patience), the average (ema) or the last.

        Raises TrainingError at a loss that is nan or infinite, in all processes.
        """
        self.started = time.monotonic()
        with progress_bar(quiet=self.quiet) as bar:
            what = "compiling, once" if self.trainer.compiled else "training"
            task = bar.add_task(what, total=self.config.steps, completed=self.trainer.steps_done, terms="")
            told, shown = self.quiet, 0.0
            while not self.finished and not self.processes.stop_agreed(self.recorder.stop_requested()):
                self.one_step()
                if (reason := self.trainer.not_compiled) and not told:
                    told = True
                    bar.console.print(f"not compiled, Pyro runs at every step: {reason}", markup=False)
                if time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:  # a small network's step is shorter than one
                    done, terms = self.trainer.steps_done, summary(self.history)
                    bar.update(task, description="training", completed=done, terms=terms)
                    shown = time.monotonic()
        self.look()
        self.collect_noise()
        return self.history

    @property
    def seconds(self) -> float:
        """Time in training, over all calls; pictures and checkpoints included, what a kill undid is not."""
        return self.seconds_before + time.monotonic() - self.started

    def one_step(self) -> None:
        """A gradient step, and what falls due after it."""
        step, last = self.trainer.steps_done + 1, self.config.steps
        self.pending.add(self.trainer.step())
        if step % self.record_every == 0 or step == last:
            self.flush()
        if self.valid is not None and (step % self.validate_every == 0 or step == last):
            self.validate()
        self.recorder.stepped(self)
        if step % self.record_every == 0 or step == last:
            self.collect_noise()
            self.recorder.checkpoint(self)

    def look(self) -> None:
        """Raise TrainingError at a loss that was no number, where steps do not tell at once."""
        if isinstance(self.trainer, Trainer):
            self.trainer.look()

    def collect_noise(self) -> None:
        """Have every process's random state, for a checkpoint that the first one may write now."""
        states = self.processes.gather(random_state()) if self.processes.world > 1 else []
        self.noise_of_others = states[1:]

    def flush(self) -> None:
        """One record: the means of the steps since the last. Raises TrainingError where one was no number."""
        self.look()
        self.add("train", self.pending.taken())

    def add(self, split: str, terms: Record) -> None:
        """Note a record and hand it on."""
        batches = self.trainer.steps_done * self.trainer.batches_per_step
        epoch = batches * self.trainer.order.batch_size / len(self.trainer.images)
        record = {"step": self.trainer.steps_done, "epoch": round(epoch, 3), "split": split, **terms}
        self.history.append(record)
        self.recorder.record({**record, "time": round(time.time(), 3), "seconds": round(self.seconds, 3)})

    def validate(self) -> None:
        """Bound on the validation images, always with the same noise; remembers the best weights if asked to.

        The first process computes it for all, so that all stop early at the same step.
        """
        valid = self.valid
        assert valid is not None
        self.trainer.swap_average()
        with own_randomness(VALIDATION_SEED):
            terms = self.processes.from_first(lambda: self.trainer.validation_terms(valid, self.valid_labels))
            self.add("valid", terms)
            self.recorder.validated(self)
        if self.config.patience is not None:
            self.remember_best(terms["loss"])
        self.trainer.swap_average()

    def remember_best(self, loss: float) -> None:
        """Early stopping: keep a copy of the weights with the lowest validation loss."""
        self.validations_since_best += 1
        if self.best is None or loss < self.best["loss"]:
            self.best = {"loss": loss, "step": self.trainer.steps_done, "weights": self.trainer.weights()}
            self.validations_since_best = 0

    def final_weights(self) -> dict[str, Tensor]:
        """What the run is for: the best weights so far (with patience), the average (ema), or the last."""
        if self.best is not None:
            return self.best["weights"]
        self.trainer.swap_average()
        weights = self.trainer.weights()
        self.trainer.swap_average()
        return weights

    def state_dict(self) -> dict[str, Any]:
        """The trainer's state, and what the loop remembers."""
        return {
            "trainer": self.trainer.state_dict(),
            "pending": self.pending.state_dict(),
            "best": self.best,
            "validations_since_best": self.validations_since_best,
            "seconds": self.seconds,
            "noise_of_others": self.noise_of_others,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.trainer.load_state_dict(state["trainer"])
        self.pending.load_state_dict(state["pending"])
        self.best, self.noise_of_others = state["best"], list(state["noise_of_others"])
        self.validations_since_best = state["validations_since_best"]
        self.seconds_before, self.started = float(state["seconds"]), time.monotonic()


def summary(history: list[Record]) -> str:
    """The last record's terms, short, for the progress bar."""
    if not history:
        return ""
    return " ".join(f"{name} {value:.2f}" for name, value in in_words(history[-1]).items())


def in_words(terms: Record) -> Record:
    """What to tell of a record: ELBO and its terms; log p(x) where nothing is latent; two players' scores; the loss."""
    if terms.get("kl") == 0:
        return {"log p(x)": terms["elbo"]}
    known = ("elbo", "log_likelihood", "kl", "active_units", "student_forced", "joint")
    names: list[str] = [name for name in known if name in terms]
    if names or "loss" in terms:
        return {name.replace("_", " "): terms[name] for name in names or ["loss"]}
    return {told: terms[name] for name, told in PLAYED.items() if name in terms}
