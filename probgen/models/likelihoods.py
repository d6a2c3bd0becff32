"""p(x | z) as a decoder's output: which numbers per pixel become which distribution.

Each likelihood says how many numbers per pixel it wants from the decoder (`channels`), and turns them,
`*b channels *image`, into one distribution over images with a batch shape of `*b`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.distributions import DequantizedNormal, DiscretizedLogistic
from probgen.errors import UserError

LikelihoodName = Literal["bernoulli", "gaussian", "categorical", "discretized-logistic"]
Parameters = Float[Tensor, "*shape"]  # *b channels *image; jaxtyping allows only one variadic axis

SMALLEST_START = 0.05  # of the data's half range: the scale that a constant pixel starts with
SMALLEST_SCALE = 1e-3  # of the data's half range: keeps a density on real data from growing without bound


@dataclass(frozen=True)
class Likelihood:
    """How decoder outputs become p(x | z) for images with `image_dims` axes and `levels` grey levels."""

    name: LikelihoodName
    levels: int | None
    image_dims: int

    @property
    def channels(self) -> int:
        """Numbers per pixel that the decoder must give."""
        if self.name == "categorical":
            assert self.levels is not None
            return self.levels
        return 1 if self.name == "bernoulli" else 2

    def __call__(self, parameters: Parameters) -> dist.Distribution:
        """p(x | z), one event per image."""
        return BUILDERS[self.name](self, parameters).to_event(self.image_dims)

    def marginal(self, images: Shaped[Tensor, "n *image"]) -> Float[Tensor, "channels *image"]:
        """The decoder's output under which each pixel by itself has its distribution in the data (about)."""
        x = images.to(torch.get_default_dtype())
        if self.name == "bernoulli":
            return ((x.sum(0) + 1) / (len(x) + 2)).logit()[None]
        if self.name == "categorical":
            counts = torch.stack([(images == level).sum(0) for level in range(self.levels or 0)])
            return ((counts + 1) / (len(x) + (self.levels or 0))).log()
        half = 1.0 if self.levels is None else (self.levels - 1) / 2
        centre = 0.0 if self.levels is None else half
        scale = (x.std(0, unbiased=False) / half).clamp_min(SMALLEST_START)
        return torch.stack([(x.mean(0) - centre) / half, scale.expm1().log()])  # the inverse of softplus

    def location_and_scale(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The decoder's two numbers per pixel as μ and σ > 0, in grey levels (in the data's unit if real).

        The network works on [−1, 1]; there `levels` bins of one grey level each span a range of 2.
        """
        loc, raw_scale = parameters.unbind(-self.image_dims - 1)
        scale = F.softplus(raw_scale) + SMALLEST_SCALE
        if self.levels is None:
            return loc, scale
        return (loc + 1) / 2 * (self.levels - 1), scale * self.levels / 2


def bernoulli(likelihood: Likelihood, parameters: Parameters) -> dist.Distribution:
    """P(x = 1) = σ(logit)."""
    return dist.Bernoulli(logits=parameters.squeeze(-likelihood.image_dims - 1))


def gaussian(likelihood: Likelihood, parameters: Parameters) -> dist.Distribution:
    """N(μ, σ²), μ and σ both from the decoder; grey levels are uniformly dequantized, with the noise's mean taken.

    On levels, bins are [x, x + 1): μ + ½ is where the decoder's μ sits.
    """
    loc, scale = likelihood.location_and_scale(parameters)
    if likelihood.levels is None:
        return dist.Normal(loc, scale)
    return DequantizedNormal(loc + 0.5, scale, likelihood.levels)


def categorical(likelihood: Likelihood, parameters: Parameters) -> dist.Distribution:
    """One logit for each grey level of each pixel."""
    return dist.Categorical(logits=parameters.movedim(-likelihood.image_dims - 1, -1))


def discretized_logistic(likelihood: Likelihood, parameters: Parameters) -> dist.Distribution:
    """A logistic's mass over each grey level."""
    assert likelihood.levels is not None
    return DiscretizedLogistic(*likelihood.location_and_scale(parameters), likelihood.levels)


BUILDERS: dict[str, Callable[[Likelihood, Tensor], dist.Distribution]] = {
    "bernoulli": bernoulli,
    "gaussian": gaussian,
    "categorical": categorical,
    "discretized-logistic": discretized_logistic,
}


def choose_likelihood(name: LikelihoodName | None, levels: int | None) -> LikelihoodName:
    """The named likelihood if it is one for these data, the data's usual one for None.

    Raises UserError where the name would give no likelihood: Bernoulli on grey levels, levels on real data.
    """
    if name is None:
        return "gaussian" if levels is None else "bernoulli" if levels == 2 else "discretized-logistic"
    if levels is None and name != "gaussian":
        raise UserError(f"likelihood={name} came with real-valued data, which have no levels: set likelihood=gaussian")
    if name == "bernoulli" and levels != 2:
        raise UserError(
            f"likelihood=bernoulli came with images of {levels} grey levels, of which it is no likelihood: "
            "binarize them (--binarize dynamic), or set likelihood=discretized-logistic, categorical or gaussian"
        )
    return name
