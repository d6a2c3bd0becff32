"""Is the guide any good? For one image, q(z | x) beside draws from p(z | x) itself.

    KL(q(z | x) ‖ p(z | x)) = log p(x) − ELBO,   ELBO = E_q[log w],   w = p(x, z) / q(z | x),  z ~ q

The draws are those of NUTS on p(z | x) ∝ p(x, z) (Hoffman and Gelman 2014). R̂ and the effective sample size say
whether they are to be believed (Vehtari et al. 2021); the tail of the weights, k̂, whether the guide's draws could
stand for the posterior once they are weighted (Yao et al. 2018).
"""

from dataclasses import replace

import numpy as np
import pyro
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.arviz_bridge import FEWEST_DRAWS, FEWEST_WEIGHTS, ess, pareto_k, r_hat
from probgen.inference.diagnosis import Diagnosis, Marginal
from probgen.inference.elbo import log_mean_exp, noise
from probgen.inference.estimates import Estimate
from probgen.inference.evidence import CHUNK, chunked_weights, exact
from probgen.inference.nuts import check_posterior, run_chains
from probgen.inference.randomness import own_randomness
from probgen.inference.traces import Program, as_real, evaluating, owner, trace_pair
from probgen.models.contracts import Kind, kind_of


def diagnose(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    *,
    num_chains: int = 4,
    num_samples: int = 500,
    warmup: int = 500,
    num_particles: int = 1000,
    start: str = "guide",
    seed: int = 0,
    progress: bool = False,
) -> Diagnosis:
    """The guide of one image against its posterior.

    model, guide: the two programs, with continuous latent sites; evaluated in `eval()` mode.
    x: one image, 1 *shape.
    num_chains, num_samples, warmup: of NUTS; chains run one after another, each from its own seed.
    num_particles: draws of the guide for ELBO, evidence and k̂.
    start: where chains start: `guide`, at its draws, near the posterior if they are; or `prior`, from where they may
        find modes that the guide knows nothing of (R̂ is then large), after more warm-up.
    seed: same seed, same result; the generators are left as they were.

    Raises UserError for several images, and for a pair with no posterior over continuous values.
    """
    check_counts(num_chains, num_samples, warmup, num_particles)
    if start not in ("guide", "prior"):
        raise UserError(f"start={start!r} came, expected 'guide' or 'prior'")
    x = as_real(x)
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(num_chains + 1)]
    with evaluating(model, guide), pyro.validation_enabled(False):
        sites = check_posterior(model, guide, x)
        with own_randomness(seeds[0]):
            weights = guide_weights(model, guide, x, num_particles)
            drawn = guide_draws(model, guide, x, num_chains, num_samples)
        begin = guide if start == "guide" else model
        chains = run_chains(model, begin, x, sites, num_samples, warmup, seeds[1:], progress)
    shapes = {name: values.shape for name, values in drawn.items()}
    posterior = {name: torch.cat([z[name] for z, _ in chains]).reshape(shape) for name, shape in shapes.items()}
    return Diagnosis(
        posterior,
        drawn,
        tuple(m for name in sites for m in marginals_of(name, posterior[name], drawn[name])),
        sum(divergences for _, divergences in chains),
        float(pareto_k(weights)),
        *bounds(model, x, weights),
    )


def check_counts(num_chains: int, num_samples: int, warmup: int, num_particles: int) -> None:
    """Raise UserError for numbers from which nothing can be told."""
    least = {
        "num_chains": (num_chains, 1),
        "num_samples": (num_samples, FEWEST_DRAWS),
        "warmup": (warmup, 0),
        "num_particles": (num_particles, FEWEST_WEIGHTS),
    }
    for name, (came, expected) in least.items():
        if came < expected:
            raise UserError(f"{name}={came} came, expected {expected} or more")


def guide_weights(model: Program, guide: Program, x: Tensor, num_particles: int) -> Float[Tensor, "k 1"]:
    """log w of the guide's draws. Raises UserError where one is not finite."""
    with torch.no_grad():
        weights = chunked_weights(model, guide, x, num_particles).double().cpu()
    if broken := int((~weights.isfinite()).sum()):
        raise UserError(
            f"log p(x, z) − log q(z | x) is not finite for {broken} of {num_particles} draws of the guide: it draws "
            "where the model has no density, or the parameters have diverged"
        )
    return weights


def guide_draws(model: Program, guide: Program, x: Tensor, num_chains: int, num_samples: int) -> dict[str, Tensor]:
    """As many draws from the guide as NUTS makes, in the same shape `chain draw …`."""
    total, parts = num_chains * num_samples, []
    with torch.no_grad():
        for first in range(0, total, CHUNK):
            sites = trace_pair(model, guide, x, min(CHUNK, total - first))
            parts.append({site.name: site.drawn[:, 0].cpu() for site in sites if not site.observed})
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: z.reshape(num_chains, num_samples, *z.shape[1:]) for name, z in joined.items()}


def marginals_of(
    site: str, posterior: Float[Tensor, "chain draw *shape"], guide: Float[Tensor, "chain draw *shape"]
) -> list[Marginal]:
    """Both means and standard deviations of each dimension of a site, and how far they are apart."""
    p, q = posterior.flatten(0, 1).double(), guide.flatten(0, 1).double()
    mean, sd = p.mean(0), p.std(0)
    shift, spread = (q.mean(0) - mean) / sd, q.std(0) / sd
    mismatch = 0.5 * (spread**2 - 1 - 2 * spread.log() + shift**2)
    numbers = [mean, sd, q.mean(0), q.std(0), r_hat(posterior), ess(posterior), ess(posterior, "tail")]
    rows = torch.stack([n.double().flatten() for n in [*numbers, shift, spread, mismatch]], 1).tolist()
    places = [",".join(map(str, index)) for index in np.ndindex(*mean.shape)]
    names = [f"{site}[{place}]" if place else site for place in places]
    return [Marginal(name, *row) for name, row in zip(names, rows, strict=True)]


def bounds(model: Program, x: Tensor, weights: Float[Tensor, "k 1"]) -> tuple[Estimate, Estimate, Estimate]:
    """ELBO, log p(x), and what lies between; the noise of log (1/K) Σ_k w_k is that of Σ_k w_k, to first order."""
    count, pair = len(weights), owner(model)
    elbo = Estimate.of(weights.mean(0), "lower bound", count, noise(weights))
    if kind_of(pair) is Kind.TRACTABLE:
        evidence = exact(pair.log_prob, x)
        kl = Estimate.of(evidence.per_image.double() - weights.mean(0), "estimate", count, noise(weights))
        return elbo, evidence, kl
    top = log_mean_exp(weights)
    relative = (weights - top).exp()
    evidence = Estimate.of(top, "lower bound", count, noise(relative))
    kl = Estimate.of(top - weights.mean(0), "lower bound", count, noise(relative - weights))
    return elbo, replace(evidence, pareto_k=pareto_k(weights)), kl
