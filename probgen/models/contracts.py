"""What a model is: the taxonomy of generative models, as types.

    tractable density        log p(x) is exact                 the guide is empty, so SVI is maximum likelihood
    latent-variable density  log p(x) = log ∫ p(x, z) dz       a guide q(z | x) bounds it from below
    implicit                 x = G(z), no density              samples only
    no density               a reconstruction, no probability  neither samples nor a likelihood

A model is any object with `model(x)` and `guide(x)`, two Pyro programs. Images x have shape b c h w and hold
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


def kind_of(pair: Any) -> Kind:
    """The pair's place in the taxonomy: what it declares, else what its methods show.

    A pair that declares nothing and has no `log_prob` counts as a latent-variable density: when its
    program turns out to have no latent site, the bound that is reported for it is exact, and says so.
    """
    declared = getattr(pair, "kind", None)
    if declared is not None:
        return Kind(declared)
    return Kind.TRACTABLE if isinstance(pair, TractableDensity) else Kind.LATENT
