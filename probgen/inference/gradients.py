"""Two gradients of one ELBO, with the same mean and very different variances.

    reparameterized   z = g(ε, φ):   ∇_φ ELBO = E_ε[∇_φ (log p(x, g(ε, φ)) − log q(g(ε, φ)))]
    score function    z ~ q_φ:       ∇_φ ELBO = E_z[(log p(x, z) − log q(z)) ∇_φ log q(z)]

Source: Kingma and Welling 2014, section 2.2 and equation 4; Williams 1992 for the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.inference.traces import Program, as_real, trace_pair

Estimator = Literal["reparameterized", "score-function"]


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


def gradient_study(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    parameters: Sequence[Tensor],
    estimator: Estimator,
    num_draws: int = 1000,
) -> GradientStudy:
    """Draw the ELBO's gradient in the guide's `parameters` many times, each with one z per image."""
    surrogate = {"reparameterized": reparameterized, "score-function": score_function}[estimator]
    rows = []
    for _ in range(num_draws):
        gradients = torch.autograd.grad(surrogate(model, guide, as_real(x)), list(parameters))
        rows.append(torch.cat([g.flatten() for g in gradients]))
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
