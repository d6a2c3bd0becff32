"""Annealed importance sampling: from the prior, or the guide, to the posterior by way of the densities between.

    f_β(z) ∝ r(z)^{1−β} p(x, z)^β,   β from 0 (r: the prior, or the guide) to 1 (the posterior)

    z_0 ~ r, then z_t by HMC at β_t;   log w = Σ_t (β_{t+1} − β_t) [log p(x, z_t) − log r(z_t)]
    E[w] = p(x), hence E[log w] ≤ log p(x)                         (Neal 2001, equation 7)

Step sizes (and with the adaptive schedule the β) are found on chains of a pilot run and then held fixed, so that
the expectations above are exact.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pyro
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.console import progress_bar
from probgen.errors import UserError
from probgen.inference.annealed_path import AnnealedPath
from probgen.inference.compiled.evaluation import Compile, Evaluation, Tell, note
from probgen.inference.elbo import log_mean_exp
from probgen.inference.estimates import Estimate
from probgen.inference.evidence import log_mean_noise
from probgen.inference.hmc import hmc_transition
from probgen.inference.schedules import Schedule, equal_lengths, first_schedule
from probgen.inference.traces import Program, as_real, check_images, evaluating

TARGET_ACCEPTANCE = 0.65  # Wu et al. 2017, section 4
FIRST_STEP_SIZE = 0.1
SETTLING = 30  # transitions of the pilot run at the first β, while its step size finds its order of magnitude
ADAPTATION = 0.2  # of the logarithm of the step size, for each transition and unit of acceptance off target
PILOT_CHAINS = 4  # at most, for each image
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
class Settings:
    """How to anneal: chains for each image, number of β, leapfrog steps of a transition, how the β are spread."""

    num_chains: int = 16
    num_distributions: int = 500
    num_leapfrog: int = 10
    schedule: Schedule = "sigmoidal"

    def check(self) -> None:
        """Raise UserError for numbers that make no chain."""
        if self.num_chains < 1 or self.num_distributions < 2 or self.num_leapfrog < 1:
            raise UserError(
                f"num_chains={self.num_chains}, num_distributions={self.num_distributions}, "
                f"num_leapfrog={self.num_leapfrog} came, expected at least 1, 2 and 1"
            )


@dataclass(frozen=True)
class Chains:
    """What chains along a path gave: log weights and acceptance (n), and by step the sizes used and the log ratios."""

    log_weight: Float[Tensor, " n"]
    acceptance: Float[Tensor, " n"]
    step_sizes: Float[Tensor, "steps *n"]
    log_ratios: Float[Tensor, "steps *n"]


def run_chains(
    path: AnnealedPath,
    state: list[Tensor],
    betas: Float[Tensor, " t"],
    step_sizes: Float[Tensor, "steps n"] | None,
    num_leapfrog: int,
    advance: Callable[[], None] = lambda: None,
) -> Chains:
    """Chains along `betas` from `state`.

    Without `step_sizes` they are adapted on the way: a pilot run, whose weights are not to be used.
    """
    log_weight = torch.zeros(len(path.x), dtype=state[0].dtype, device=path.x.device)
    accepted_sum, log_step = torch.zeros_like(log_weight), torch.full_like(log_weight, math.log(FIRST_STEP_SIZE))
    used, ratios = [], []
    if step_sizes is None:
        for _ in range(SETTLING):
            state, accepted = hmc_transition(path.log_density(float(betas[0])), state, log_step.exp(), num_leapfrog)
            log_step = log_step + ADAPTATION * (accepted - TARGET_ACCEPTANCE)
    for index in range(1, len(betas)):
        ratios.append(path.log_ratio(state))
        log_weight += (betas[index] - betas[index - 1]) * ratios[-1]
        step_size = log_step.exp() if step_sizes is None else step_sizes[index - 1]
        state, accepted = hmc_transition(path.log_density(float(betas[index])), state, step_size, num_leapfrog)
        log_step = log_step + ADAPTATION * (accepted - TARGET_ACCEPTANCE)
        accepted_sum += accepted
        used.append(step_size)
        advance()
    return Chains(log_weight, accepted_sum / (len(betas) - 1), torch.stack(used), torch.stack(ratios))


class Annealer:
    """Chains for a batch of images.

    start: latent values of each image to begin at, draws from r without it. evaluation: whether and how their steps are
    compiled. steps: by the number of chains, how many will be taken in all with so many chains and images at once.
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        x: Tensor,
        start: dict[str, Tensor] | None,
        evaluation: Evaluation,
        steps: Counter[int],
    ) -> None:
        self.model, self.guide, self.x, self.start = model, guide, x, start
        self.evaluation, self.steps = evaluation, steps

    def begin(self, num_chains: int, *, at_r: bool = False) -> tuple[AnnealedPath, list[Tensor]]:
        """The path for so many chains an image (chains outside, images inside), and where they start."""
        path = AnnealedPath(self.model, self.guide, self.x.repeat(num_chains, *[1] * (self.x.dim() - 1)))
        if self.start is None or at_r:
            state = path.start()
        else:
            tiled = {name: value.repeat(num_chains, *[1] * (value.dim() - 1)) for name, value in self.start.items()}
            state = path.unconstrained(tiled)
        path.prepare(self.evaluation, state, self.steps[num_chains])
        return path, state

    def tune(self, betas: Tensor, settings: Settings, advance: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Pilot runs: the β to use, and the step size of each image at each of them (t-1, b).

        They rise from r, whichever way the run goes. There is only one exact posterior draw for a backward run to
        begin at: a pilot from there would make step sizes that know where it lies, and E[1/w'] not quite 1/p(x).
        """
        falling = self.start is not None
        betas = betas.flip(0) if falling else betas
        if settings.schedule == "adaptive":
            betas = equal_lengths(betas, self.pilot(betas, PILOT_CHAINS, settings, advance).log_ratios)
        num_chains = min(PILOT_CHAINS, settings.num_chains)
        steps = self.pilot(betas, num_chains, settings, advance).step_sizes.log().mean(1).exp()
        return (betas.flip(0), torch.cat([steps[:-1].flip(0), steps[:1]])) if falling else (betas, steps)

    def pilot(self, betas: Tensor, num_chains: int, settings: Settings, advance: Callable[[], None]) -> Chains:
        """Chains that adapt their step sizes as they go; what is by step, split into chains and images (t-1, k, b)."""
        chains = run_chains(*self.begin(num_chains, at_r=True), betas, None, settings.num_leapfrog, advance)
        shape = (len(betas) - 1, num_chains, len(self.x))
        return replace(chains, step_sizes=chains.step_sizes.reshape(shape), log_ratios=chains.log_ratios.reshape(shape))

    def run(self, betas: Tensor, settings: Settings, advance: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """The run that counts, after its pilot: log weights (k, b) and acceptance (b)."""
        betas, step_sizes = self.tune(betas, settings, advance)
        path, state = self.begin(settings.num_chains)
        repeated = step_sizes.repeat(1, settings.num_chains)
        chains = run_chains(path, state, betas, repeated, settings.num_leapfrog, advance)
        shape = (settings.num_chains, len(self.x))
        return chains.log_weight.reshape(shape), chains.acceptance.reshape(shape).mean(0)


def leapfrog_steps(settings: Settings, num_betas: int, runs: int) -> Counter[int]:
    """By the number of chains for an image: how many steps all pilots and runs take with so many at once."""
    transitions: Counter[int] = Counter()
    if settings.schedule == "adaptive":
        transitions[PILOT_CHAINS] += num_betas - 1 + SETTLING
    transitions[min(PILOT_CHAINS, settings.num_chains)] += num_betas - 1 + SETTLING
    transitions[settings.num_chains] += num_betas - 1
    each = settings.num_leapfrog + 2  # where it starts, and for the weight, the density is asked for as well
    return Counter({chains: runs * number * each for chains, number in transitions.items()})


def ais(
    model: Program,
    x: Shaped[Tensor, "b *shape"],
    *,
    guide: Program | None = None,
    num_chains: int = 16,
    num_distributions: int = 500,
    num_leapfrog: int = 10,
    schedule: Schedule = "sigmoidal",
    compile: Compile = "auto",
    tell: Tell | None = None,
    progress: bool = False,
) -> AnnealingResult:
    """A stochastic lower bound on log p(x), image by image, usually tighter than `iwae` (Wu et al. 2017).

    model: a Pyro program with continuous latent sites, one plate entry for each image; x may be observed under any
        likelihood: for an implicit decoder G, N(x; G(z), σ² I) makes it one (Wu et al. 2017).
    guide: where chains start; the prior without it.
    num_chains: for each image; their weights are averaged. num_distributions: β_0 = 0 … 1.
    schedule: `sigmoidal`; `adaptive`, the β spread by what the pilot run saw; or the β for their number.
    compile, tell: whether to compile the steps of the chains, and what to do with the reason why it could not be done;
        as of `iwae`.

    Raises UserError for a model without latent sites or with discrete ones.
    """
    settings = Settings(num_chains, num_distributions, num_leapfrog, schedule)
    evaluation = Evaluation([model, *([] if guide is None else [guide])], compile, tell or note(progress))
    return annealed(model, guide, as_real(x), None, settings, evaluation, progress=progress)


def annealed(
    model: Program,
    guide: Program | None,
    x: Tensor,
    start: dict[str, Tensor] | None,
    settings: Settings,
    evaluation: Evaluation,
    *,
    runs: int = 1,
    progress: bool = False,
) -> AnnealingResult:
    """Forward annealing, or with a `start` at the posterior and falling β, backward; in chunks of images.

    runs: how many of the kind there will be with this `evaluation`.
    """
    settings.check()
    check_images(x)
    betas = first_schedule(settings.schedule, settings.num_distributions)
    betas = betas if start is None else betas.flip(0)
    images = max(1, CHUNK // settings.num_chains)
    chunks = x.split(images)
    sizes = Counter(len(part) for part in chunks)
    weights, acceptances = [], []
    programs = (model,) if guide is None else (model, guide)
    # Validation off: a proposal may leave the floating-point range, and is then rejected.
    with evaluating(*programs), pyro.validation_enabled(False), progress_bar(quiet=not progress) as bar:
        laps = 3 if settings.schedule == "adaptive" else 2
        task = bar.add_task("annealing", total=laps * (len(betas) - 1) * len(chunks), terms="")
        for first, part in zip(range(0, len(x), images), chunks, strict=True):
            begin = None if start is None else {name: value[first : first + images] for name, value in start.items()}
            steps = leapfrog_steps(settings, len(betas), runs * sizes[len(part)])
            annealer = Annealer(model, guide, part, begin, evaluation, steps)
            weight, acceptance = annealer.run(betas, settings, lambda: bar.advance(task))
            weights.append(weight)
            acceptances.append(acceptance)
    log_weight = torch.cat(weights, 1)
    bound = log_mean_exp(log_weight) * (1 if start is None else -1)
    kind: Literal["lower bound", "upper bound"] = "lower bound" if start is None else "upper bound"
    # Backward chains of an image share its one posterior draw: how far another would have led is not known.
    noise = log_mean_noise(log_weight) if start is None else torch.full_like(bound, math.nan)
    estimate = Estimate.of(bound, kind, settings.num_chains, noise)
    return AnnealingResult(estimate, torch.cat(acceptances))
