"""What a model is: the taxonomy of generative models, as types.

    tractable density        log p(x) is exact                 the guide is empty, so SVI is maximum likelihood
    latent-variable density  log p(x) = log ∫ p(x, z) dz       a guide q(z | x) bounds it from below
    implicit                 x = G(z), no density              samples only
    no density               a reconstruction, no probability  neither samples nor a likelihood

A model is any object with `model(x)` and `guide(x)`, two Pyro programs; an implicit one has `model(num)`, a
generator and a discriminator (see `ImplicitSampler`). Images x have shape b c h w and hold
whole numbers 0 … levels − 1; two-dimensional toys have shape b 2 and hold reals.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor


class Kind(StrEnum):
    """What a model can say about log p(x)."""

    TRACTABLE = "tractable density"
    LATENT = "latent-variable density"
    IMPLICIT = "implicit"
    NONE = "no density"


@runtime_checkable
class Pair(Protocol):
    """A Pyro model p(x, z) and its guide q(z | x): the least that training and evaluation ask for."""

    def model(self, x: Tensor) -> Any:
        """Score x: `pyro.sample` the latent sites, then the observed ones with `obs=x`."""

    def guide(self, x: Tensor) -> Any:
        """Propose a value for each latent site of the model; empty when there is none."""


@runtime_checkable
class TractableDensity(Pair, Protocol):
    """A pair whose evidence is known: `log_prob(x)` is log p(x) in nats, one number per image."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, exact, shape b."""


@runtime_checkable
class Initializable(Protocol):
    """A pair that wants to see data before its first training step."""

    def initialize(self, images: Tensor) -> None:
        """Set parameters from (some of) the training images, unless they have learned already."""


@dataclass(frozen=True)
class Objective:
    """How a pair asks to be trained; a pair without an `objective` gets these defaults.

    bound: `elbo`, or `iwae`: log (1/K) Σ_k p(x, z_k) / q(z_k | x), with K = num_particles per image
        (Burda et al. 2016, equation 8).
    kl: the KL term of the ELBO, `closed-form` where Pyro knows it, or `sampled`.
    num_particles: draws of z per image and step.
    """

    bound: Literal["elbo", "iwae"] = "elbo"
    kl: Literal["closed-form", "sampled"] = "sampled"
    num_particles: int = 1


LossName = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"]
RegularizerName = Literal["none", "r1", "r2", "r1+r2", "gradient-penalty"]

USUAL_REGULARIZER: dict[LossName, tuple[RegularizerName, float]] = {  # and its weight γ, where a loss is known for one
    "wasserstein": ("gradient-penalty", 10.0),  # Gulrajani et al. 2017, section 4
    "relativistic": ("r1+r2", 0.1),  # Huang et al. 2024; their γ is 0.05 to 150, by the size of the images
}


@dataclass(frozen=True)
class AdversarialObjective:
    """How the two players of an implicit model are trained.

    loss: both players' losses, by their name in `probgen.inference.adversarial.losses`.
    regularizer: what keeps the discriminator's gradient small: `r1` at real, `r2` at generated images, both, or
        the `gradient-penalty` between them. gamma: its weight.
    discriminator_steps: updates of the discriminator for each of the generator.
    discriminator_lr: the discriminator's learning rate as a multiple of the generator's (Heusel et al. 2017).
    beta1, beta2: Adam's decay rates, for both.
    label_smoothing: real images count as real with probability 1 − label_smoothing only (Salimans et al. 2016).
    instance_noise: standard deviation of noise on real and generated images, falling linearly to 0 over the run
        (Sønderby et al. 2017). Unit: of what the discriminator sees, images in [−1, 1] or points.
    packing: images that the discriminator judges at once (Lin et al. 2018).
    """

    loss: LossName = "non-saturating"
    regularizer: RegularizerName = "none"
    gamma: float = 0.0
    discriminator_steps: int = 1
    discriminator_lr: float = 1.0
    beta1: float = 0.5
    beta2: float = 0.999
    label_smoothing: float = 0.0
    instance_noise: float = 0.0
    packing: int = 1


@runtime_checkable
class ImplicitSampler(Protocol):
    """A generator and the discriminator that teaches it: x = G(z), z ~ p(z), and no density of x.

    generator, discriminator: the two players, modules of their own parameters, which share none. objective: how they
        play.
    """

    generator: Any
    discriminator: Any
    objective: AdversarialObjective

    def model(self, num: int, y: Tensor | None = None) -> Tensor:
        """A Pyro program with sites z and x; gives x, `num` images.

        Differentiable in the generator's parameters. y: labels, for a sampler with classes; drawn without them.
        """

    def seen(self, x: Tensor) -> Tensor:
        """Images as the discriminator sees them: 0 … levels − 1 brought to [−1, 1], or points as they are."""

    def judge(self, seen: Tensor, y: Tensor | None = None) -> Tensor:
        """The discriminator's logit for each image that it sees, or for each pack of them."""


NO_DENSITY = (
    "x = G(z) is implicit: it can be drawn, but no density of it can be computed; judge its samples (probgen evaluate "
    "RUN), or use a model with a density, such as vae (a bound) or pixelcnn (exact)"
)


def kind_of(pair: Any) -> Kind:
    """The pair's place in the taxonomy: what it declares, else what its methods show.

    A pair that declares nothing and has no `log_prob` counts as a latent-variable density: when its
    program turns out to have no latent site, the bound that is reported for it is exact, and says so.
    """
    declared = getattr(pair, "kind", None)
    if declared is not None:
        return Kind(declared)
    return Kind.TRACTABLE if isinstance(pair, TractableDensity) else Kind.LATENT
