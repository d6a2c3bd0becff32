"""Bidirectional Monte Carlo: the evidence between two stochastic bounds (Grosse et al. 2015, 2016).

    forwards    z_0 ~ prior, annealed to the posterior:       E[w] = p(x),        E[log w] ≤ log p(x)
    backwards   z_T ~ posterior, annealed to the prior:       E[1/w'] = 1/p(x),   E[log w'] ≥ log p(x)

The backward chain needs an exact posterior draw. There is one for data simulated from the model itself: of
(z, x) ~ p(z) p(x | z), z is a draw from p(z | x).
"""

from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.annealing import Settings, annealed
from probgen.inference.compiled.evaluation import Compile, Evaluation, Tell, note
from probgen.inference.estimates import Estimate
from probgen.inference.schedules import Schedule
from probgen.inference.traces import Program, as_real, evaluating, innermost, sample_sites


@dataclass(frozen=True)
class BidirectionalResult:
    """Both bounds on data simulated from the model, the images, and what lies between.

    acceptance: mean acceptance probability of the HMC proposals of each image, in both directions.
    """

    lower: Estimate
    upper: Estimate
    images: Tensor
    acceptance: Float[Tensor, " b"]

    @property
    def gap(self) -> Estimate:
        """upper − lower: bounds the error of AIS with these settings on data from this model."""
        assert self.lower.noise is not None
        assert self.upper.noise is not None
        difference = self.upper.per_image - self.lower.per_image
        return Estimate.of(
            difference, "upper bound", self.lower.particles, torch.hypot(self.lower.noise, self.upper.noise)
        )


def bdmc(
    model: Program,
    num_images: int,
    like: Shaped[Tensor, "b *shape"],
    *,
    num_chains: int = 16,
    num_distributions: int = 500,
    num_leapfrog: int = 10,
    schedule: Schedule = "sigmoidal",
    compile: Compile = "auto",
    tell: Tell | None = None,
    progress: bool = False,
) -> BidirectionalResult:
    """AIS from both ends on images simulated from the model, whose posterior draw is known.

    like: any images of the right shape and type, of which only those are used.
    compile, tell: as of `ais`.

    Raises UserError for a model without latent sites or with discrete ones, or whose likelihood is a bound.
    """
    settings = Settings(num_chains, num_distributions, num_leapfrog, schedule)
    settings.check()
    images, latent = simulate(model, num_images, like)
    evaluation = Evaluation([model], compile, tell or note(progress))
    lower = annealed(model, None, images, None, settings, evaluation, runs=2, progress=progress)
    upper = annealed(model, None, images, latent, settings, evaluation, runs=2, progress=progress)
    acceptance = (lower.acceptance + upper.acceptance) / 2
    return BidirectionalResult(lower.estimate, upper.estimate, images, acceptance)


@torch.no_grad()
def simulate(model: Program, num_images: int, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """(z, x) ~ p(z) p(x | z): images, and the latent values that are posterior draws of theirs."""
    blank = as_real(like).new_zeros(num_images, *like.shape[1:])
    with evaluating(model), pyro.validation_enabled(False):
        sites = sample_sites(poutine.trace(poutine.uncondition(model)).get_trace(blank))
    for name, node in sites.items():
        base = innermost(node["fn"])
        if getattr(base, "is_bound", False):
            raise UserError(
                f"site {name!r}: {type(base).__name__} scores a bound on a log-probability, so that what is drawn from "
                "the model has no exact posterior draw: BDMC needs another likelihood (bernoulli, categorical, "
                "discretized-logistic, or real-valued data)"
            )
    observed = {name: node["value"] for name, node in sites.items() if "was_observed" in node["infer"]}
    latent = {name: node["value"] for name, node in sites.items() if name not in observed}
    if len(observed) != 1:
        raise UserError(f"the model observes {sorted(observed)}, expected one site: BDMC cannot put images together")
    ((name, value),) = observed.items()
    if value.numel() != blank.numel():
        raise UserError(f"site {name!r} observes {tuple(value.shape)}, not the images: BDMC needs obs=x")
    images = value.reshape(blank.shape)
    with evaluating(model), pyro.validation_enabled(False):
        again = sample_sites(poutine.trace(poutine.condition(model, data=latent)).get_trace(images))
    if not torch.equal(again[name]["value"].reshape(blank.shape), images):
        raise UserError(f"site {name!r} observes a function of x, expected obs=x: what is drawn from it is no image")
    return images, latent
