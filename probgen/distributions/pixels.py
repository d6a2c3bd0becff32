"""Distributions of one pixel whose value is a grey level x in {0, …, levels − 1}.

Location and scale are in grey levels, a grey level is one unit wide, and so every log-probability is in
nats per image once summed, comparable between likelihoods without a correction term.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


class _GreyLevels(TorchDistribution):
    """A location-scale family on the grey levels: what the two distributions below share."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grey levels 0 … levels − 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "_GreyLevels":
        """The same distribution over a larger batch."""
        return type(self)(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels, validate_args=False
        )


class DequantizedNormal(_GreyLevels):
    """E_u[log N(x + u; loc, scale²)], u ~ Uniform[0, 1): a Gaussian scored on uniformly dequantized levels.

    A density on the reals is no probability of whole numbers: it can grow without bound. Spreading each
    level over its unit bin mends that, since by Jensen's inequality

        E_u[log N(x + u)] ≤ log ∫₀¹ N(x + u) du = log P(x)          (Theis et al. 2016, equation 3)

    so that `log_prob` is a *lower bound* on a log-probability of the level. The noise u is integrated out in
    closed form: the variance of a unit bin is 1/12, hence

        E_u[log N(x + u; loc, scale²)] = log N(x + ½; loc, scale²) − 1 / (24 scale²).
    """

    is_bound = True  # exp(log_prob) sums to less than one: what is drawn is not quite what is scored

    def log_prob(self, value: Tensor) -> Tensor:
        """The expected log-density of x + u in nats, of the batch's shape."""
        if self._validate_args:
            self._validate_sample(value)
        residual = (value + 0.5 - self.loc) / self.scale
        return -0.5 * residual**2 - 1 / (24 * self.scale**2) - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a real number and give the level of its bin; the outermost levels take the tails."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            real = torch.normal(self.loc.expand(shape), self.scale.expand(shape))
            return real.floor().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The level whose bin is centred on the Gaussian's mean (not rounded)."""
        return self.loc - 0.5


class DiscretizedLogistic(_GreyLevels):
    """P(x) = σ((x + ½ − loc) / scale) − σ((x − ½ − loc) / scale), the mass of a logistic over each unit bin.

    The lowest level takes all that lies below it and the highest all that lies above, so that the masses
    sum to one (Salimans et al. 2017, equation 2; there on [−1, 1], where half a bin is 1/255).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(x) in nats, exact, of the batch's shape.

        With b and a the two arguments, σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{a − b}), and b − a = 1 / scale: no
        difference of nearly equal numbers is taken, however far x lies from loc.
        """
        if self._validate_args:
            self._validate_sample(value)
        above = F.logsigmoid((value + 0.5 - self.loc) / self.scale)
        below = F.logsigmoid(-(value - 0.5 - self.loc) / self.scale)
        width = torch.log(-torch.expm1(-1 / self.scale))
        inside = above + below + width
        return torch.where(value == 0, above, torch.where(value == self.levels - 1, below, inside))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the logistic by inversion, round to the nearest level, clamp into the range."""
        with torch.no_grad():
            tiny = torch.finfo(self.loc.dtype).tiny
            u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device)
            u = u.clamp(tiny, 1 - torch.finfo(self.loc.dtype).eps)
            return (self.loc + self.scale * (u.log() - torch.log1p(-u))).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The logistic's location, kept inside the range: what a reconstruction shows."""
        return self.loc.clamp(0, self.levels - 1)
