"""What a sampler made: x = G(z), as a distribution that can be drawn from and never scored."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Shaped
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class Implicit(TorchDistribution):
    """x = G(z), given z: one point, reached by a deterministic map (Mohamed and Lakshminarayanan 2016).

    Given z nothing is random; the law of x over all z is a pushforward, with no density that could be computed: G
    is not invertible, and its image may be thin.

    value: `*b *event`, differentiable in G's parameters. event_dim: number of dimensions of one x. why: the
        sentence with which `log_prob` is refused.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    has_rsample = True

    def __init__(self, value: Shaped[Tensor, "*b_event"], event_dim: int, why: str) -> None:
        self.value, self.why = value, why
        cut = value.dim() - event_dim
        super().__init__(value.shape[:cut], value.shape[cut:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Implicit":
        """The same points over a larger batch."""
        value = self.value.expand(*batch_shape, *self.event_shape)
        return Implicit(value, len(self.event_shape), self.why)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Shaped[Tensor, "*b_event"]:
        """x itself, as often as asked."""
        return self.value.expand(*torch.Size(sample_shape), *self.value.shape)

    def log_prob(self, value: Tensor) -> NoReturn:
        """Raises TypeError: there is no density."""
        raise TypeError(self.why)
