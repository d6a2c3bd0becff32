"""What a diagnosis of the guide says: the draws, the numbers, and what speaks against believing them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from probgen.inference.arviz_bridge import to_arviz
from probgen.inference.estimates import Estimate

LARGEST_R_HAT = 1.01  # Vehtari et al. 2021, section 4
FEWEST_EFFECTIVE = 100  # for each chain; ditto


@dataclass(frozen=True)
class Marginal:
    """One latent dimension under both: p(z_i | x) as NUTS draws it, and q(z_i | x).

    name: `z[3]`, say. r_hat, ess_bulk, ess_tail: of the NUTS draws.
    shift: (guide_mean − posterior_mean) / posterior_sd. spread: guide_sd / posterior_sd.
    mismatch: KL(q_i ‖ p_i) in nats of two Gaussians with these moments: ½ (spread² − 1 − log spread² + shift²).
    """

    name: str
    posterior_mean: float
    posterior_sd: float
    guide_mean: float
    guide_sd: float
    r_hat: float
    ess_bulk: float
    ess_tail: float
    shift: float
    spread: float
    mismatch: float

    @property
    def ess(self) -> float:
        """The lesser of both effective sample sizes."""
        return min(self.ess_bulk, self.ess_tail)

    def to_json(self) -> dict[str, Any]:
        """The numbers for machines; what is not finite is None."""
        return {key: finite(value) for key, value in (asdict(self) | {"ess": self.ess}).items()}


@dataclass(frozen=True)
class Diagnosis:
    """The guide of one image, measured.

    posterior, guide: draws of each latent site by NUTS and from the guide, shape `chain draw …`.
    marginals: one for each latent dimension, in the order of the sites.
    divergences: NUTS transitions, after the warm-up, whose trajectory went astray: its energy was off by over 1000.
    pareto_k: the shape of the tail of the importance weights; −inf where they are all equal.
    elbo, evidence, kl: in nats, with Monte Carlo standard errors. `evidence` is log p(x), `exact` where the pair has
        a `log_prob`, else a `lower bound` (IWAE). kl is evidence − elbo: from exact evidence an `estimate` of
        KL(q ‖ p(z | x)), from a lower bound of log p(x) a `lower bound` of it.
    """

    posterior: dict[str, Tensor] = field(repr=False, compare=False)
    guide: dict[str, Tensor] = field(repr=False, compare=False)
    marginals: tuple[Marginal, ...] = field(repr=False)
    divergences: int
    pareto_k: float
    elbo: Estimate
    evidence: Estimate
    kl: Estimate

    @property
    def num_chains(self) -> int:
        """Chains of NUTS."""
        return len(next(iter(self.posterior.values())))

    @property
    def num_samples(self) -> int:
        """Draws of each chain."""
        return next(iter(self.posterior.values())).shape[1]

    @property
    def pareto_k_threshold(self) -> float:
        """min(1 − 1 / log10 S, 0.7) for S weights: beyond it, nothing that they say is to be trusted."""
        return min(1 - 1 / math.log10(self.elbo.particles), 0.7)

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the NUTS draws."""
        return not chain_warnings(self)

    @property
    def trusted(self) -> bool:
        """Whether the guide's draws, weighted, could stand for the posterior."""
        return self.pareto_k <= self.pareto_k_threshold

    @property
    def worst(self) -> list[Marginal]:
        """The dimensions by the mismatch of guide and posterior, largest first."""
        return sorted(self.marginals, key=lambda m: math.inf if math.isnan(m.mismatch) else m.mismatch, reverse=True)

    def warnings(self) -> list[str]:
        """What stands between these numbers and belief, one sentence each; empty where nothing does."""
        return [*chain_warnings(self), *weight_warnings(self)]

    def to_json(self) -> dict[str, Any]:
        """The numbers for machines, without the draws; what is not finite is None."""
        return {
            "chains": self.num_chains,
            "samples": self.num_samples,
            "divergences": self.divergences,
            "r_hat": finite(largest(m.r_hat for m in self.marginals)),
            "ess": finite(min(m.ess for m in self.marginals)),
            "converged": self.converged,
            "pareto_k": finite(self.pareto_k),
            "pareto_k_threshold": self.pareto_k_threshold,
            "trusted": self.trusted,
            "elbo": self.elbo.to_json(),
            "evidence": self.evidence.to_json(),
            "kl": self.kl.to_json(),
            "marginals": [m.to_json() for m in self.marginals],
            "warnings": self.warnings(),
        }

    def to_arviz(self) -> Any:
        """Groups `posterior` (NUTS) and `guide`, as InferenceData (ArviZ 0.23) or xarray.DataTree (1.x)."""
        groups = {"posterior": self.posterior, "guide": self.guide}
        return to_arviz({group: {name: z.numpy() for name, z in draws.items()} for group, draws in groups.items()})


def chain_warnings(diagnosis: Diagnosis) -> list[str]:
    """Why the NUTS draws may not be the posterior's."""
    said, needed = [], FEWEST_EFFECTIVE * diagnosis.num_chains
    if diagnosis.divergences:
        total = diagnosis.num_chains * diagnosis.num_samples
        said.append(f"{diagnosis.divergences} of {total} NUTS transitions diverged: parts of p(z | x) may be missing")
    worst = max(diagnosis.marginals, key=lambda m: largest([m.r_hat]))
    if diagnosis.num_chains == 1:
        said.append("one chain says nothing on its own convergence: R̂ needs two or more")
    elif not worst.r_hat <= LARGEST_R_HAT:
        came = "not a number" if math.isnan(worst.r_hat) else f"{worst.r_hat:.4g}, over {LARGEST_R_HAT}"
        said.append(f"NUTS has not converged: R̂ of {worst.name} is {came}; take more warm-up and samples")
    slowest = min(diagnosis.marginals, key=lambda m: m.ess)
    if not slowest.ess >= needed:
        came = f"the draws of {slowest.name} are worth {slowest.ess:.0f} independent ones"
        said.append(f"{came}, under {needed}: take more samples")
    return said


def weight_warnings(diagnosis: Diagnosis) -> list[str]:
    """Why the evidence may be far from its bound."""
    if diagnosis.trusted:
        return []
    came = f"Pareto k̂ is {diagnosis.pareto_k:.2f}, over {diagnosis.pareto_k_threshold:.2f}"
    loose = (
        "" if diagnosis.evidence.kind == "exact" else "; the bound on log p(x) is loose, and the KL larger than told"
    )
    return [f"{came}: the guide gives too little mass to a part of the posterior{loose}"]


def largest(numbers: Iterable[float]) -> float:
    """The largest; a number that is none counts as the largest of all."""
    return max(math.inf if math.isnan(n) else n for n in numbers)


def finite(value: Any) -> Any:
    """For JSON, which has no infinity and no nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
