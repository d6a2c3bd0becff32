"""What the two players of an adversarial game lower, all in terms of the discriminator's logits.

    minimax          V(D, G) = E log D(x) + E log(1 − D(G(z)))        generator: E log(1 − D(G(z)))
    non-saturating   the same                                         generator: −E log D(G(z))
    least-squares    V(D, G) = −½ E (D(x) − 1)² − ½ E D(G(z))²        generator: ½ E (D(G(z)) − 1)²
    hinge            V(D, G) = E min(0, D(x) − 1) + E min(0, −1 − D(G(z)))   generator: −E D(G(z))
    wasserstein      V(D, G) = E D(x) − E D(G(z))                     generator: −E D(G(z))
    relativistic     V(D, G) = E log σ(D(x) − D(G(z)))                generator: −E log σ(D(G(z)) − D(x))

In the first two D = σ(logit), the probability that an image is real; in the others D is the logit itself. The
discriminator raises V, that is, it lowers −V, but for label smoothing. All numbers are nats where there is a logarithm.
"""

import difflib
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from probgen.errors import UserError


@runtime_checkable
class Loss(Protocol):
    """A game: what each of its players lowers, given one logit for each real and each generated image (or pack).

    name: as in `LOSSES`. needs_real: whether the generator's loss depends on real images.
    is_probability: whether σ(logit) is the probability of being real.
    """

    name: ClassVar[str]
    needs_real: ClassVar[bool]
    is_probability: ClassVar[bool]

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """V(D, G), which the discriminator raises."""

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """The loss that the discriminator lowers: −V, with smoothed labels where asked for."""

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """The loss that the generator lowers; `real` is looked at only where `needs_real`."""


