"""Two gradients of one ELBO, with the same mean and very different variances.

    reparameterized   z = g(ε, φ):   ∇_φ ELBO = E_ε[∇_φ (log p(x, g(ε, φ)) − log q(g(ε, φ)))]
    score function    z ~ q_φ:       ∇_φ ELBO = E_z[(log p(x, z) − log q(z)) ∇_φ log q(z)]

Source: Kingma and Welling 2014, section 2.2 and equation 4; Williams 1992 for the second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.console import progress_bar
from probgen.errors import UserError
from probgen.inference.traces import Program, as_real, evaluating, trace_pair

Estimator = Literal["reparameterized", "score-function"]
ESTIMATORS: tuple[Estimator, ...] = ("reparameterized", "score-function")

FEWEST_DRAWS = 10  # with fewer, the difference of means has no scale to be measured on
MOST_COORDINATES = 2_000  # of a gradient, evenly spread, are kept for each draw


@dataclass(frozen=True)
class GradientStudy:
    """Many draws of a gradient: one row for each draw, one column for each number of the parameters.

    Gradients of the batch's mean ELBO, in nats per image and unit of the parameter.
    """

    draws: Float[Tensor, "n p"]

    @property
    def mean(self) -> Float[Tensor, " p"]:
        """The gradient."""
        return self.draws.mean(0)

    @property
    def stderr(self) -> Float[Tensor, " p"]:
        """Standard error of `mean`."""
        return self.draws.std(0) / len(self.draws) ** 0.5

    @property
    def variance(self) -> Float[Tensor, " p"]:
        """Variance of one draw."""
        return self.draws.var(0)


@dataclass(frozen=True)
class GradientComparison:
    """Both estimators of one gradient, in the same coordinates; `num_parameters` is how many there are in all."""

    reparameterized: GradientStudy
    score_function: GradientStudy
    num_parameters: int

    @property
    def variance_ratio(self) -> float:
        """How many times the variance of one score-function draw is that of a reparameterized one, summed over all."""
        return float(self.score_function.variance.sum() / self.reparameterized.variance.sum())

    @property
    def disagreement(self) -> float:
        """Root mean square of the means' difference in its standard errors: about 1 where both are unbiased."""
        error = torch.hypot(self.reparameterized.stderr, self.score_function.stderr)
        difference = self.reparameterized.mean - self.score_function.mean
        seen = error > 0
        return float((difference[seen] / error[seen]).square().mean().sqrt())

    def to_json(self) -> dict[str, Any]:
        """What the table shows."""
        studies = {"reparameterized": self.reparameterized, "score-function": self.score_function}
        return {
            "num_draws": len(self.reparameterized.draws),
            "num_parameters": self.num_parameters,
            "coordinates": self.reparameterized.draws.shape[1],
            "unit": "nats per image and unit of the parameter",
            "estimators": {
                name: {"norm_of_mean": float(s.mean.norm()), "variance": float(s.variance.sum())}
                for name, s in studies.items()
            },
            "variance_ratio": self.variance_ratio,
            "disagreement": self.disagreement,
        }


def compare_gradients(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    parameters: Sequence[Tensor],
    num_draws: int = 500,
    *,
    progress: bool = False,
) -> GradientComparison:
    """The gradient of the batch's mean ELBO in the guide's parameters, by both estimators.

    parameters: of which those that the guide does not depend on are left out.

    Raises UserError for a guide without parameters, or with a site that has no reparameterized draws.
    """
    if num_draws < FEWEST_DRAWS:
        raise UserError(f"num_draws={num_draws} came, expected {FEWEST_DRAWS} or more")
    used = guide_parameters(model, guide, x, parameters)
    step = -(-sum(p.numel() for p in used) // MOST_COORDINATES)
    with progress_bar(quiet=not progress) as bar:
        task = bar.add_task("gradients", total=2 * num_draws, terms="")
        first, second = (
            gradient_study(model, guide, x, used, estimator, num_draws, step, lambda: bar.advance(task))
            for estimator in ESTIMATORS
        )
    return GradientComparison(first, second, sum(p.numel() for p in used))


def guide_parameters(model: Program, guide: Program, x: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Those of the parameters that log q(z | x) depends on."""
    with evaluating(model, guide):
        sites = trace_pair(model, guide, as_real(x), detach=True)
    latent = [site for site in sites if site.log_q is not None]
    for site in latent:
        if not site.q.has_rsample:
            raise UserError(
                f"site {site.name!r}: {type(site.q).__name__} has no reparameterized draws, so that only one of the "
                "two gradients exists"
            )
    wanted = [p for p in parameters if p.requires_grad]
    log_q = sum(site.log_q.sum() for site in latent if site.log_q is not None)
    if not isinstance(log_q, Tensor) or not log_q.requires_grad or not wanted:
        raise UserError("the guide has no parameters: there is no gradient to estimate")
    gradients = torch.autograd.grad(log_q, wanted, allow_unused=True)
    return [p for p, gradient in zip(wanted, gradients, strict=True) if gradient is not None]


def gradient_study(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    parameters: Sequence[Tensor],
    estimator: Estimator,
    num_draws: int = 1000,
    every: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> GradientStudy:
    """Draw the ELBO's gradient in the guide's `parameters` many times, each with one z per image.

    every: keep each so-many-th coordinate only.
    """
    surrogate = {"reparameterized": reparameterized, "score-function": score_function}[estimator]
    rows = []
    with evaluating(model, guide):
        for _ in range(num_draws):
            gradients = torch.autograd.grad(surrogate(model, guide, as_real(x)), list(parameters))
            rows.append(torch.cat([g.flatten() for g in gradients])[::every])
            advance()
    return GradientStudy(torch.stack(rows))


def reparameterized(model: Program, guide: Program, x: Tensor) -> Tensor:
    """The ELBO, differentiable through z."""
    sites = trace_pair(model, guide, x)
    return torch.stack([s.log_p - (0 if s.log_q is None else s.log_q) for s in sites]).sum(0).mean()


def score_function(model: Program, guide: Program, x: Tensor) -> Tensor:
    """A number whose gradient in φ is that of the score-function estimator; z a constant."""
    sites = trace_pair(model, guide, x, detach=True)
    log_q = torch.stack([s.log_q for s in sites if s.log_q is not None]).sum(0)
    log_p = torch.stack([s.log_p for s in sites]).sum(0)
    return ((log_p - log_q).detach() * log_q + log_p).mean()
