"""Probabilistic PCA (Tipping and Bishop 1999): the latent-variable model that one can solve.

    p(z) = N(z; 0, I)            p(x | z) = N(x; W z + μ, σ² I)
    p(x) = N(x; μ, W Wᵀ + σ² I)  p(z | x) = N(z; M⁻¹ Wᵀ (x − μ), σ² M⁻¹),  M = Wᵀ W + σ² I

Everything a variational autoencoder can only bound is exact here: the oracle for all that estimates log p(x).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor, nn

from probgen.distributions import DequantizedNormal
from probgen.errors import UserError
from probgen.models.contracts import Kind
from probgen.models.gaussian import BIN_VARIANCE, moments


class ProbabilisticPCA(nn.Module):
    """p(x, z) = N(z; 0, I) · N(x; W z + μ, σ² I), with the exact posterior as guide.

    image_shape: (c, h, w), or (d,) for real vectors.
    levels: number of grey levels; each pixel is then scored by `DequantizedNormal`, under which posterior
        and evidence stay exact: x becomes x + ½ and a constant −d / (24 σ²) is added. None for real data.
    latent_dim: size of z.
    estimator: how `probgen train` finds the parameters: `closed-form`, or `svi`, step by step.
    """

    kind = Kind.TRACTABLE
    broadcasts = True

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        *,
        latent_dim: Annotated[int, Field(ge=1, le=100_000)] = 2,
        estimator: Literal["closed-form", "svi"] = "closed-form",
    ) -> None:
        super().__init__()
        self.image_shape, self.levels, self.estimator = tuple(image_shape), levels, estimator
        size = math.prod(self.image_shape)
        if latent_dim >= size:
            raise UserError(f"latent_dim={latent_dim} came, expected less than the {size} numbers of an image")
        spread = (levels or 2) / 2
        self.W = nn.Parameter(0.1 * spread * torch.randn(size, latent_dim))
        self.mu = nn.Parameter(torch.zeros(size) + (levels or 0) / 2)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(spread)))

    def likelihood(self, z: Float[Tensor, "*b q"]) -> dist.Distribution:
        """p(x | z) = N(x; W z + μ, σ² I)."""
        loc, sigma = z @ self.W.T + self.mu, self.log_sigma.exp()
        pixels = dist.Normal(loc, sigma) if self.levels is None else DequantizedNormal(loc, sigma, self.levels)
        return pixels.to_event(1)

    def posterior(self, x: Shaped[Tensor, "b *shape"]) -> dist.MultivariateNormal:
        """p(z | x) = N(z; M⁻¹ Wᵀ (x − μ), σ² M⁻¹)."""
        M = self.W.T @ self.W + (2 * self.log_sigma).exp() * torch.eye(self.W.shape[1]).to(self.W)
        mean = torch.linalg.solve(M, self.W.T @ (self.centre(x) - self.mu).T).T
        return dist.MultivariateNormal(mean, precision_matrix=M / (2 * self.log_sigma).exp())

    def centre(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b d"]:
        """x flattened; grey levels are represented by the centres of their bins."""
        return x.flatten(1).to(self.mu.dtype) + (0.0 if self.levels is None else 0.5)

    def model(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """p(x, z) = N(z; 0, I) · N(x; W z + μ, σ² I)."""
        with pyro.plate("images", len(x)):
            zeros = torch.zeros(self.W.shape[1]).to(self.W)
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x.flatten(1).to(self.mu.dtype))

    def guide(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """q(z | x) = p(z | x): the third term of log p(x) vanishes."""
        with pyro.plate("images", len(x)):
            pyro.sample("z", self.posterior(x))

    def log_prob(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        """log p(x) = log N(x; μ, W Wᵀ + σ² I) in nats, exact."""
        variance = (2 * self.log_sigma).exp()
        marginal = dist.LowRankMultivariateNormal(self.mu, self.W, variance.expand(self.mu.shape))
        log_prob = marginal.log_prob(self.centre(x))
        return log_prob if self.levels is None else log_prob - len(self.mu) * BIN_VARIANCE / (2 * variance)

    @torch.no_grad()
    def maximum_likelihood(self, x: Shaped[Tensor, "b *shape"]) -> "ProbabilisticPCA":
        """Set W, μ, σ to the argmax of Σ_n log p(x_n) (Tipping and Bishop 1999, equations 7 and 8).

        W = U (Λ − σ² I)^½ with the leading eigenvectors U and eigenvalues Λ of the covariance; σ² the mean of
        the others. With grey levels, the 1/12 of every bin's variance counts as noise, so that σ² is
        (Σ_{i>q} λ_i + d / 12) / (d − q); eigenvalues below σ² then carry no signal and leave W.

        Raises UserError when the data lie in a subspace of latent_dim dimensions: σ would be 0.
        """
        size, q = self.W.shape
        mean, covariance = moments(x, None)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        eigenvalues, eigenvectors = eigenvalues.flip(0).clamp_min(0), eigenvectors.flip(1)
        noise = 0.0 if self.levels is None else size * BIN_VARIANCE
        kept = q
        while kept and eigenvalues[kept - 1] < (eigenvalues[kept:].sum() + noise) / (size - kept):
            kept -= 1
        variance = (eigenvalues[kept:].sum() + noise) / (size - kept)
        if variance <= 1e-10 * eigenvalues[0] or variance == 0:
            raise UserError(f"the data lie in {q} dimensions or fewer, σ would be 0: set a smaller latent_dim")
        self.mu.copy_(mean + (0.0 if self.levels is None else 0.5))
        self.log_sigma.copy_(0.5 * variance.log())
        self.W.zero_()
        self.W[:, :kept] = (eigenvectors[:, :kept] * (eigenvalues[:kept] - variance).clamp_min(0).sqrt()).to(self.W)
        return self
