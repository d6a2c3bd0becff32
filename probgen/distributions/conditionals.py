"""One factor of an autoregressive density: a network's numbers as the distribution of one pixel's value.

The density scores and the sampler draws by the same object, so that they cannot disagree. Draws are a function of
uniform noise, monotone where the family has an inverse: whoever holds the noise fixed gets the same image again.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probgen.distributions.pixels import DiscretizedLogistic
from probgen.errors import UserError

ConditionalName = Literal["bernoulli", "categorical", "logistic-mixture"]
MOST_LISTED = 32  # grey levels up to which the default is one logit for each
SMALLEST_SCALE = 1e-3  # of a logistic, relative to levels / 2
LARGEST_SCALE = 1e6  # likewise: nearly uniform, and its gradients are still finite


@dataclass(frozen=True)
class Conditional:
    """p(x_i | x_<i), a family over the levels 0 … levels − 1, of which a network gives `size` numbers.

    name: `bernoulli` (two levels), `categorical` (a logit each), or `logistic-mixture`: Σ_m π_m times the mass of a
    logistic over the unit bin around each level (Salimans et al. 2017, equation 2), of `mixtures` components.
    """

    name: ConditionalName
    levels: int
    mixtures: int = 10

    def __post_init__(self) -> None:
        if self.name not in get_args(ConditionalName):
            raise UserError(f"conditional={self.name} came, expected one of {', '.join(get_args(ConditionalName))}")
        if self.mixtures < 1:
            raise UserError(f"mixtures={self.mixtures} came, expected 1 or more")
        if self.levels < 2:
            raise UserError(f"levels={self.levels} came, expected 2 or more")
        if self.name == "bernoulli" and self.levels != 2:
            raise UserError(
                f"conditional=bernoulli came with {self.levels} levels, of which it is no distribution: set "
                "conditional=categorical or logistic-mixture, or binarize the data"
            )

    @property
    def size(self) -> int:
        """Numbers that it takes."""
        return {"bernoulli": 1, "categorical": self.levels, "logistic-mixture": 3 * self.mixtures}[self.name]

    @property
    def noise_size(self) -> int:
        """Uniform numbers that a draw takes."""
        return 2 if self.name == "logistic-mixture" else 1

    def log_prob(self, numbers: Float[Tensor, "b n *shape"], value: Float[Tensor, "b *shape"]) -> Tensor:
        """log p(value) in nats, exact, `b *shape`."""
        self.check_size(numbers)
        if self.name == "bernoulli":
            return F.logsigmoid(torch.where(value > 0, numbers[:, 0], -numbers[:, 0]))
        if self.name == "categorical":
            return numbers.log_softmax(1).gather(1, value.long()[:, None])[:, 0]
        logits, loc, scale = self.mixture(numbers)
        components = DiscretizedLogistic(loc, scale, self.levels, validate_args=False)
        return (logits.log_softmax(1) + components.log_prob(value[:, None])).logsumexp(1)

    def draw(
        self, numbers: Float[Tensor, "b n"], noise: Float[Tensor, "b u"], temperature: float = 1.0
    ) -> Float[Tensor, " b"]:
        """The value at which the distribution function passes the noise.

        temperature: divides logits and multiplies scales: 1 draws from the density, less nearer to its peaks.
        Where the numbers are no distribution, because one is nan, the value is nan. No gradient passes through it.
        """
        self.check_size(numbers)
        numbers = numbers.detach()
        heat = min(max(temperature, torch.finfo(numbers.dtype).tiny), torch.finfo(numbers.dtype).max)
        if self.name == "bernoulli":
            off = (-numbers[:, 0] / heat).sigmoid()
            return with_nan_of(off, (noise[:, 0] >= off).to(numbers.dtype))
        if self.name == "categorical":
            logits = cooled(numbers, heat)
            return with_nan_of(logits.amax(1), pick(logits, noise[:, :1])[:, 0].to(numbers.dtype))
        logits, loc, scale = self.mixture(numbers)
        logits = cooled(logits, heat)
        chosen = pick(logits, noise[:, :1])
        loc, scale = with_nan_of(logits.amax(1), loc.gather(1, chosen)[:, 0]), scale.gather(1, chosen)[:, 0] * heat
        u = noise[:, 1].clamp(torch.finfo(noise.dtype).tiny, 1 - torch.finfo(noise.dtype).eps)
        return (loc + scale * (u.log() - torch.log1p(-u))).round().clamp(0, self.levels - 1)

    def probabilities(self, numbers: Float[Tensor, "b n *shape"]) -> Float[Tensor, "levels b *shape"]:
        """p(x_i = k) of every level k."""
        blank = torch.zeros_like(numbers[:, 0])
        return torch.stack([self.log_prob(numbers, blank + k) for k in range(self.levels)]).exp()

    def check_size(self, numbers: Tensor) -> None:
        """Raise UserError where the network gave more or fewer numbers: their masses would not sum to one."""
        if numbers.shape[1] != self.size:
            raise UserError(
                f"n={numbers.shape[1]} numbers for each pixel came, expected n={self.size} of conditional={self.name} "
                f"with {self.levels} levels"
            )

    def mixture(self, numbers: Float[Tensor, "b n *shape"]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (logits), locations and scales, `b m *shape`; these two in grey levels, the network's on [−1, 1]."""
        logits, loc, raw_scale = numbers.chunk(3, 1)
        half = (self.levels - 1) / 2
        scale = F.softplus(raw_scale.clamp_max(LARGEST_SCALE)) + SMALLEST_SCALE
        return logits, (loc + 1) * half, scale * self.levels / 2


def with_nan_of(source: Float[Tensor, " b"], value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The value, but nan where the source is nan: comparing and choosing would hide it."""
    return value.add(source, alpha=0)  # 0 · nan is nan


def cooled(logits: Float[Tensor, "b n"], temperature: float) -> Float[Tensor, "b n"]:
    """Logits divided by the temperature, the largest of them being 0 whatever that is."""
    return logits if temperature == 1 else (logits - logits.amax(1, keepdim=True)) / temperature


def pick(logits: Float[Tensor, "b n"], noise: Float[Tensor, "b 1"]) -> Tensor:
    """The first of n classes at which the cumulated probability exceeds the noise, `b 1`."""
    cumulated = logits.softmax(1).cumsum(1)
    cumulated = cumulated / cumulated[:, -1:]  # rounding may miss 1: then noise near 1 would pick a class without mass
    return (cumulated <= noise).sum(1, keepdim=True).clamp_max(logits.shape[1] - 1)


def choose_conditional(name: ConditionalName | None, levels: int | None, mixtures: int = 10) -> Conditional:
    """The named family, or the data's usual one: a logit for each of few levels, a mixture for many.

    Raises UserError for real-valued data, which have no levels.
    """
    if levels is None:
        raise UserError("real-valued data came, which have no levels: this model is of images, or binarized ones")
    usual: ConditionalName = (
        "bernoulli" if levels == 2 else "categorical" if levels <= MOST_LISTED else "logistic-mixture"
    )
    return Conditional(name or usual, levels, mixtures)
