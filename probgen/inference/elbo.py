"""The terms of the evidence lower bound, image by image and site by site.

log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))
           ╰──────────────── ELBO ───────────────╯   ╰──── ≥ 0, unknown ────╯
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import Independent
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.errors import UserError
from probgen.inference.estimates import Estimate
from probgen.inference.traces import Program, Site, evaluating, trace_pair

ACTIVE_UNIT_VARIANCE = 0.01  # Burda et al. 2016, section 4: a unit is active when Var_x(E_q[z]) exceeds it

KLMethod = Literal["closed-form", "sampled"]


@dataclass(frozen=True)
class ObservedTerm:
    """E_q[log p(x | z)] of an observed site: the mean over particles, in nats, one number per image."""

    name: str
    log_likelihood: Float[Tensor, " b"]


@dataclass(frozen=True)
class LatentTerm:
    """A latent site: E_q[log p(z)], E_q[log q(z | x)] and KL(q ‖ p), in nats, one number per image.

    method: whether `kl` is the closed form of the two distributions, or log_guide − log_prior of the draws.
    kl_per_dim: the closed form for each latent dimension, where both distributions factorize.
    guide_mean: E_q[z] for each image, where the guide's distribution has one.
    """

    name: str
    log_prior: Float[Tensor, " b"]
    log_guide: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    method: KLMethod
    kl_per_dim: Float[Tensor, "b d"] | None
    guide_mean: Float[Tensor, "b d"] | None


Term = TypeVar("Term", ObservedTerm, LatentTerm)


@dataclass(frozen=True)
class ElboTerms:
    """The ELBO of each image as a sum of terms, all in nats; b images, means over `num_particles` draws.

    `elbo` is `log_likelihood − kl` and these are the sums over `observed` and `latent`, exactly.
    """

    observed: tuple[ObservedTerm, ...]
    latent: tuple[LatentTerm, ...]
    num_particles: int

    @property
    def log_likelihood(self) -> Float[Tensor, " b"]:
        """E_q[log p(x | z)], over all observed sites."""
        return torch.stack([term.log_likelihood for term in self.observed]).sum(0)

    @property
    def kl(self) -> Float[Tensor, " b"]:
        """KL(q(z | x) ‖ p(z)), over all latent sites; zero where nothing is latent."""
        if not self.latent:
            return torch.zeros_like(self.log_likelihood)
        return torch.stack([term.kl for term in self.latent]).sum(0)

    @property
    def elbo(self) -> Float[Tensor, " b"]:
        """E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) ≤ log p(x)."""
        return self.log_likelihood - self.kl

    @property
    def estimate(self) -> Estimate:
        """The mean ELBO; exact when nothing is latent, since it is then log p(x) itself."""
        if not self.latent:
            return Estimate.of(self.elbo, "exact")
        return Estimate.of(self.elbo, "lower bound", self.num_particles)

    @property
    def active_units(self) -> int | None:
        """Latent dimensions whose mean code varies over the images by more than 0.01 (Burda et al. 2016).

        None where the guide's distributions have no mean, or for a single image.
        """
        means = [term.guide_mean for term in self.latent]
        if not means or len(self.elbo) < 2:
            return None
        counts = [int((m.var(0) > ACTIVE_UNIT_VARIANCE).sum()) for m in means if m is not None]
        return sum(counts) if len(counts) == len(means) else None


@torch.no_grad()
def elbo_terms(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    num_particles: int = 1,
    *,
    kl: KLMethod = "closed-form",
    chunk_size: int = 1024,
) -> ElboTerms:
    """Every term of the ELBO of each image under a Pyro pair, in nats.

    model, guide: the two programs, usually `pair.model` and `pair.guide`; evaluated in `eval()` mode.
    x: images b c h w (or real vectors b d).
    num_particles: draws of z per image over which the terms are averaged.
    kl: `closed-form` where torch or Pyro knows it and it is valid, by sampling elsewhere; or `sampled` always.
    chunk_size: images times particles that are held in memory at once.

    Raises UserError for a pair whose terms would be wrong (see `trace_pair`).
    """
    if num_particles < 1:
        raise UserError(f"num_particles={num_particles} came, expected 1 or more")
    with evaluating(model, guide):
        images = max(1, chunk_size // num_particles)
        chunks = [terms_of(trace_pair(model, guide, part, num_particles), kl) for part in x.split(images)]
    return concatenate(chunks)


def terms_of(sites: Sequence[Site], kl: KLMethod) -> ElboTerms:
    """The terms of one traced batch.

    The closed form of KL(q(z_i | …) ‖ p(z_i | …)) at drawn parents is right when no parent of z_i in the model
    comes after z_i in the guide; where the two orders agree, none does. Elsewhere every KL is sampled.
    """
    latent = [site for site in sites if not site.observed]
    if [s.guide_position for s in latent] != sorted(s.guide_position or 0 for s in latent):
        kl = "sampled"
    observed = tuple(ObservedTerm(s.name, s.log_p.mean(0)) for s in sites if s.observed)
    terms = tuple(latent_term(site, kl) for site in latent)
    return ElboTerms(observed, terms, sites[0].log_p.shape[0])


def latent_term(site: Site, kl: KLMethod) -> LatentTerm:
    """log p, log q and KL of one latent site."""
    assert site.log_q is not None
    exact = closed_form_kl(site) if kl == "closed-form" else None
    sampled = (site.log_q - site.log_p).mean(0)
    return LatentTerm(
        site.name,
        site.log_p.mean(0),
        site.log_q.mean(0),
        sampled if exact is None else exact,
        "sampled" if exact is None else "closed-form",
        None if exact is None else kl_per_dim(site),
        guide_mean(site),
    )


def closed_form_kl(site: Site) -> Float[Tensor, " b"] | None:
    """KL(q ‖ p) between the site's distributions, None where torch and Pyro know no formula."""
    try:
        return site.reduce(scale_and_mask(kl_divergence(site.q, site.p), mask=site.mask)).mean(0)
    except NotImplementedError:
        return None


