"""Training on one's own draws: what a recurrent model is conditioned on, the data or its own predictions.

    teacher forcing    log p(x) = Σ_i log p(x_i | x_1 … x_{i−1})              maximum likelihood
    student forcing    Σ_i log p(x_i | r_1 … r_{i−1}),  r_j = x_j, or with probability ε the model's own draw

The second (scheduled sampling, Bengio et al. 2015) shows the model in training what it meets when it samples. It is
no longer the logarithm of a density of x: with ε = 1 its best answer for x_i ignores the pixels before it (Huszár
2015), and so it is only a training objective; likelihoods are always those of teacher forcing.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from probgen.distributions.conditionals import Conditional, pick
from probgen.distributions.factored import check_levels
from probgen.distributions.sequences import FactoredSequence


class GivenConditions(TorchDistribution):
    """Π_i p(x_i | numbers_i): the factors side by side, their conditions already taken from somewhere, `b n *image`."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self, numbers: Float[Tensor, "b n *image"], conditional: Conditional, validate_args: bool | None = None
    ) -> None:
        self.numbers, self.conditional = numbers, conditional
        super().__init__(numbers.shape[:1], numbers.shape[2:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels at every place."""
        levels = constraints.integer_interval(0, self.conditional.levels - 1)
        return constraints.independent(levels, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "GivenConditions":
        """The same distribution: it has one entry for each image already."""
        assert tuple(batch_shape) == tuple(self.batch_shape)
        return self

    def log_prob(self, value: Float[Tensor, "b *image"]) -> Float[Tensor, " b"]:
        """Σ_i log p(x_i | numbers_i) in nats; raises UserError for values that are no levels."""
        if self._validate_args:
            check_levels(value, self.conditional.levels)
        return self.conditional.log_prob(self.numbers, value).flatten(1).sum(1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "b *image"]:
        """One value for each place, each by itself."""
        assert not tuple(sample_shape)
        places = self.numbers.flatten(2).movedim(2, 1).flatten(0, 1)
        noise = torch.rand(len(places), self.conditional.noise_size).to(places)
        return self.conditional.draw(places, noise).reshape(*self.batch_shape, *self.event_shape)


def student_forced(
    numbers: Callable[[Float[Tensor, "b *image"]], Float[Tensor, "b n *image"]],
    conditional: Conditional,
    x: Float[Tensor, "b *image"],
    share: float,
) -> GivenConditions:
    """The factors p(x_i | r_<i), where a `share` of r is drawn by the model itself and the rest is x.

    numbers: of every conditional, given an image in grey levels. The draws are r_j ~ p(x_j | x_<j), all at once in one
    pass, instead of one after the other (parallel scheduled sampling, Duckworth et al. 2019); no gradient passes
    through them.
    """
    with torch.no_grad():
        drawn = GivenConditions(numbers(x), conditional).sample()
        mixed = torch.where(torch.rand_like(x) < share, drawn, x)
    return GivenConditions(numbers(mixed), conditional)


class StudentForcedSequence(FactoredSequence):
    """Σ_i log p(w_i | r_<i), r_j = w_j, or with probability `share` the model's own draw: scheduled sampling.

    A training objective (Bengio et al. 2015), in which the model meets its own mistakes as it will when it samples. It
    is no log-density of S: with share = 1 its best answer for w_i ignores the words before it (Huszár 2015).
    The draws are r_j ~ p(w_j | w_<j), all at once in one pass, instead of one after the other (Duckworth et al. 2019);
    no gradient passes through them. A drawn end leaves w_j in place: nothing is ever drawn after an end.
    """

    def __init__(self, *arguments: Any, share: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.share = share

    @torch.no_grad()
    def seen(self, tokens: Int64[Tensor, "b t"], context: Tensor | None) -> Int64[Tensor, "b t"]:
        """The data with a share of the model's own draws."""
        logits = self.network(tokens, context)
        noise = torch.rand_like(logits[..., 0])
        drawn = pick(logits.flatten(0, 1), noise.reshape(-1, 1)).reshape(tokens.shape)
        swapped = torch.rand_like(noise) < self.share
        if self.end is not None:
            swapped &= drawn != self.end
        return torch.where(swapped, drawn, tokens)
