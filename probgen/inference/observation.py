"""A likelihood for those who must have one: noise added to what an implicit sampler makes (Wu et al. 2017).

    p_σ(x) = ∫ N(x; G(z), σ² I) p(z) dz

It is the density of another model, the sampler with Gaussian noise on top, and it depends on σ: a number to compare
samplers of one σ with, never log p(x) of the sampler itself, which has none.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference.traces import evaluating, sample_sites
from probgen.models.contracts import ImplicitSampler


class GaussianObservation(nn.Module):
    """p(x, z) = p(z) · N(x; G(z), σ² I), images in [0, 1] (points as they are).

    sampler: an implicit model without classes. sigma: the standard deviation of the noise, in that unit. levels: number
    of grey levels, None for points. Raises UserError for a sampler with classes: z is then not all that is latent; and
    for one whose program has no latent site at all.
    """

    def __init__(self, sampler: ImplicitSampler, sigma: float, levels: int | None) -> None:
        super().__init__()
        if getattr(sampler, "takes_labels", False):
            raise UserError(
                "a likelihood by annealing came for a model with classes: it walks through z, not through y"
            )
        self.sampler, self.sigma, self.scale = sampler, sigma, 1.0 if levels is None else levels - 1.0
        self.latent, self.plate, self.dim = tried(sampler)

    def model(self, x: Float[Tensor, "b *shape"]) -> None:
        """z ~ p(z), x ~ N(G(z), σ² I), the observed images given in [0, 1]."""
        program: Any = poutine.block(self.sampler.model, expose=self.latent)
        made = program(len(x)) / self.scale
        shape = (len(x), *[1] * (-self.dim - 1), *made.shape[1:])  # inner plates of the sampler are none of x
        noisy = dist.Normal(made.reshape(shape), self.sigma).to_event(made.dim() - 1)
        with pyro.plate(self.plate, len(x), dim=self.dim):  # the sampler's own: one plate, entered twice
            pyro.sample("x", noisy, obs=x.reshape(shape))

    def unit(self, images: Tensor) -> Float[Tensor, "b *shape"]:
        """Grey levels brought to [0, 1]."""
        return images.float() / self.scale


def tried(sampler: ImplicitSampler) -> tuple[list[str], str, int]:
    """The latent sites of a sampler, and name and dimension of the plate over its images, as two trial runs show them.

    Raises UserError for a program without a latent site.
    """
    latent: list[str] = []
    plates: list[set[tuple[str, int]]] = []
    for num in (2, 3):
        with torch.random.fork_rng(), torch.no_grad(), evaluating(sampler):
            nodes = sample_sites(poutine.trace(sampler.model).get_trace(num))
        found = {name: node for name, node in nodes.items() if is_latent(name, node)}
        latent = list(found)
        for node in found.values():
            plates.append({(f.name, f.dim) for f in node["cond_indep_stack"] if f.vectorized and f.size == num})
    if not latent:
        raise UserError("its model has no site z: pyro.sample it, annealing moves through z")
    return latent, *min(set.intersection(*plates), default=("images", -1))


def is_latent(name: str, node: Any) -> bool:
    """Whether a site of a sampler is drawn, and not what it makes."""
    return not node["is_observed"] and name != "x" and not isinstance(node["fn"], Implicit)
