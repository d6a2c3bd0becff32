"""Stochastic variational inference, one gradient step at a time.

θ, φ ← Adam( ∇ −(1/B) Σ_b ELBO(x_b; θ, φ) )
"""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.adam import FusedAdam, clipped
from probgen.inference.batches import BatchOrder, Images, batches_of
from probgen.inference.compiled.recording import NotStaticError
from probgen.inference.compiled.step import CompiledStep, EagerStep
from probgen.inference.finite import Latch
from probgen.inference.heap import keep_freed_memory
from probgen.inference.objective import StepTerms, first_bad_site
from probgen.inference.precision import check_precision, networks_in
from probgen.inference.processes import ALONE, Exchange, Processes, running_statistics
from probgen.inference.randomness import random_state, set_random_state
from probgen.inference.threads import is_small, one_thread, scored
from probgen.inference.traces import modules_of
from probgen.inference.training import TrainConfig
from probgen.inference.validation import validation_terms
from probgen.models.contracts import Initializable

MOST_SHOWN = 10_000
LOOKS = (10, 100, 1000)  # steps after which a compiled step is compared with Pyro's again, and every thousand later
MORE_LOOKS = 4  # batches, where a gradient differs at the first: rounding may have moved a unit over its kink
LOOSE = "pyro.param:"  # prefix of parameters outside any module


class TrainingError(UserError):
    """Training met a loss that is no number."""


def trainable_parameters(pair: Any, *x: Tensor) -> list[Tensor]:
    """The pair's own parameters, and those its programs made with `pyro.param`.

    An object that is no `nn.Module` is searched for modules among its attributes.
    """
    found = [p for module in modules_of(pair) for p in module.parameters()]
    silent = pyro.validation_enabled(False)  # a loss that is no number is told by the step that meets it
    with torch.random.fork_rng(), torch.no_grad(), silent, poutine.trace(param_only=True) as capture:
        poutine.replay(pair.model, trace=poutine.trace(pair.guide).get_trace(*x))(*x)
    found += [node["value"].unconstrained() for node in capture.trace.nodes.values()]
    unique = list({id(p): p for p in found}.values())
    if not any(p.requires_grad for p in unique):
        raise UserError(f"{type(pair).__name__} has no parameters to train: make it an nn.Module with parameters")
    return [p for p in unique if p.requires_grad]


def initialize(pair: Any, images: Images) -> None:
    """Show a pair that asks for it (see `Initializable`) up to 10,000 training images."""
    if isinstance(pair, Initializable):
        pair.initialize(images.batch(torch.arange(min(MOST_SHOWN, len(images)))))