@dataclass(frozen=True)
class Minimax:
    """V(D, G) = E log D(x) + E log(1 − D(G(z))), which the discriminator raises and the generator lowers.

    The generator's part of it, E log(1 − D(G(z))), is flat where the discriminator is sure: it saturates.

    smoothing: real images count as real with probability 1 − smoothing only (Salimans et al. 2016, section 3.4).
    Source: Goodfellow et al. 2014, equation 1.
    """

    smoothing: float = 0.0

    name: ClassVar[str] = "minimax"
    needs_real: ClassVar[bool] = False
    is_probability: ClassVar[bool] = True

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E log D(x) + E log(1 − D(G(z))), at most 0; −log 4 where D = ½ everywhere."""
        return logsigmoid(real).mean() + logsigmoid(-fake).mean()

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """−E[(1 − s) log D(x) + s log(1 − D(x))] − E log(1 − D(G(z))), s the smoothing."""
        labelled = (1 - self.smoothing) * logsigmoid(real) + self.smoothing * logsigmoid(-real)
        return -labelled.mean() - logsigmoid(-fake).mean()

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """E log(1 − D(G(z))): its derivative in a logit is −D(G(z))."""
        return logsigmoid(-fake).mean()


@dataclass(frozen=True)
class NonSaturating(Minimax):
    """V(D, G) = E log D(x) + E log(1 − D(G(z))) for the discriminator; the generator lowers −E log D(G(z)).

    Both generators stand still at the same place, but this one's gradient is largest where the discriminator is sure.

    Source: Goodfellow et al. 2014, section 3.
    """

    name: ClassVar[str] = "non-saturating"

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """−E log D(G(z)): its derivative in a logit is −(1 − D(G(z)))."""
        return -logsigmoid(fake).mean()


@dataclass(frozen=True)
class LeastSquares:
    """V(D, G) = −½ E (D(x) − 1)² − ½ E D(G(z))²: a regression onto 1 for real and 0 for generated images.

    smoothing: the target for real images is 1 − smoothing.
    Source: Mao et al. 2017 (arXiv 1611.04076), equation 2 with a = 0, b = c = 1.
    """

    smoothing: float = 0.0

    name: ClassVar[str] = "least-squares"
    needs_real: ClassVar[bool] = False
    is_probability: ClassVar[bool] = False

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """−½ E (D(x) − 1)² − ½ E D(G(z))², at most 0; −¼ where D = ½ everywhere."""
        return -((real - 1).square().mean() + fake.square().mean()) / 2

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """½ E (D(x) − 1 + s)² + ½ E D(G(z))², s the smoothing."""
        return ((real - (1 - self.smoothing)).square().mean() + fake.square().mean()) / 2

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """½ E (D(G(z)) − 1)²."""
        return (fake - 1).square().mean() / 2


@dataclass(frozen=True)
class Hinge:
    """V(D, G) = E min(0, D(x) − 1) + E min(0, −1 − D(G(z))): images beyond the margin no longer count.

    Source: Lim and Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (arXiv 1802.05957), equations 16 and 17.
    """

    name: ClassVar[str] = "hinge"
    needs_real: ClassVar[bool] = False
    is_probability: ClassVar[bool] = False

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E min(0, D(x) − 1) + E min(0, −1 − D(G(z))), at most 0; −2 where D = 0 everywhere."""
        return -(1 - real).relu().mean() - (1 + fake).relu().mean()

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))."""
        return -self.value(real, fake)

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """−E D(G(z))."""
        return -fake.mean()


@dataclass(frozen=True)
class Wasserstein:
    """V(D, G) = E D(x) − E D(G(z)): the Wasserstein-1 distance, where D is the best of slope 1 or less.

    Nothing here holds the slope: that is the gradient penalty's part.

    Source: Arjovsky et al. 2017 (arXiv 1701.07875), equation 2; the penalty's weight, Gulrajani et al. 2017.
    """

    name: ClassVar[str] = "wasserstein"
    needs_real: ClassVar[bool] = False
    is_probability: ClassVar[bool] = False

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E D(x) − E D(G(z)), in the unit of the images; 0 where D is constant."""
        return real.mean() - fake.mean()

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E D(G(z)) − E D(x)."""
        return -self.value(real, fake)

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """−E D(G(z))."""
        return -fake.mean()


@dataclass(frozen=True)
class Relativistic:
    """V(D, G) = E log σ(D(x) − D(G(z))): which of two images, the i-th real and the i-th generated, is the real one.

    Source: Jolicoeur-Martineau 2019 (arXiv 1807.00734); with R1 and R2, Huang et al. 2024 (arXiv 2501.05441).
    """

    name: ClassVar[str] = "relativistic"
    needs_real: ClassVar[bool] = True
    is_probability: ClassVar[bool] = False

    def value(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """E log σ(D(x) − D(G(z))), at most 0; −log 2 where D is constant."""
        return logsigmoid(real - fake).mean()

    def discriminator(self, real: Float[Tensor, " b"], fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """−E log σ(D(x) − D(G(z)))."""
        return -self.value(real, fake)

    def generator(self, fake: Float[Tensor, " b"], real: Float[Tensor, " b"] | None = None) -> Float[Tensor, ""]:
        """−E log σ(D(G(z)) − D(x))."""
        if real is None:
            raise UserError(f"no logits of real images came, expected them: the loss {self.name!r} compares in pairs")
        return -logsigmoid(fake - real).mean()


LOSSES: dict[str, type] = {
    loss.name: loss for loss in (Minimax, NonSaturating, LeastSquares, Hinge, Wasserstein, Relativistic)
}


def make_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of a name.

    Raises UserError for an unknown name, smoothing outside [0, ½), or smoothing where there are no labels.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown loss {name!r}: {hint}expected one of {', '.join(LOSSES)}")
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"label_smoothing={label_smoothing:g} came, expected 0 or more and less than 0.5")
    loss: Loss
    if fields(LOSSES[name]):
        loss = LOSSES[name](smoothing=label_smoothing)
    elif label_smoothing == 0:
        loss = LOSSES[name]()
    else:
        smoothed = [other for other, kind in LOSSES.items() if fields(kind)]
        raise UserError(
            f"label_smoothing={label_smoothing:g} came with the loss {name!r}, which has no labels: "
            f"expected 0, or one of {', '.join(smoothed)}"
        )
    return loss
