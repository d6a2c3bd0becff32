"""The training objective of a pair, −ELBO per image (or −IWAE bound), with its terms recorded in passing."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from probgen.errors import UserError
from probgen.inference.elbo import log_mean_exp
from probgen.inference.traces import Site, evaluating, innermost, marked, sample_sites, trace_pair
from probgen.models.contracts import Objective


@dataclass
class StepTerms:
    """A batch's loss, to be lowered, and what it is made of: nats per image, means over the batch.

    loss: differentiable. terms: `log_likelihood`, `kl`, `elbo` (KL weight 1), `kl_weight`; of a pair that is
        trained on its own draws only `student_forced`, of one that is trained with labels `joint`, log p(x, y), which
        are none of these. Detached.
    traces: the (model, guide) traces behind them, for finding a site that went wrong.
    gradients: of the loss in each parameter, in its layout in memory, once they are taken; None where there is none.
    """

    loss: Tensor
    terms: dict[str, Any]
    traces: list[Any] = field(default_factory=list)
    gradients: list[Tensor | None] = field(default_factory=list)

    @cached_property
    def is_finite(self) -> bool:
        """Whether the loss is neither nan nor infinite; waits for the device."""
        return math.isfinite(self.loss.item())


class Recording:
    """Mixin for Pyro's ELBOs: keeps the traces that they draw, so that the terms cost no second pass."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.traces: list[Any] = []

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        traces = super()._get_trace(model, guide, args, kwargs)  # type: ignore[misc]
        self.traces.append(traces)
        return traces


class RecordingTraceELBO(Recording, Trace_ELBO):
    """Pyro's `Trace_ELBO`: both terms by sampling; score-function gradients where z is not reparameterized."""


class RecordingMeanFieldELBO(Recording, TraceMeanField_ELBO):
    """Pyro's `TraceMeanField_ELBO`: the KL term in closed form."""


class NotReparameterizedError(UserError):
    """A latent site whose draws have no gradient."""


def static_objective(pair: Any) -> Callable[..., StepTerms]:
    """The same as `step_objective`, of operations on tensors alone, for recording; without enumerated sites.

    Raises NotReparameterizedError at a latent site whose gradient would need the score function.
    """
    return step_objective(pair, static=True)


def step_objective(pair: Any, *, static: bool = False) -> Callable[..., StepTerms]:
    """The function x ↦ loss and terms that the pair's `objective` asks for; a new one for each pair.

    It takes (x, labels) for a pair that takes labels: both are then observed.

    Pyro's ELBO objects remember the plates of the first model they see: none is shared between pairs. Whether the
    pair has sites that are marked for enumeration is seen at the first call.
    """
    objective: Objective = getattr(pair, "objective", None) or Objective()
    if getattr(pair, "takes_labels", False) and objective.bound != "elbo":
        raise UserError(f"objective={objective.bound} came with a pair that takes labels: set objective=elbo")
    if objective.bound == "iwae":
        return lambda x: iwae_step(pair, x, objective.num_particles)
    vectorize = objective.num_particles > 1 and bool(getattr(pair, "broadcasts", False))
    kind = RecordingMeanFieldELBO if objective.kl == "closed-form" else RecordingTraceELBO
    elbo = kind(
        num_particles=objective.num_particles,
        vectorize_particles=vectorize,
        max_plate_nesting=1 if vectorize else math.inf,
    )
    steps = {
        True: lambda x: enumerated_step(pair, x, objective.num_particles),
        False: lambda *x: elbo_step(pair, elbo, objective.num_particles, *x, static=static),
    }
    if static:
        return steps[False]
    found: list[bool] = []

    def step(*x: Tensor) -> StepTerms:
        if not found:
            found.append(has_marks(pair, x[0][:2]))
        return steps[found[0]](*x)

    return step


def has_marks(pair: Any, x: Float[Tensor, "b *shape"]) -> bool:
    """Whether a latent site of the pair is marked for enumeration; the random state is left as it was."""
    silent = pyro.validation_enabled(False)
    with torch.random.fork_rng(), torch.no_grad(), silent, evaluating(pair.model, pair.guide):
        guide_trace = poutine.trace(pair.guide).get_trace(x)
        return bool(marked(sample_sites(poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(x))))


def enumerated_step(pair: Any, x: Float[Tensor, "b *shape"], num_particles: int) -> StepTerms:
    """−ELBO per image, sums in place of draws at the sites that are marked for enumeration, the rest by sampling.

    Its gradient is that of Pyro's `TraceEnum_ELBO`, whose own sums fail in float32 (see `ExactLogRing`).
    """
    sites = trace_pair(pair.model, pair.guide, x, num_particles, training=True, enumerate_guide=True)
    log_likelihood, kl = (part.mean() for part in both_terms(sites))
    weight = getattr(pair, "kl_weight", 1.0)
    means = log_likelihood.detach(), kl.detach() / weight
    terms = {"elbo": means[0] - means[1], "log_likelihood": means[0], "kl": means[1], "kl_weight": weight}
    return StepTerms(kl - log_likelihood, terms)


