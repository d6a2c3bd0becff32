"""The small model of `elbo`, `iwae` and `reparameterization`: z is one number, so that nothing need be sampled.

    p(z) = N(z; 0, 1)      p(x | z) = N(x; W z + μ, σ² I), x two numbers       q(z | x) = N(z; m, s²), not p(z | x)

Expectations under q are Gauss-Hermite quadratures, Σ_i w_i f(m + s e_i): exact for a polynomial in z, as every
logarithm of a density here is.
"""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from probgen.inference.traces import score
from probgen.models.ppca import ProbabilisticPCA

NODES = 40


class SmallPair(nn.Module):
    """Probabilistic PCA of two numbers with a guide that is not its posterior."""

    broadcasts = True

    def __init__(self) -> None:
        super().__init__()
        self.exact = ProbabilisticPCA((2,), latent_dim=1).double()
        with torch.no_grad():
            self.exact.W.copy_(torch.tensor([[1.2], [-0.7]], dtype=torch.float64))
            self.exact.mu.copy_(torch.tensor([0.3, 0.1], dtype=torch.float64))
            self.exact.log_sigma.copy_(torch.tensor(0.8, dtype=torch.float64).log())
        self.x = torch.tensor([[1.4, -0.9]], dtype=torch.float64)
        self.m = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.log_s = nn.Parameter(torch.tensor(0.7, dtype=torch.float64).log())

    def model(self, x: Float64[Tensor, "b 2"]) -> None:
        """p(x, z) = N(z; 0, 1) · N(x; W z + μ, σ² I)."""
        self.exact.model(x)

    def guide(self, x: Float64[Tensor, "b 2"]) -> None:
        """q(z | x) = N(z; m, s²), whatever x."""
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(self.m.expand(1), self.log_s.exp()).to_event(1))

    @property
    def opening(self) -> str:
        """The model with its numbers."""
        return (
            "probabilistic PCA with one latent number: p(z) = N(0, 1), p(x | z) = N(W z + μ, σ² I), "
            "W = (1.2, −0.7), μ = (0.3, 0.1), σ = 0.8, at x = (1.4, −0.9). It knows log p(x) and p(z | x); the guide "
            "q(z | x) = N(0.3, 0.7²) is on purpose not the posterior"
        )

    # --- log-densities at any z: of the joint by its covariance, of the others as the programs have them

    def at(self, z: Float64[Tensor, " n"], program: Callable[[Tensor], None]) -> dict[str, Float64[Tensor, " n"]]:
        """The log-probability of each site of a program at z."""
        return score(program, self.x.expand(len(z), 2), {"z": z[:, None]})

    def log_prior(self, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """log p(z)."""
        return self.at(z, self.model)["z"]

    def log_likelihood(self, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """log p(x | z)."""
        return self.at(z, self.model)["x"]

    def log_joint(self, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """log p(x, z) = log N((z, x); (0, μ), ((1, Wᵀ), (W, W Wᵀ + σ² I))): one density, not a sum of two."""
        W, mu, variance = (t.detach() for t in (self.exact.W, self.exact.mu, (2 * self.exact.log_sigma).exp()))
        one, zero = torch.ones(1, 1).to(W), torch.zeros(1).to(W)
        spread = W @ W.T + variance * torch.eye(len(W)).to(W)
        covariance = torch.cat([torch.cat([one, W.T], 1), torch.cat([W, spread], 1)])
        joint = MultivariateNormal(torch.cat([zero, mu]), covariance)
        return joint.log_prob(torch.cat([z[:, None], self.x.expand(len(z), 2)], 1))

    def log_posterior(self, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """log p(z | x)."""
        return self.at(z, self.exact.guide)["z"]

    def log_guide(self, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """log q(z | x)."""
        return self.at(z, self.guide)["z"]

    # --- expectations

    def nodes(self, number: int = NODES) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """z_i = m + s e_i, differentiable in m and s, and their weights, which sum to one."""
        points, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(number))
        return self.m + self.log_s.exp() * points, weights / weights.sum()

    def mean(self, f: Callable[[Tensor], Tensor]) -> float:
        """E_q[f(z)]."""
        with torch.no_grad():
            z, weights = self.nodes()
            return float(weights @ f(z))

    # --- what this model knows

    @torch.no_grad()
    def log_evidence(self) -> float:
        """log p(x)."""
        return float(self.exact.log_prob(self.x)[0])

    @torch.no_grad()
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z | x)."""
        found = self.exact.posterior(self.x)
        return found.mean[0, 0], found.variance[0, 0].sqrt()

    @torch.no_grad()
    def closed_kls(self) -> tuple[float, float]:
        """KL(q(z | x) ‖ p(z)) and KL(q(z | x) ‖ p(z | x)), in closed form."""
        q, prior = Normal(self.m, self.log_s.exp()), Normal(torch.zeros_like(self.m), torch.ones_like(self.m))
        return float(kl_divergence(q, prior)), float(kl_divergence(q, Normal(*self.posterior())))

    def closed_elbo(self) -> Float64[Tensor, ""]:
        """−log 2πσ² − (|x − W m − μ|² + s² |W|²) / 2σ² − KL(q(z | x) ‖ p(z)), differentiable in m and log s."""
        W, mu, variance = (t.detach() for t in (self.exact.W[:, 0], self.exact.mu, (2 * self.exact.log_sigma).exp()))
        spread = (2 * self.log_s).exp()
        error = (self.x[0] - W * self.m - mu).square().sum() + spread * W.square().sum()
        likelihood = -(2 * math.pi * variance).log() - error / (2 * variance)
        return likelihood - (self.m**2 + spread - 1 - spread.log()) / 2
