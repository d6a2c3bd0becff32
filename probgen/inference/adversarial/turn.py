"""A player's turn recorded once and compiled: the loss, its gradient in the player's parameters, what is reported."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probgen.inference.compiled.function import Recorded, Results, gradients

Update = Callable[[str, Tensor, Tensor, Tensor], Tensor]  # player, loss, generated images, their logits ↦ gradient norm


class RecordedTurn:
    """`step` of a trainer (its `discriminator_step` or `generator_step`) up to the gradient, without its Python.

    trainer: with a `pair` and a scale of instance `noise`. parameters: the player's own.

    Raises NotStaticError, with the reason, at the first batch of a turn that cannot be recorded.
    """

    def __init__(self, trainer: Any, step: Callable[..., dict[str, Any]], parameters: Sequence[Tensor]) -> None:
        self.trainer, self.step, self.parameters, self.names = trainer, step, list(parameters), list[str]()
        self.recorded = Recorded(trainer.pair, parameters, self.results, self.eagerly)

    def __call__(self, noise: float | Tensor, *batch: Tensor) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """The gradient in each parameter, and the turn's terms."""
        results = self.recorded(torch.as_tensor(noise, dtype=torch.float64, device=self.parameters[0].device), *batch)
        found, terms = results[: len(self.parameters)], results[len(self.parameters) :]
        return found, dict(zip(self.names, terms, strict=True))

    def results(self, parameters: Sequence[Tensor], noise: Tensor, *batch: Tensor) -> Results:
        """Gradients and terms, with the loss's gradient taken in `parameters` and nothing moved."""
        found: list[Tensor | None] = []

        def note(_name: str, loss: Tensor, _fake: Tensor, _on_fake: Tensor) -> Tensor:
            found.extend(gradients(loss, parameters))
            return nn.utils.get_total_norm([gradient for gradient in found if gradient is not None])

        before, self.trainer.noise = self.trainer.noise, noise
        try:
            terms = self.step(*batch, update=note)
        finally:
            self.trainer.noise = before
        self.names = list(terms)
        return [*found, *terms.values()]

    def eagerly(self, *inputs: Tensor) -> Results:
        """The same without recording."""
        return self.results(self.parameters, *inputs)