def elbo_step(pair: Any, elbo: ELBO, num_particles: int, *x: Tensor, static: bool = False) -> StepTerms:
    """Pyro's loss over the batch (images, and labels where the pair takes them) by its size, and its traces' terms."""
    elbo.traces = []
    if static:
        loss = static_loss(elbo, pair, *x) / len(x[0])
    else:
        loss = elbo.differentiable_loss(pair.model, pair.guide, *x) / len(x[0])
    draws = len(x[0]) * num_particles
    log_likelihood = sum(
        node["log_prob_sum"].detach()
        for model_trace, _ in elbo.traces
        for node in sample_sites(model_trace).values()
        if node["is_observed"]
    )
    weight = getattr(pair, "kl_weight", 1.0)
    log_likelihood = torch.as_tensor(log_likelihood) / draws
    kl = (log_likelihood + loss.detach()) / weight
    if getattr(pair, "student_forcing", 0.0) > 0:  # no density of x was scored, and so no bound on one
        return StepTerms(loss, {"student_forced": -loss.detach()}, elbo.traces)
    if len(x) > 1:  # log p(x, y): another number than the log p(x) of validation
        return StepTerms(loss, {"joint": -loss.detach()}, elbo.traces)
    terms = {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, "kl_weight": weight}
    return StepTerms(loss, terms, elbo.traces)


def static_loss(elbo: ELBO, pair: Any, *x: Tensor) -> Tensor:
    """Σ log q(z | x) − log p(x, z) over the batch, mean over particles: Pyro's loss, which puts numbers into Python.

    `TraceMeanField_ELBO` has KL(q ‖ p) in place of a latent site's two terms, where it is known.
    """
    losses = []
    for model_trace, guide_trace in elbo._get_traces(pair.model, pair.guide, x, {}):
        latent = sample_sites(guide_trace)
        for name, node in latent.items():
            if not is_identically_zero(node["score_parts"].score_function):
                raise NotReparameterizedError(
                    f"site {name!r}: {type(innermost(node['fn'])).__name__} has no reparameterized draws, and its "
                    "score-function gradient needs Pyro"
                )
        closed = closed_forms(model_trace, latent) if isinstance(elbo, TraceMeanField_ELBO) else {}
        log_p = [n["log_prob_sum"] for name, n in sample_sites(model_trace).items() if name not in closed]
        log_q = [torch.as_tensor(n["score_parts"].entropy_term).sum() for k, n in latent.items() if k not in closed]
        losses.append(sum(log_q) + sum(closed.values()) - sum(log_p))
    return torch.as_tensor(sum(losses) / elbo.num_particles)


def closed_forms(model_trace: poutine.Trace, latent: dict[str, Any]) -> dict[str, Tensor]:
    """KL(q ‖ p) of the latent sites where it is known in closed form, summed over the site, with its scale and mask."""
    found = {}
    for name, node in latent.items():
        with suppress(NotImplementedError):
            kl = kl_divergence(node["fn"], model_trace.nodes[name]["fn"])
            kl = torch.as_tensor(kl).expand(node["fn"].batch_shape)  # a masked site has the number 0
            found[name] = scale_and_mask(kl, scale=node["scale"], mask=node["mask"]).sum()
    return found


def both_terms(sites: Sequence[Site]) -> tuple[Float[Tensor, "k b"], Float[Tensor, "k b"]]:
    """log p(x | z) and log q(z | x) − log p(z); zero where nothing is latent."""
    log_likelihood = torch.stack([s.log_p for s in sites if s.observed]).sum(0)
    ratios = [s.log_q - s.log_p for s in sites if s.log_q is not None]
    return log_likelihood, torch.stack(ratios).sum(0) if ratios else torch.zeros_like(log_likelihood)


def iwae_step(pair: Any, x: Float[Tensor, "b *shape"], num_particles: int) -> StepTerms:
    """−mean log (1/K) Σ_k w_k over the batch, one importance weight for each image and particle.

    Raises UserError for a latent site without reparameterized draws, whose gradient this would lose.
    """
    sites = trace_pair(pair.model, pair.guide, x, num_particles, training=True)
    for site in sites:
        if not site.observed and not site.q.has_rsample:
            raise NotReparameterizedError(
                f"site {site.name!r}: {type(site.q).__name__} has no reparameterized draws, and the objective "
                "iwae no other gradient: set objective=elbo"
            )
    log_likelihood, log_ratio = both_terms(sites)
    weight = getattr(pair, "kl_weight", 1.0)
    loss = -log_mean_exp(log_likelihood - log_ratio).mean()
    means = log_likelihood.detach().mean(), log_ratio.detach().mean() / weight
    terms = {"elbo": means[0] - means[1], "log_likelihood": means[0], "kl": means[1], "kl_weight": weight}
    return StepTerms(loss, terms)


def first_bad_site(step: StepTerms) -> str:
    """Which site of which program first holds a number that is nan or infinite."""
    for model_trace, guide_trace in step.traces:
        for program, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, node in sample_sites(trace).items():
                for what, number in (("value", node["value"]), ("log-probability", node["log_prob"])):
                    if not torch.isfinite(torch.as_tensor(number)).all():
                        return f"first at the {what} of site {name!r} of the {program}"
    return "no single site holds it: it arose in the sum"
