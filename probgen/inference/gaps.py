"""Where the bound is lost: even to the best factorized Gaussian, or by the guide beside it (Cremer et al. 2018).

    log p(x) − ELBO(q_φ) = [log p(x) − ELBO(q*)] + [ELBO(q*) − ELBO(q_φ)]
                           ╰─ approximation gap ─╯   ╰─ amortization gap ─╯

q* is the best factorized Gaussian for that one image, whatever the guide's own family, found by optimizing its mean and
scales; q_φ what the guide says. A guide that is richer than that has a negative amortization gap.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.console import progress_bar
from probgen.inference.annealed_path import AnnealedPath
from probgen.inference.elbo import elbo_terms, noise
from probgen.inference.estimates import Estimate
from probgen.inference.traces import Program, as_real, check_images, evaluating

DRAWS_TO_START = 64  # of the guide, from which the Gaussian's first mean and scale are taken
SMALLEST_SCALE = 1e-4
CHUNK = 20_000  # images × draws held at once


@dataclass(frozen=True)
class InferenceGaps:
    """All in nats per image. Both gaps are estimates.

    Evidence from below makes `approximation` too small; a search for q* that has not ended makes it too large, and
    `amortization` too small.
    """

    elbo: Estimate
    best_elbo: Estimate
    approximation: Estimate
    amortization: Estimate


def inference_gaps(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    evidence: Estimate,
    *,
    steps: int = 500,
    lr: float = 0.05,
    num_particles: int = 16,
    num_final: int = 500,
    progress: bool = False,
) -> InferenceGaps:
    """The two gaps of each image.

    evidence: log p(x) of the same images: `exact`, or the best bound at hand.
    steps, lr, num_particles: of the search for q*. num_final: draws for each ELBO.

    Raises UserError for a model without continuous latent sites.
    """
    x = as_real(x)
    check_images(x)
    found = []
    with evaluating(model, guide), progress_bar(quiet=not progress) as bar:
        parts = x.split(max(1, CHUNK // DRAWS_TO_START))
        task = bar.add_task("best Gaussian", total=steps * len(parts), terms="")
        for part in parts:
            gaussian = best_gaussian(model, guide, part, steps, lr, num_particles, lambda: bar.advance(task))
            found.append(gaussian_elbo(model, part, *gaussian, num_final))
    best, error = (torch.cat(columns) for columns in zip(*found, strict=True))
    amortized = elbo_terms(model, guide, x, num_final)
    evidence_error = torch.zeros_like(error) if evidence.noise is None else evidence.noise.to(error)
    return InferenceGaps(
        amortized.estimate,
        Estimate.of(best, "lower bound", num_final, error),
        Estimate.of(evidence.per_image.to(best) - best, "estimate", num_final, torch.hypot(error, evidence_error)),
        Estimate.of(best - amortized.elbo, "estimate", num_final, torch.hypot(error, amortized.stderr.to(error))),
    )


def best_gaussian(
    model: Program,
    guide: Program,
    x: Tensor,
    steps: int,
    lr: float,
    num_particles: int,
    advance: Callable[[], None],
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and scale, site by site, of the diagonal Gaussian (unconstrained coordinates) with the highest ELBO."""
    start = AnnealedPath(model, guide, x.repeat(DRAWS_TO_START, *[1] * (x.dim() - 1))).start()
    draws = [u.reshape(DRAWS_TO_START, len(x), *u.shape[1:]) for u in start]
    locs = [u.mean(0).requires_grad_() for u in draws]
    log_scales = [u.std(0).clamp_min(SMALLEST_SCALE).log().requires_grad_() for u in draws]
    optimizer = torch.optim.Adam([*locs, *log_scales], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    path = AnnealedPath(model, None, x.repeat(num_particles, *[1] * (x.dim() - 1)))
    for _ in range(steps):
        loss = -per_image_elbo(path, locs, [s.exp() for s in log_scales], num_particles).mean(0).sum()
        leaves = [*locs, *log_scales]
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient  # and none in the model's own parameters
        optimizer.step()
        schedule.step()
        advance()
    return [loc.detach() for loc in locs], [s.detach().exp() for s in log_scales]


@torch.no_grad()
def gaussian_elbo(
    model: Program, x: Tensor, locs: list[Tensor], scales: list[Tensor], num_draws: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The ELBO of each image under its own Gaussian, and its Monte Carlo error, from fresh draws, 50 at a time."""
    chunk = min(50, num_draws)
    path = AnnealedPath(model, None, x.repeat(chunk, *[1] * (x.dim() - 1)))
    rounds = -(-num_draws // chunk)
    draws = torch.cat([per_image_elbo(path, locs, scales, chunk) for _ in range(rounds)])[:num_draws]
    return draws.mean(0), noise(draws)


def per_image_elbo(
    path: AnnealedPath, locs: list[Tensor], scales: list[Tensor], num_particles: int
) -> Float[Tensor, "k b"]:
    """log p(x, u) + H(q) for each draw: the entropy of a Gaussian in closed form, the rest by sampling."""
    gaussians = [torch.distributions.Normal(loc, scale) for loc, scale in zip(locs, scales, strict=True)]
    state = [g.rsample((num_particles,)).flatten(0, 1) for g in gaussians]
    _, joint = path.ends(state)
    entropy = torch.stack([g.entropy().reshape(len(g.loc), -1).sum(1) for g in gaussians]).sum(0)
    return joint.reshape(num_particles, -1) + entropy
