"""How long and how to train: what `fit` and `probgen train` have in common."""

import math
from dataclasses import dataclass
from typing import Literal

from probgen.inference.precision import Precision

STEPS_TO_REPAY = 10_000  # compiling takes about as long as what so many steps save; see docs/performance.md


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to train.

    steps: gradient steps. batch_size: images a step, of all processes together. lr: Adam's learning rate.
    schedule: the rate over the run, `constant`, `linear` to 0 or `cosine` to 0; `lr_warmup`: steps over which
        it first rises from 0.
    clip_norm: largest norm of the whole gradient, in nats per image; None for none.
    ema: decay of an exponential moving average of the weights, which is then what is evaluated and saved.
    patience: stop after that many validations without a better bound, keep the best weights.
    compile: whether to compile the step (see `CompiledStep`): `on`, `off`, or `auto`, for runs of 10,000 steps or more.
    seed: of the order of batches; the noise comes from the global generators.
    precision: what the pair's networks compute in (see `networks_in`).
    """

    steps: int
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_warmup: int = 0
    clip_norm: float | None = None
    ema: float | None = None
    patience: int | None = None
    seed: int = 0
    compile: Literal["auto", "on", "off"] = "auto"
    precision: Precision = "32-true"

    @property
    def compiles(self) -> bool:
        """Whether the step is to be compiled; by the number of steps, not by a clock, for a run must be repeatable."""
        return self.compile == "on" or (self.compile == "auto" and self.steps >= STEPS_TO_REPAY)

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / (self.lr_warmup + 1))
        if self.schedule == "constant":
            return self.lr * rising
        left = 1 - max(0, step - self.lr_warmup) / max(1, self.steps - self.lr_warmup)
        falling = {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
        return self.lr * rising * falling[self.schedule]
