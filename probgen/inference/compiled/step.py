"""Loss, terms and gradients of one training step: by Pyro, or by the same pair recorded once and compiled.

    (parameters, x) ↦ −ELBO / B and its gradient in the parameters

Both give the same numbers for the same state of torch's generator, up to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.inference.compiled.backend import compiled
from probgen.inference.compiled.lifting import Lifted
from probgen.inference.compiled.recording import NotStaticError, Step, interpreted, record, watched
from probgen.inference.objective import StepTerms, has_marks, static_objective, step_objective

TOLERANCE = 1e-3  # of a float32 sum over some thousand pixels, taken in another order


class EagerStep:
    """Pyro runs the pair at every step."""

    def __init__(self, pair: Any, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.objective = parameters, step_objective(pair)

    def __call__(self, x: Tensor, *labels: Tensor) -> StepTerms:
        """The batch's loss and terms; leaves the gradient in the parameters' `grad`."""
        for parameter in self.parameters:
            parameter.grad = None
        with pyro.validation_enabled(False):
            step = self.objective(x, *labels)
        step.loss.backward()
        return step


class CompiledStep:
    """Records the pair at the first batch of a shape and mode; afterwards neither Pyro nor autograd runs.

    pair, parameters: as of `EagerStep`; a pair with the attribute `training_step` is given the step's number there.
    machine_code: whether to compile what is recorded; else torch takes one operation after the other.

    Raises NotStaticError, with the reason, at the first batch of a pair that cannot be recorded or compiled, or whose
    recording gives another loss or gradient than Pyro.
    """

    def __init__(self, pair: Any, parameters: Sequence[Tensor], *, machine_code: bool = True) -> None:
        self.pair, self.parameters, self.machine_code = pair, list(parameters), machine_code
        self.lifted = Lifted(pair, parameters)
        self.eager = EagerStep(pair, parameters)
        self.counts = hasattr(pair, "training_step")
        self.recorded: dict[Any, tuple[Step, Layout]] = {}

    def __call__(self, *batch: Tensor) -> StepTerms:
        """The batch's loss and terms; leaves the gradient in the parameters' `grad`."""
        key = (getattr(self.pair, "training", None), *((part.shape, part.dtype, part.device) for part in batch))
        if key not in self.recorded:
            self.recorded[key] = self.prepare(batch)
        run, layout = self.recorded[key]
        return layout.unpack(run(*self.inputs(batch)), self.parameters)

    def inputs(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """All that the step depends on: the pair's tensors, the batch, the step's number where the pair asks for it."""
        number = [torch.tensor(float(self.pair.training_step), dtype=torch.float64)] if self.counts else []
        return [*(tensor.detach() for tensor in self.lifted.tensors), *batch, *number]

    def prepare(self, batch: Sequence[Tensor]) -> "tuple[Step, Layout]":
        """Record, compare with Pyro, compile."""
        if has_marks(self.pair, batch[0][:2]):
            raise NotStaticError("it sums over the values of discrete sites (enumeration)")
        layout, inputs = Layout(), self.inputs(batch)
        with pyro.validation_enabled(False):
            graph = record(lambda *tensors: self.gradient(layout, len(batch), *tensors), inputs)
        self.compare(interpreted(graph), layout, batch)
        return (compiled(graph, inputs) if self.machine_code else interpreted(graph)), layout

    def gradient(self, layout: "Layout", batch_length: int, *inputs: Tensor) -> list[Tensor]:
        """The step as a function of `inputs`: the loss, its terms, and its gradient in the parameters."""
        held, rest = inputs[: len(self.lifted.tensors)], inputs[len(self.lifted.tensors) :]
        leaves = [tensor.detach().requires_grad_() for tensor in held[: len(self.parameters)]]
        x, *labels = rest[:batch_length]
        number = self.pair.training_step if self.counts else None
        with torch.enable_grad(), self.lifted.replaced([*leaves, *held[len(leaves) :]]):
            if self.counts:
                self.pair.training_step = rest[-1]
            try:
                step = static_objective(self.pair)(x, *labels)
            finally:
                if self.counts:
                    self.pair.training_step = number
            gradients = torch.autograd.grad(step.loss, leaves, allow_unused=True)
        return layout.pack(step, gradients)

    def compare(self, run: Step, layout: "Layout", batch: Sequence[Tensor]) -> None:
        """Raise NotStaticError where the recording and Pyro differ, or Pyro's run changes more than tensors."""
        pyros = [self.results(lambda: self.eager(*batch)) for _ in range(2)]
        ours = self.results(lambda: layout.unpack(run(*self.inputs(batch)), self.parameters))
        for other in (pyros[1], ours):
            if not all(close(a, b) for a, b in zip(pyros[0], other, strict=True)):
                raise NotStaticError(
                    "its loss or gradient depends on more than the batch, torch's generator and the tensors that its "
                    "modules hold: on something in Python that changes"
                )

    def results(self, run: Callable[[], StepTerms]) -> list[Tensor | None]:
        """Loss and gradients of a run that leaves nothing behind."""
        state = [tensor.detach().clone() for tensor in self.lifted.tensors]
        with torch.random.fork_rng(), watched(self.lifted):
            loss = run().loss
        with torch.no_grad():
            for tensor, before in zip(self.lifted.tensors, state, strict=True):
                tensor.copy_(before)
        return [loss, *(p.grad for p in self.parameters)]


class Layout:
    """Where in a recording's results the loss, the terms and the gradients are."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.constants: dict[str, Any] = {}
        self.has_gradient: list[bool] = []

    def pack(self, step: StepTerms, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """A step's numbers in a row."""
        tensors = {name: term for name, term in step.terms.items() if isinstance(term, Tensor)}
        self.names = list(tensors)
        self.constants = {name: term for name, term in step.terms.items() if name not in tensors}
        self.has_gradient = [gradient is not None for gradient in gradients]
        return [t.detach() for t in (step.loss, *tensors.values(), *gradients) if t is not None]

    def unpack(self, results: Sequence[Tensor], parameters: Sequence[Tensor]) -> StepTerms:
        """The loss and terms; the gradients go to the parameters."""
        loss, *rest = results
        terms = dict(zip(self.names, rest, strict=False))
        gradients = iter(rest[len(self.names) :])
        for parameter, has_gradient in zip(parameters, self.has_gradient, strict=True):
            parameter.grad = next(gradients) if has_gradient else None
        return StepTerms(loss, terms | self.constants)


def close(a: Tensor | None, b: Tensor | None) -> bool:
    """The same tensor up to rounding; nan where the other is, too. No gradient is one of zeros."""
    if a is None or b is None:
        return a is b or not bool((a if b is None else b).any())  # type: ignore[union-attr]
    a, b = a.detach().double(), b.detach().double()
    broken = ~(a.isfinite() & b.isfinite())
    if not torch.equal(a[broken].nan_to_num(), b[broken].nan_to_num()):
        return False
    a, b = a[~broken], b[~broken]
    return bool((a - b).norm() <= TOLERANCE * (a.norm() + b.norm()) + 1e-12)