def kl_per_dim(site: Site) -> Float[Tensor, "b d"] | None:
    """The KL of each latent dimension, for two independent factors over one axis in one image plate."""
    factorized = all(isinstance(d, Independent) and d.reinterpreted_batch_ndims == 1 for d in (site.p, site.q))
    if not factorized or site.mask is not None:
        return None
    each = kl_divergence(site.q.base_dist, site.p.base_dist)
    if each.dim() not in (2, 3):
        return None
    return each.reshape(site.log_p.shape[0], site.log_p.shape[1], each.shape[-1]).mean(0)


def guide_mean(site: Site) -> Float[Tensor, "b d"] | None:
    """E_q[z] for each image, averaged over particles; None where the distribution does not tell its mean."""
    try:
        mean = site.q.mean
    except NotImplementedError:
        return None
    if len(site.q.event_shape) != 1 or mean.numel() != site.log_p.numel() * mean.shape[-1]:
        return None
    return mean.reshape(*site.log_p.shape, -1).mean(0)


def concatenate(chunks: Sequence[ElboTerms]) -> ElboTerms:
    """One object for the images of all chunks."""

    def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
        return None if tensors[0] is None else torch.cat([t for t in tensors if t is not None])

    def merge(terms: Sequence[Term]) -> Term:
        tensors: dict[str, Any] = {
            k: join([getattr(t, k) for t in terms]) for k in vars(terms[0]) if k not in ("name", "method")
        }
        return replace(terms[0], **tensors)

    return ElboTerms(
        tuple(merge(group) for group in zip(*(c.observed for c in chunks), strict=True)),
        tuple(merge(group) for group in zip(*(c.latent for c in chunks), strict=True)),
        chunks[0].num_particles,
    )


def log_mean_exp(log_weights: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """log (1/k) Σ_k w_k, without overflow."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])
