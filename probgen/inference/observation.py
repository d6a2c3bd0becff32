"""A likelihood for those who must have one: noise added to what an implicit sampler makes (Wu et al. 2017).

    p_σ(x) = ∫ N(x; G(z), σ² I) p(z) dz

It is the density of another model, the sampler with Gaussian noise on top, and it depends on σ: a number to compare
samplers of one σ with, never log p(x) of the sampler itself, which has none.
"""

from typing import Any

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.models.contracts import ImplicitSampler


class GaussianObservation(nn.Module):
    """p(x, z) = p(z) · N(x; G(z), σ² I), images in [0, 1] (points as they are).

    sampler: an implicit model without classes. sigma: the standard deviation of the noise, in that unit. levels: number
    of grey levels, None for points. Raises UserError for a sampler with classes: z is then not all that is latent.
    """

    def __init__(self, sampler: ImplicitSampler, sigma: float, levels: int | None) -> None:
        super().__init__()
        if getattr(sampler, "takes_labels", False):
            raise UserError(
                "a likelihood by annealing came for a model with classes: it walks through z, not through y"
            )
        self.sampler, self.sigma, self.scale = sampler, sigma, 1.0 if levels is None else levels - 1.0

    def model(self, x: Float[Tensor, "b *shape"]) -> None:
        """z ~ p(z), x ~ N(G(z), σ² I), the observed images given in [0, 1]."""
        program: Any = poutine.block(self.sampler.model, hide_fn=without_density)
        made = program(len(x)) / self.scale
        with pyro.plate("images", len(x)):  # of the same name as the sampler's: one plate, entered twice
            pyro.sample("x", dist.Normal(made, self.sigma).to_event(made.dim() - 1), obs=x)

    def unit(self, images: Tensor) -> Float[Tensor, "b *shape"]:
        """Grey levels brought to [0, 1]."""
        return images.float() / self.scale


def without_density(site: Any) -> bool:
    """Sites of a sampler that are not latent: what it makes, and its plate."""
    return site["name"] in ("x", "images") or isinstance(site["fn"], Implicit)
