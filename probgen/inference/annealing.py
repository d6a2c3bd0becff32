"""Annealed importance sampling, forwards and backwards: the evidence between two stochastic bounds.

    f_β(z) ∝ r(z)^{1−β} p(x, z)^β,   β from 0 (r: the prior, or the guide) to 1 (the posterior)

    AIS   z_0 ~ r, then z_t by HMC at β_t;   log w = Σ_t (β_{t+1} − β_t) [log p(x, z_t) − log r(z_t)]
          E[w] = p(x), hence E[log w] ≤ log p(x)                         (Neal 2001, equation 7)
    BDMC  the same chain backwards, from an exact posterior draw, has E[1/w'] = 1/p(x), hence
          E[log w'] ≥ log p(x); an exact draw exists for data simulated from the model: (z, x) ~ p(z) p(x | z)
                                                                          (Grosse et al. 2015, 2016)

Step sizes are tuned on chains of a pilot run and then held fixed, so that the expectations above are exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from probgen.console import progress_bar
from probgen.errors import UserError
from probgen.inference.elbo import log_mean_exp
from probgen.inference.estimates import Estimate
from probgen.inference.hmc import State, hmc_transition
from probgen.inference.traces import Program, as_real, evaluating, sample_sites, score

TARGET_ACCEPTANCE = 0.65  # Wu et al. 2017, section 4
FIRST_STEP_SIZE = 0.1
SETTLING = 30  # transitions of the pilot run at the first β, while its step size finds its order of magnitude
ADAPTATION = 0.2  # of the logarithm of the step size, for each transition and unit of acceptance off target
CHUNK = 2_000  # chains run at once


@dataclass(frozen=True)
class AnnealingResult:
    """What an annealed run says of each image.

    estimate: the (stochastic) bound, `lower bound` for AIS, `upper bound` for its reverse.
    acceptance: mean acceptance probability of the HMC proposals of each image.
    """

    estimate: Estimate
    acceptance: Float[Tensor, " b"]


@dataclass(frozen=True)
class BidirectionalResult:
    """Both bounds on data simulated from the model, the images, and what lies between."""

    lower: Estimate
    upper: Estimate
    images: Tensor

    @property
    def gap(self) -> Estimate:
        """upper − lower: bounds the error of AIS with these settings on data from this model."""
        return Estimate.of(self.upper.per_image - self.lower.per_image, "upper bound", self.lower.particles)


def sigmoidal_schedule(num_distributions: int, steepness: float = 4.0) -> Float[Tensor, " t"]:
    """β_t = (σ(s(2t/T − 1)) − σ(−s)) / (σ(s) − σ(−s)): slow at both ends (Grosse et al. 2015, section 6)."""
    curve = torch.sigmoid(steepness * torch.linspace(-1, 1, num_distributions, dtype=torch.float64))
    return ((curve - curve[0]) / (curve[-1] - curve[0])).float()


class AnnealedPath:
    """The path from r(z) to p(x, z), for a batch of images, in unconstrained coordinates u with z = T(u).

    The Jacobian of T is part of both ends, so that HMC moves freely whatever the support of z.
    """

    def __init__(self, model: Program, guide: Program | None, x: Tensor) -> None:
        self.model, self.guide, self.x = model, guide, x
        nodes = sample_sites(poutine.trace(guide or model).get_trace(x))
        self.sites = {name: node for name, node in nodes.items() if not node["is_observed"]}
        if not self.sites:
            raise UserError("the model has no latent site: log p(x) is exact, there is nothing to anneal")
        for name, node in self.sites.items():
            if not node["fn"].support.is_discrete:
                continue
            raise UserError(f"site {name!r} is discrete: annealing moves continuous latents only")
        self.transforms = {name: biject_to(node["fn"].support) for name, node in self.sites.items()}

    def start(self) -> list[Tensor]:
        """u_0, from z_0 ~ r."""
        with torch.no_grad():
            trace = poutine.trace(self.guide or self.model).get_trace(self.x)
        return self.unconstrained({name: trace.nodes[name]["value"] for name in self.sites})

    def unconstrained(self, values: dict[str, Tensor]) -> list[Tensor]:
        """u = T⁻¹(z) of each site."""
        return [transform.inv(values[name]).detach() for name, transform in self.transforms.items()]

    def ends(self, state: State) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """log r and log p(x, ·) at u, with the Jacobian."""
        pairs = list(zip(self.transforms.items(), state, strict=True))
        values = {name: transform(u) for (name, transform), u in pairs}
        jacobian = torch.stack(
            [
                transform.log_abs_det_jacobian(u, values[name]).reshape(len(u), -1).sum(1)
                for (name, transform), u in pairs
            ]
        ).sum(0)
        model = score(self.model, self.x, values)
        joint = torch.stack(list(model.values())).sum(0)
        start = score(self.guide, self.x, values) if self.guide else {name: model[name] for name in self.sites}
        return torch.stack(list(start.values())).sum(0) + jacobian, joint + jacobian

    def log_density(self, beta: float) -> Callable[[State], Tensor]:
        """log f_β."""

        def at(state: State) -> Tensor:
            start, joint = self.ends(state)
            return (1 - beta) * start + beta * joint

        return at

    @torch.no_grad()
    def log_ratio(self, state: State) -> Float[Tensor, " n"]:
        """log p(x, z) − log r(z): how log f_β grows with β."""
        start, joint = self.ends(state)
        return joint - start


def run_chains(
    path: AnnealedPath,
    state: list[Tensor],
    betas: Float[Tensor, " t"],
    step_sizes: Float[Tensor, "t-1 n"] | None,
    num_leapfrog: int,
    advance: Callable[[], None],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "t-1 n"]]:
    """Chains along `betas` from `state`; log weights, acceptance, and the step sizes used.

    Without `step_sizes` they are adapted on the way (a pilot run, whose weights are not to be used).
    """
    log_weight = torch.zeros(len(path.x), dtype=state[0].dtype, device=path.x.device)
    accepted_sum, log_step = torch.zeros_like(log_weight), torch.full_like(log_weight, math.log(FIRST_STEP_SIZE))
    used = []
    if step_sizes is None:
        for _ in range(SETTLING):
            state, accepted = hmc_transition(path.log_density(float(betas[0])), state, log_step.exp(), num_leapfrog)
            log_step = log_step + ADAPTATION * (accepted - TARGET_ACCEPTANCE)
    for index in range(1, len(betas)):
        log_weight += (betas[index] - betas[index - 1]) * path.log_ratio(state)
        step_size = log_step.exp() if step_sizes is None else step_sizes[index - 1]
        state, accepted = hmc_transition(path.log_density(float(betas[index])), state, step_size, num_leapfrog)
        log_step = log_step + ADAPTATION * (accepted - TARGET_ACCEPTANCE)
        accepted_sum += accepted
        used.append(step_size)
        advance()
    return log_weight, accepted_sum / (len(betas) - 1), torch.stack(used)


def anneal(
    model: Program,
    guide: Program | None,
    x: Tensor,
    betas: Float[Tensor, " t"],
    num_chains: int,
    num_leapfrog: int,
    start: dict[str, Tensor] | None,
    advance: Callable[[], None],
) -> tuple[Float[Tensor, "k b"], Float[Tensor, " b"]]:
    """Pilot run, then the run that counts: log weights and acceptance; from given latent values or from r."""
    repeated = x.repeat(num_chains, *[1] * (x.dim() - 1))
    path = AnnealedPath(model, guide, repeated)
    beginnings = []
    for _ in range(2):
        if start is None:
            beginnings.append(path.start())
        else:
            tiled = {name: value.repeat(num_chains, *[1] * (value.dim() - 1)) for name, value in start.items()}
            beginnings.append(path.unconstrained(tiled))
    _, _, adapted = run_chains(path, beginnings[0], betas, None, num_leapfrog, advance)
    shared = adapted.log().reshape(len(adapted), num_chains, len(x)).mean(1).exp().repeat(1, num_chains)
    log_weight, acceptance, _ = run_chains(path, beginnings[1], betas, shared, num_leapfrog, advance)
    return log_weight.reshape(num_chains, len(x)), acceptance.reshape(num_chains, len(x)).mean(0)


def ais(
    model: Program,
    x: Shaped[Tensor, "b *shape"],
    *,
    guide: Program | None = None,
    num_chains: int = 16,
    num_distributions: int = 500,
    num_leapfrog: int = 10,
    schedule: Callable[[int], Tensor] = sigmoidal_schedule,
    progress: bool = False,
) -> AnnealingResult:
    """A stochastic lower bound on log p(x), image by image, usually tighter than `iwae` (Wu et al. 2017).

    model: a Pyro program with continuous latent sites, one plate entry for each image.
    guide: where chains start; the prior without it.
    num_chains: for each image; their weights are averaged. num_distributions: β_0 = 0 … 1.
    schedule: the β for a number of distributions.

    Raises UserError for a model without latent sites or with discrete ones.
    """
    return annealed(model, guide, as_real(x), None, num_chains, schedule(num_distributions), num_leapfrog, progress)


def annealed(
    model: Program,
    guide: Program | None,
    x: Tensor,
    start: dict[str, Tensor] | None,
    num_chains: int,
    betas: Tensor,
    num_leapfrog: int,
    progress: bool,
) -> AnnealingResult:
    """Forward annealing, or with a `start` at the posterior and falling β, backward; in chunks of images."""
    if num_chains < 1 or len(betas) < 2:
        raise UserError(f"num_chains={num_chains}, num_distributions={len(betas)} came, expected at least 1 and 2")
    images = max(1, CHUNK // num_chains)
    chunks = range(0, len(x), images)
    weights, acceptances = [], []
    programs = (model,) if guide is None else (model, guide)
    # Validation off: a proposal may leave the floating-point range, and is then rejected.
    with evaluating(*programs), pyro.validation_enabled(False), progress_bar(quiet=not progress) as bar:
        task = bar.add_task("annealing", total=2 * (len(betas) - 1) * len(chunks), terms="")
        for first in chunks:
            part = slice(first, first + images)
            begin = None if start is None else {name: value[part] for name, value in start.items()}
            weight, acceptance = anneal(
                model, guide, x[part], betas, num_chains, num_leapfrog, begin, lambda: bar.advance(task)
            )
            weights.append(log_mean_exp(weight) if start is None else -log_mean_exp(weight))
            acceptances.append(acceptance)
    kind: Any = "lower bound" if start is None else "upper bound"
    return AnnealingResult(Estimate.of(torch.cat(weights), kind, num_chains), torch.cat(acceptances))


def bdmc(
    model: Program,
    num_images: int,
    like: Shaped[Tensor, "b *shape"],
    *,
    num_chains: int = 16,
    num_distributions: int = 500,
    num_leapfrog: int = 10,
    schedule: Callable[[int], Tensor] = sigmoidal_schedule,
    progress: bool = False,
) -> BidirectionalResult:
    """AIS from both ends on images simulated from the model, whose posterior draw is known.

    like: any images of the right shape and type, of which only those are used.

    Raises UserError for a model without latent sites or with discrete ones, or whose likelihood is a bound.
    """
    with evaluating(model), torch.no_grad(), pyro.validation_enabled(False):
        blank = torch.zeros(num_images, *like.shape[1:], device=like.device)
        trace = poutine.trace(poutine.uncondition(model)).get_trace(blank)
    sites = sample_sites(trace)
    for name, node in sites.items():
        base = node["fn"].base_dist if hasattr(node["fn"], "base_dist") else node["fn"]
        if getattr(base, "is_bound", False):
            raise UserError(
                f"site {name!r}: {type(base).__name__} scores a bound on a log-probability, so that what is drawn from "
                "the model has no exact posterior draw: BDMC needs another likelihood (bernoulli, categorical, "
                "discretized-logistic, or real-valued data)"
            )
    observed = {name: node["value"] for name, node in sites.items() if "was_observed" in node["infer"]}
    latent = {name: node["value"] for name, node in sites.items() if name not in observed}
    images = next(iter(observed.values())).reshape(num_images, *like.shape[1:])
    betas = schedule(num_distributions)
    lower = annealed(model, None, images, None, num_chains, betas, num_leapfrog, progress)
    upper = annealed(model, None, images, latent, num_chains, betas.flip(0), num_leapfrog, progress)
    return BidirectionalResult(lower.estimate, upper.estimate, images)
