"""One factor of an autoregressive density: a network's numbers as the distribution of one pixel's value.

The density scores and the sampler draws by the same object, so that they cannot disagree. Draws are a function of
uniform noise, monotone where the family has an inverse: whoever holds the noise fixed gets the same image again.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import pyro.distributions as dist
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
            return (noise[:, 0] >= off).to(numbers.dtype).add(off, alpha=0)
        if self.name == "categorical":
            logits = cooled(numbers, heat)
            return pick(logits, noise[:, :1])[:, 0].to(numbers.dtype).add(logits.amax(1), alpha=0)
        logits, loc, scale = self.mixture(numbers)
        logits = cooled(logits, heat)
        chosen = pick(logits, noise[:, :1])
        loc, scale = loc.gather(1, chosen)[:, 0].add(logits.amax(1), alpha=0), scale.gather(1, chosen)[:, 0] * heat
        u = noise[:, 1].clamp(torch.finfo(noise.dtype).tiny, 1 - torch.finfo(noise.dtype).eps)
        return (loc + scale * (u.log() - torch.log1p(-u))).round().clamp(0, self.levels - 1)

    def probabilities(self, numbers: Float[Tensor, "b n *shape"]) -> Float[Tensor, "levels b *shape"]:
        """p(x_i = k) of every level k."""
        return self.log_probabilities(numbers).exp()

    def log_probabilities(self, numbers: Float[Tensor, "b n *shape"]) -> Float[Tensor, "levels b *shape"]:
        """log p(x_i = k) of every level k."""
        blank = torch.zeros_like(numbers[:, 0])
        return torch.stack([self.log_prob(numbers, blank + k) for k in range(self.levels)])

    def independent(self, numbers: Float[Tensor, "b n c h w"]) -> dist.Distribution:
        """The factors side by side, as if what each was conditioned on were given: one event per image."""
        if self.name == "bernoulli":
            return dist.Bernoulli(logits=numbers[:, 0]).to_event(3)
        logits = numbers if self.name == "categorical" else self.log_probabilities(numbers).movedim(0, 1)
        return dist.Categorical(logits=logits.movedim(1, -1)).to_event(3)

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
