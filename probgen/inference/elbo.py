"""The terms of the evidence lower bound, image by image and site by site.

log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))
           ╰──────────────── ELBO ───────────────╯   ╰──── ≥ 0, unknown ────╯
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import Independent
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.errors import UserError
from probgen.inference.equation import Equation, equation
from probgen.inference.terms import Draws, ElboTerms, KLMethod, LatentTerm, ObservedTerm
from probgen.inference.traces import Program, Site, check_images, evaluating, trace_pair

Term = TypeVar("Term", ObservedTerm, LatentTerm, Draws)


@torch.no_grad()
def elbo_terms(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    num_particles: int = 1,
    *,
    kl: Literal["closed-form", "sampled"] = "closed-form",
    chunk_size: int = 1024,
    keep_draws: bool = False,
) -> ElboTerms:
    """Every term of the ELBO of each image under a Pyro pair, in nats.

    model, guide: the two programs, usually `pair.model` and `pair.guide`; evaluated in `eval()` mode. Discrete sites
        marked `infer={"enumerate": "parallel"}` are not drawn but summed over (see `probgen.inference.enumeration`).
    x: images b c h w (or real vectors b d).
    num_particles: draws of z per image over which the terms are averaged.
    kl: `closed-form` where torch or Pyro knows it and it is valid, by sampling elsewhere; or `sampled` always.
    chunk_size: images times particles that are held in memory at once, each with all values of enumerated sites.
    keep_draws: keep the drawn z and their log-probabilities, for `ElboTerms.to_arviz`.

    Raises UserError for a pair whose terms would be wrong (see `trace_pair`).
    """
    if num_particles < 1:
        raise UserError(f"num_particles={num_particles} came, expected 1 or more")
    check_images(x)
    with evaluating(model, guide):
        images = max(1, chunk_size // num_particles)
        passes = (trace_pair(model, guide, part, num_particles, enumerate_guide=True) for part in x.split(images))
        chunks = [terms_of(sites, kl, keep_draws) for sites in passes]
    return replace(concatenate(chunks), equation=own_equation(model, guide, x[:2]))


def own_equation(model: Program, guide: Program, x: Tensor) -> Equation | str:
    """The pair's equation; a program that cannot be read leaves the reason in its place."""
    try:
        return equation(model, guide, x)
    except Exception as error:  # a user's program may do anything to a tensor
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return f"(the equation could not be read off the program: {reason})"


def terms_of(sites: Sequence[Site], kl: KLMethod, keep_draws: bool = False) -> ElboTerms:
    """The terms of one traced batch.

    The closed form of KL(q(z_i | …) ‖ p(z_i | …)) at drawn parents is right when no parent of z_i in the model
    comes after z_i in the guide; where the two orders agree, none does. Elsewhere every KL is sampled.
    """
    latent = [site for site in sites if not site.observed]
    if [s.guide_position for s in latent] != sorted(s.guide_position or 0 for s in latent):
        kl = "sampled"
    kls = [closed_form_kl(site) if kl == "closed-form" else None for site in latent]
    parts = [s.log_p for s in sites if s.observed]
    parts += [-kl_draws(site, exact) for site, exact in zip(latent, kls, strict=True)]
    error = noise if any(not site.enumerated for site in latent) else lambda draws: torch.zeros_like(draws[0])
    return ElboTerms(
        tuple(ObservedTerm(s.name, s.log_p.mean(0), error(s.log_p), s.summed_out) for s in sites if s.observed),
        tuple(latent_term(s, exact, error, first=s is latent[0]) for s, exact in zip(latent, kls, strict=True)),
        len(sites[0].log_p),
        error(torch.stack(parts).sum(0)),
        draws=kept(sites) if keep_draws else None,
    )


def kl_draws(site: Site, exact: Tensor | None) -> Float[Tensor, "k b"]:
    """The site's part of the ELBO's second term for each particle: in closed form, else at the drawn value."""
    assert site.log_q is not None
    return site.log_q - site.log_p if exact is None else exact


