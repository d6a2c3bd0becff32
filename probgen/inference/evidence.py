"""Numbers about the evidence log p(x): exact where the model has it, bounds from below where it does not."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from probgen.console import track
from probgen.errors import UserError
from probgen.inference.arviz_bridge import FEWEST_WEIGHTS, pareto_k
from probgen.inference.elbo import log_mean_exp, noise
from probgen.inference.estimates import Estimate
from probgen.inference.traces import Program, as_real, check_images, evaluating, trace_pair

CHUNK = 20_000  # images × particles held at once: 784 pixels of that many in float32 are 63 MB


@torch.no_grad()
def iwae(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    num_particles: int = 50,
    *,
    diagnose: bool = True,
    progress: bool = False,
) -> Estimate:
    """E[log (1/K) Σ_k p(x, z_k) / q(z_k | x)] ≤ log p(x), z_k ~ q (Burda et al. 2016, equation 8).

    The logarithm of the mean is taken for each image by itself. The bound rises with K = num_particles and
    tends to log p(x); images and particles are taken in chunks, so that memory is bounded for any K and b.

    Discrete sites that are marked for enumeration in the model alone are summed out; those of the guide are drawn.

    diagnose: with 25 particles or more, fit the tail of each image's weights (`Estimate.pareto_k`).

    Raises UserError for a pair whose terms would be wrong (see `trace_pair`), and for K < 1.
    """
    if num_particles < 1:
        raise UserError(f"num_particles={num_particles} came, expected 1 or more")
    check_images(x)
    images = max(1, CHUNK // num_particles)
    with evaluating(model, guide):
        parts = track(x.split(images), f"IWAE, {num_particles} particles", quiet=not progress)
        results = [summarize(chunked_weights(model, guide, part, num_particles), diagnose) for part in parts]
    bounds, errors, tails = zip(*results, strict=True)
    estimate = Estimate.of(torch.cat(bounds), "lower bound", num_particles, torch.cat(errors))
    return estimate if tails[0] is None else replace(estimate, pareto_k=torch.cat(tails))


def summarize(weights: Float[Tensor, "k b"], diagnose: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The bound of each image with its Monte Carlo error, and the shape of its weights' tail if asked for."""
    with_tail = diagnose and len(weights) >= FEWEST_WEIGHTS
    return log_mean_exp(weights).cpu(), log_mean_noise(weights).cpu(), pareto_k(weights).cpu() if with_tail else None


def chunked_weights(model: Program, guide: Program, x: Tensor, num_particles: int) -> Float[Tensor, "k b"]:
    """All log weights of a few images, the particles in chunks."""
    most = max(1, CHUNK // len(x))
    counts = [most] * (num_particles // most) + [num_particles % most]
    return torch.cat([log_weights(model, guide, x, k) for k in counts if k])


def log_mean_noise(log_weights: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """Standard error of log (1/k) Σ_k w_k, by the delta method: that of the mean, relative to it; nan for k = 1."""
    return noise((log_weights - log_mean_exp(log_weights)).exp())


def log_weights(
    model: Program, guide: Program, x: Shaped[Tensor, "b *shape"], num_particles: int
) -> Float[Tensor, "k b"]:
    """log w = log p(x, z) − log q(z | x) for each particle and image, z ~ q."""
    sites = trace_pair(model, guide, x, num_particles)
    return torch.stack([s.log_p if s.log_q is None else s.log_p - s.log_q for s in sites]).sum(0)


@torch.no_grad()
def exact(
    log_prob: Callable[[Tensor], Tensor],
    x: Shaped[Tensor, "b *shape"],
    *,
    chunk_size: int = 256,
    progress: bool = False,
) -> Estimate:
    """log p(x) of a tractable density, from its own `log_prob`."""
    check_images(x)
    with evaluating(log_prob):
        parts = track(x.split(chunk_size), "log p(x)", quiet=not progress)
        per_image = torch.cat([log_prob(as_real(part)) for part in parts])
    return Estimate.of(per_image, "exact")


@torch.no_grad()
def entropy(density: Distribution, num_samples: int = 1000) -> Estimate:
    """H(p) = E_p[−log p(x)] in nats, the mean of independent draws: unbiased, with its standard error.

    density: one that can be drawn from and scored, with an empty batch shape.

    Raises UserError for fewer than two draws, which have no error, or for a batch of densities.
    """
    if num_samples < 2:
        raise UserError(f"num_samples={num_samples} came, expected 2 or more")
    if density.batch_shape:
        raise UserError(f"a batch of densities of shape {tuple(density.batch_shape)} came, expected one")
    return Estimate.of(-density.log_prob(density.sample(torch.Size([num_samples]))), "estimate")
