"""Where the bound is lost: the guide's family, or its amortization (Cremer et al. 2018).

    log p(x) − ELBO(q_φ) = [log p(x) − ELBO(q*)] + [ELBO(q*) − ELBO(q_φ)]
                           ╰─ approximation gap ─╯   ╰─ amortization gap ─╯

q* is the best Gaussian for that one image, found by optimizing its mean and scales; q_φ what the guide says.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.console import progress_bar
from probgen.inference.annealed_path import AnnealedPath
from probgen.inference.elbo import elbo_terms
from probgen.inference.estimates import Estimate
from probgen.inference.traces import Program, as_real, evaluating

DRAWS_TO_START = 64  # of the guide, from which the Gaussian's first mean and scale are taken
SMALLEST_SCALE = 1e-4


@dataclass(frozen=True)
class InferenceGaps:
    """All in nats per image. `approximation` is as good as the evidence that was given: exact or a bound."""

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

    evidence: log p(x) of the same images: `exact`, or the best bound at hand (then the approximation gap is
    a lower bound too). steps, lr, num_particles: of the search for q*. num_final: draws for each ELBO.

    Raises UserError for a model without continuous latent sites.
    """
    x = as_real(x)
    with evaluating(model, guide):
        locs, scales = best_gaussian(model, guide, x, steps, lr, num_particles, progress)
        best = gaussian_elbo(model, guide, x, locs, scales, num_final)
    amortized = elbo_terms(model, guide, x, num_final).elbo
    kind = "estimate" if evidence.kind == "exact" else evidence.kind
    return InferenceGaps(
        Estimate.of(amortized, "lower bound", num_final),
        Estimate.of(best, "lower bound", num_final),
        Estimate.of(evidence.per_image.to(best) - best, kind, num_final),
        Estimate.of(best - amortized, "estimate", num_final),
    )


def best_gaussian(
    model: Program, guide: Program, x: Tensor, steps: int, lr: float, num_particles: int, progress: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and scale, site by site, of the diagonal Gaussian (unconstrained coordinates) with the highest ELBO."""
    start = AnnealedPath(model, guide, x.repeat(DRAWS_TO_START, *[1] * (x.dim() - 1))).start()
    draws = [u.reshape(DRAWS_TO_START, len(x), *u.shape[1:]) for u in start]
    locs = [u.mean(0).requires_grad_() for u in draws]
    log_scales = [u.std(0).clamp_min(SMALLEST_SCALE).log().requires_grad_() for u in draws]
    optimizer = torch.optim.Adam([*locs, *log_scales], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    path = AnnealedPath(model, None, x.repeat(num_particles, *[1] * (x.dim() - 1)))
    with progress_bar(quiet=not progress) as bar:
        task = bar.add_task("best Gaussian", total=steps, terms="")
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -per_image_elbo(path, locs, [s.exp() for s in log_scales], num_particles).sum()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance(task)
    return [loc.detach() for loc in locs], [s.detach().exp() for s in log_scales]


@torch.no_grad()
def gaussian_elbo(
    model: Program, guide: Program, x: Tensor, locs: list[Tensor], scales: list[Tensor], num_draws: int
) -> Float[Tensor, " b"]:
    """The ELBO of each image under its own Gaussian, from fresh draws, 50 at a time."""
    chunk = min(50, num_draws)
    path = AnnealedPath(model, None, x.repeat(chunk, *[1] * (x.dim() - 1)))
    rounds = max(1, num_draws // chunk)
    return torch.stack([per_image_elbo(path, locs, scales, chunk) for _ in range(rounds)]).mean(0)


def per_image_elbo(
    path: AnnealedPath, locs: list[Tensor], scales: list[Tensor], num_particles: int
) -> Float[Tensor, " b"]:
    """E_q[log p(x, u)] + H(q): the entropy of a Gaussian in closed form, the rest by sampling."""
    gaussians = [torch.distributions.Normal(loc, scale) for loc, scale in zip(locs, scales, strict=True)]
    state = [g.rsample((num_particles,)).flatten(0, 1) for g in gaussians]
    _, joint = path.ends(state)
    entropy = torch.stack([g.entropy().reshape(len(g.loc), -1).sum(1) for g in gaussians]).sum(0)
    return joint.reshape(num_particles, -1).mean(0) + entropy
