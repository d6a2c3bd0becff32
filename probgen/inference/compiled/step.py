"""Loss, terms and gradients of one training step: by Pyro, or by the same pair recorded once and compiled.

    (parameters, x) ↦ −ELBO / B and its gradient in the parameters

Both give the same numbers for the same state of torch's generator, up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.inference.adam import all_laid_out
from probgen.inference.compiled.function import Recorded, Results, gradients
from probgen.inference.compiled.recording import NotStaticError
from probgen.inference.objective import StepTerms, has_marks, static_objective, step_objective
from probgen.inference.traces import as_real


class EagerStep:
    """Pyro runs the pair at every step; images may come as they are stored."""

    def __init__(self, pair: Any, parameters: Sequence[Tensor]) -> None:
        self.parameters, self.objective = parameters, step_objective(pair)

    def __call__(self, x: Tensor, *labels: Tensor) -> StepTerms:
        """The batch's loss, terms and gradients; the parameters' `grad` is empty afterwards."""
        for parameter in self.parameters:
            parameter.grad = None
        with pyro.validation_enabled(False):
            step = self.objective(as_real(x), *labels)
        step.loss.backward()
        step.gradients = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return step


class CompiledStep:
    """Records the pair at the first batch of a shape and mode; afterwards neither Pyro nor autograd runs.

    pair, parameters: as of `EagerStep`; a pair with the attribute `training_step` finds a tensor there while it is
    recorded, the step's number.
    machine_code: whether to compile what is recorded; else torch takes one operation after the other.

    Raises NotStaticError, with the reason, at the first batch of a pair that cannot be recorded or compiled, or whose
    recording gives another loss or gradient than Pyro.
    """

    def __init__(self, pair: Any, parameters: Sequence[Tensor], *, machine_code: bool = True) -> None:
        self.pair, self.parameters, self.names = pair, list(parameters), list[str]()
        self.eager = EagerStep(pair, parameters)
        self.counts = hasattr(pair, "training_step")
        self.count = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        self.recorded = Recorded(pair, parameters, self.gradient, self.pyros, machine_code=machine_code)

    def __call__(self, *batch: Tensor) -> StepTerms:
        """The batch's loss, terms and gradients."""
        if not self.recorded.recordings:
            (enumerates,) = self.recorded.trial([batch[0][:2]], lambda x: [has_marks(self.pair, as_real(x))])
            if enumerates:
                raise NotStaticError("it sums over the values of discrete sites (enumeration)")
        loss, *rest = self.recorded(*self.number(), *batch)
        found, terms = rest[: len(self.parameters)], rest[len(self.parameters) :]
        return StepTerms(
            loss, dict(zip(self.names, terms, strict=True)), gradients=all_laid_out(found, self.parameters)
        )

    def number(self) -> list[Tensor]:
        """The step's number where the pair asks for it: in float64, exact up to 2^53."""
        if not self.counts:
            return []
        return [self.count.fill_(self.pair.training_step)]

    def still_pyros(self, *batch: Tensor) -> tuple[bool, bool]:
        """Whether Pyro would still give the same loss; and the same gradient. Nothing is left behind."""
        return self.recorded.still_agrees(*self.number(), *batch)

    def gradient(self, parameters: Sequence[Tensor], *inputs: Tensor) -> Results:
        """Loss, gradients and terms, by operations on tensors alone."""
        x, *labels = inputs[self.counts :]
        number = self.pair.training_step if self.counts else None
        try:
            if self.counts:
                self.pair.training_step = inputs[0]
            step = static_objective(self.pair)(as_real(x), *labels)
        finally:
            if self.counts:
                self.pair.training_step = number
        self.names = list(step.terms)
        return [step.loss, *gradients(step.loss, parameters), *step.terms.values()]

    def pyros(self, *inputs: Tensor) -> Results:
        """The same by Pyro."""
        step = self.eager(*inputs[self.counts :])
        return [step.loss.detach(), *step.gradients, *step.terms.values()]