def noise(draws: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """Standard error of the mean over particles; nan for one."""
    return draws.std(0) / len(draws) ** 0.5 if len(draws) > 1 else torch.full_like(draws[0], math.nan)


def kept(sites: Sequence[Site]) -> Draws:
    """The draws themselves."""
    latent = [site for site in sites if not site.observed]
    return Draws(
        values={s.name: s.drawn for s in latent if s.drawn.numel()},
        log_likelihood={s.name: s.log_p for s in sites if s.observed},
        log_prior={s.name: s.log_p for s in latent},
        log_guide={s.name: s.log_q for s in latent if s.log_q is not None},
    )


def latent_term(site: Site, exact: Tensor | None, error: Callable[[Tensor], Tensor], *, first: bool) -> LatentTerm:
    """log p, log q and KL of one latent site, given the KL's closed form if there is one.

    The first site, in model and guide, has no latent parents: its closed form, or its sum, is the same for every draw.
    """
    assert site.log_q is not None
    draws = kl_draws(site, exact)
    same = first and site.guide_position == 0 and (exact is not None or site.enumerated)
    return LatentTerm(
        site.name,
        log_prior=site.log_p.mean(0),
        log_guide=site.log_q.mean(0),
        kl=draws.mean(0),
        stderr=torch.zeros_like(draws[0]) if same else error(draws),
        method="enumerated" if site.enumerated else "sampled" if exact is None else "closed-form",
        gradient="exact" if site.enumerated else "reparameterized" if site.q.has_rsample else "score-function",
        kl_per_dim=None if exact is None else kl_per_dim(site),
        guide_mean=guide_mean(site),
        summed_out=site.summed_out,
    )


def closed_form_kl(site: Site) -> Float[Tensor, "k b"] | None:
    """KL(q ‖ p) between the site's distributions, None where torch and Pyro know no formula, or for sums."""
    if site.summed_out or site.enumerated:
        return None
    try:
        return site.reduce(scale_and_mask(kl_divergence(site.q, site.p), mask=site.mask))
    except NotImplementedError:
        return None


def kl_per_dim(site: Site) -> Float[Tensor, "b d"] | None:
    """The KL of each latent dimension, for two independent factors over one axis in one image plate."""
    factorized = all(isinstance(d, Independent) and d.reinterpreted_batch_ndims == 1 for d in (site.p, site.q))
    if not factorized or site.mask is not None:
        return None
    each = kl_divergence(site.q.base_dist, site.p.base_dist)
    if site.drawn.numel() and each.numel() == site.log_p.numel() * each.shape[-1]:
        return each.reshape(*site.log_p.shape, -1).mean(0)
    return torch.stack([site.reduce(kl) for kl in each.unbind(-1)], -1).mean(0)


def guide_mean(site: Site) -> Float[Tensor, "b d"] | None:
    """E_q[z] for each image, averaged over particles; None where the distribution does not tell its mean."""
    try:
        mean = site.q.mean
    except NotImplementedError:
        return None
    if len(site.q.event_shape) != 1:
        return None
    if mean.numel() == site.log_p.numel() * mean.shape[-1]:
        return mean.reshape(*site.log_p.shape, -1).mean(0)
    several = (site.reduce(torch.ones_like(mean[..., 0])) - 1).abs().max() > 1e-3  # places in other plates
    return None if several else torch.stack([site.reduce(m) for m in mean.unbind(-1)], -1).mean(0)


def concatenate(chunks: Sequence[ElboTerms]) -> ElboTerms:
    """One object for the images of all chunks."""

    def join(tensors: Sequence[Any], dim: int = 0) -> Any:
        if isinstance(tensors[0], Tensor):
            return torch.cat(list(tensors), dim)
        if isinstance(tensors[0], dict):
            return {name: join([t[name] for t in tensors], dim) for name in tensors[0]}
        return tensors[0]

    def merge(terms: Sequence[Term], dim: int = 0) -> Term:
        return replace(terms[0], **{key: join([getattr(t, key) for t in terms], dim) for key in vars(terms[0])})

    first = chunks[0]
    return replace(
        first,
        observed=tuple(merge(group) for group in zip(*(c.observed for c in chunks), strict=True)),
        latent=tuple(merge(group) for group in zip(*(c.latent for c in chunks), strict=True)),
        stderr=join([c.stderr for c in chunks]),
        draws=first.draws and merge([c.draws for c in chunks if c.draws], dim=1),
    )


def log_mean_exp(log_weights: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """log (1/k) Σ_k w_k, without overflow."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])