class Trainer:
    """A pair in training: `step()` takes one gradient step; `state_dict()` is all that the next one depends on.

    On a CPU the process keeps freed memory from the first trainer on (see `keep_freed_memory`).

    pair: an object with `model` and `guide`. images: the training set. device: where the pair already is.
    not_compiled: why the steps are not compiled although they were to be; known after the first.
    latch: looks at losses where a look by Python would wait for the device; None where it need not, on the CPU.
    """

    batches_per_step = 1

    def __init__(self, pair: Any, images: Images, config: TrainConfig, device: torch.device | str = "cpu") -> None:
        self.pair, self.images, self.config, self.device = pair, images, config, torch.device(device)
        self.order = BatchOrder(len(images), config.batch_size, config.seed)
        self.batches = batches_of(pair, images, self.order, self.device)
        self.processes: Processes = ALONE
        self.exchange: Exchange | None = None
        check_precision(pair, config.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        with networks_in(pair, config.precision, self.device):
            self.parameters = trainable_parameters(pair, *self.batch(0))
        self.alone = self.device.type == "cpu" and is_small(pair, lambda: scored(pair, *self.batch(0)))
        self.optimizer = FusedAdam(self.parameters, lr=config.lr)
        kind = CompiledStep if config.compiles else EagerStep
        self.gradient: EagerStep | CompiledStep = kind(pair, self.parameters)
        self.not_compiled: str | None = None
        self.average = [p.detach().clone() for p in self.parameters] if config.ema else []
        self.latch = None if self.device.type == "cpu" else Latch(self.optimizer, self.device)
        self.steps_done = 0

    def join(self, processes: Processes) -> None:
        """Take a share of each batch from now on, and each step together with the other processes.

        Raises UserError where a batch has fewer images than there are processes.
        """
        if self.order.batch_size < processes.world:
            few = f"a batch of {self.order.batch_size} came with {processes.world} processes"
            raise UserError(f"{few}, expected an image or more for each")
        self.processes = processes
        together = processes.world > 1
        self.exchange = Exchange(processes, self.parameters, running_statistics(self.pair)) if together else None

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Its images of a step, on the device, as floating-point whole numbers; and their labels, to a pair of both."""
        return self.batches(step, self.processes.rank, self.processes.world)

    def step(self) -> dict[str, Any]:
        """Take one gradient step; gives the batch's terms (see `StepTerms`) and the learning rate.

        Raises TrainingError, before any weight has moved, when the loss is nan or infinite (with a latch: at `look`),
        or a compiled step is no longer Pyro's.
        """
        if not self.alone or torch.get_num_threads() == 1:
            return self.moved()
        with one_thread():
            return self.moved()

    def moved(self) -> dict[str, Any]:
        """One step, by as many threads as there are."""
        set_mode(self.pair, training=True)
        if hasattr(self.pair, "training_step"):
            object.__setattr__(self.pair, "training_step", self.steps_done)  # past `nn.Module`, which takes its time
        lr = self.config.lr_at(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = self.batch(self.steps_done)
        step = self.together(self.gradients(*batch), batch)
        clip = self.config.clip_norm
        self.optimizer.move(step.gradients if clip is None else clipped(step.gradients, clip))
        if self.config.ema:
            self.update_average()
        self.steps_done += 1
        return {"loss": step.loss.detach(), **step.terms, "lr": lr}

    def gradients(self, *batch: Tensor) -> StepTerms:
        """The loss, terms and gradients of a batch."""
        with networks_in(self.pair, self.config.precision, self.device):
            before = torch.get_rng_state()
            try:
                step = self.gradient(*batch)
            except NotStaticError as error:
                self.not_compiled, self.gradient = str(error), EagerStep(self.pair, self.parameters)
                step = self.gradient(*batch)
            if isinstance(self.gradient, CompiledStep) and self.latch is None and not step.is_finite:
                torch.set_rng_state(before)
                step = self.gradient.eager(*batch)  # the same step by Pyro, which knows the sites
        return step

    def together(self, step: StepTerms, batch: tuple[Tensor, ...]) -> StepTerms:
        """The step of all processes' images, from that of this one's; raises TrainingError in all or in none."""
        trouble = (self.trouble(step) if self.latch is None else None) or self.departure(batch)
        failed = trouble is not None
        if self.exchange is not None:
            step, failed = self.exchange(step, len(batch[0]) / self.order.batch_size, failed=failed)
        if failed:
            raise TrainingError(next(told for told in self.processes.gather(trouble) if told is not None))
        if self.latch is not None:
            self.latch.note(step.loss)
        return step

    def departure(self, batch: tuple[Tensor, ...]) -> str | None:
        """What to tell of a compiled step that Pyro would take otherwise by now; looked at from time to time.

        The loss must agree on every batch looked at. Where a gradient does not, four more are looked at: it is another
        one if it differs on most, and rounding that moved a unit over its kink if on few.
        """
        done, gradient = self.steps_done, self.gradient
        if not isinstance(gradient, CompiledStep) or not (done in LOOKS or (done and done % LOOKS[-1] == 0)):
            return None
        with networks_in(self.pair, self.config.precision, self.device), torch.random.fork_rng():
            looks = [gradient.still_pyros(*batch)]
            if looks[0] == (True, True):
                return None
            if looks[0][0]:
                looks += [gradient.still_pyros(*self.batch(done + more)) for more in range(1, MORE_LOOKS + 1)]
        if all(loss for loss, _ in looks) and sum(grad for _, grad in looks) > MORE_LOOKS / 2:
            return None
        return (
            f"step {done + 1}: compiled, the step no longer gives Pyro's loss and gradient: the program depends on "
            "something in Python that changes; train anew, with compile=off"
        )

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled, or are to be."""
        return isinstance(self.gradient, CompiledStep)

    def validation_terms(self, x: Tensor, y: Tensor | None = None) -> dict[str, Any]:
        """Loss per image and its terms on images that were not trained on; labels are not looked at."""
        return validation_terms(self.pair, x)

    def trouble(self, step: StepTerms) -> str | None:
        """What to tell of a loss that is no number, None of one that is."""
        if step.is_finite:
            return None
        return self.advice(self.steps_done + 1, f"the loss is {step.loss.item()}, {first_bad_site(step)}")

    def advice(self, step: int, what: str) -> str:
        """What to do about a step."""
        return f"step {step}: {what}; lower the learning rate ({self.config.lr:g}), or set clip_norm"

    def look(self) -> None:
        """Raise TrainingError if a loss since the last look was no number; with a latch it was not seen at its step."""
        if self.latch is not None and (step := self.latch.bad_step()) is not None:
            raise TrainingError(self.advice(step, "the loss is not a finite number"))

    @torch.no_grad()
    def update_average(self) -> None:
        """average ← decay · average + (1 − decay) · weights."""
        assert self.config.ema is not None
        decay = moving_decay(self.config.ema, self.steps_done)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, average, random state, step: the next step is a function of these alone."""
        return {
            "steps_done": self.steps_done,
            "pair": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ValueError for one that is not of this trainer."""
        check_state(state, self.parameters, self.config)
        self.steps_done = state["steps_done"]
        self.load_weights(state["pair"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = [p.to(self.device) for p in state["average"]]
        if self.latch is not None:
            self.latch.start(self.steps_done)
        set_random_state(state["random"])

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers; a module's under their own names."""
        modules = {"" if m is self.pair else f"{i}.": m for i, m in enumerate(modules_of(self.pair))}
        named = {prefix + k: v for prefix, module in modules.items() for k, v in module.state_dict().items()}
        return {k: v.detach().clone() for k, v in (named | self.loose_parameters()).items()}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put a copy made by `weights` back."""
        for i, module in enumerate(modules_of(self.pair)):
            prefix = "" if module is self.pair else f"{i}."
            own = {k: weights[prefix + k] for k in module.state_dict()} if prefix else weights
            module.load_state_dict({k: v for k, v in own.items() if not k.startswith(LOOSE)})
        for name, parameter in self.loose_parameters().items():
            parameter.data.copy_(weights[name])

    def loose_parameters(self) -> dict[str, Tensor]:
        """Parameters that belong to no module: made by the programs with `pyro.param`."""
        owned = {id(p) for module in modules_of(self.pair) for p in module.parameters()}
        return {f"{LOOSE}{i}": p for i, p in enumerate(self.parameters) if id(p) not in owned}

    def swap_average(self) -> None:
        """Exchange the weights with their average; a second call undoes it. Nothing without `ema`."""
        for parameter, average in zip(self.parameters, self.average, strict=False):
            parameter.data, average.data = average.data, parameter.data


def moving_decay(ema: float, steps_done: int) -> float:
    """The average's decay: it starts small, so that the start is forgotten."""
    return min(ema, (1 + steps_done) / (10 + steps_done))


def check_state(state: dict[str, Any], parameters: list[Tensor], config: TrainConfig) -> None:
    """The step is one of the run's, and what the optimizer and the average remember has the parameters' shapes."""
    check_steps(state["steps_done"], config)
    check_moments(state["optimizer"], parameters, state["steps_done"])
    if [p.shape for p in state["average"]] != ([p.shape for p in parameters] if config.ema else []):
        raise ValueError("the average is not of the parameters' shapes")


def check_steps(done: Any, config: TrainConfig) -> None:
    """A number of steps that the run can have done."""
    if type(done) is not int or not 0 <= done <= config.steps:
        raise ValueError(f"steps_done is {done!r}, expected 0 to {config.steps}")


def check_moments(optimizer: dict[str, Any], parameters: list[Tensor], done: int) -> None:
    """Adam's moments have the parameters' shapes.

    torch's fused Adam does not look: a tensor of another shape would make it write outside its memory.
    """
    shapes, moments = [p.shape for p in parameters], optimizer["state"]
    if bool(done) != bool(moments) or not set(moments) <= set(range(len(shapes))):
        raise ValueError("the optimizer remembers other parameters, or nothing")
    for index, moment in moments.items():
        if {moment["exp_avg"].shape, moment["exp_avg_sq"].shape} != {shapes[index]} or moment["step"].numel() != 1:
            raise ValueError(f"the optimizer's state of parameter {index} is not of shape {tuple(shapes[index])}")


def set_mode(pair: Any, *, training: bool) -> None:
    """Training or evaluation mode, for pairs that have one."""
    for module in modules_of(pair):
        if module.training is not training:
            module.train(training)
