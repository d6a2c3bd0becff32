"""The multivariate Gaussian by maximum likelihood.

    p(x) = N(x; μ, Σ),    θ* = argmax Σ_n log p(x_n; θ)  =  (mean, covariance) of the data

The likelihood of independent images is a product, its logarithm a sum; the maximum is known in closed form,
and stochastic variational inference with an empty guide climbs to the same point.
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

from probgen.distributions import DequantizedMultivariateNormal
from probgen.errors import UserError
from probgen.models.contracts import Kind

BIN_VARIANCE = 1 / 12  # of the uniform distribution over a bin one grey level wide


def moments(x: Shaped[Tensor, "b *shape"], levels: int | None) -> tuple[Tensor, Tensor]:
    """Mean (d) and covariance (d d) of the flattened data, in float64.

    Grey levels are taken as uniformly dequantized, x + u: the mean moves by ½, each variance grows by 1/12.
    """
    flat = x.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    covariance = centred.T @ centred / len(flat)
    if levels is None:
        return mean, covariance
    return mean + 0.5, covariance + BIN_VARIANCE * torch.eye(len(mean), dtype=torch.float64)


class MultivariateGaussian(nn.Module):
    """p(x) = N(x; μ, Σ), Σ = L Lᵀ.

    image_shape: (c, h, w), or (d,) for real vectors.
    levels: number of grey levels; the density is then of uniformly dequantized images (see
        `DequantizedMultivariateNormal`). None for real-valued data.
    covariance: `full`, or `diagonal`: independent pixels.
    shrinkage: λ of Σ = (1 − λ) S + λ (tr S / d) I (Ledoit and Wolf 2004), for data whose sample covariance S
        is singular: fewer images than dimensions, or constant pixels. Biased on purpose: no longer the
        maximum of the likelihood. Closed form only.
    estimator: how `probgen train` finds the parameters: `closed-form`, or `svi`, step by step.
    """

    kind = Kind.TRACTABLE

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        *,
        covariance: Literal["full", "diagonal"] = "full",
        shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.0,
        estimator: Literal["closed-form", "svi"] = "closed-form",
    ) -> None:
        super().__init__()
        if shrinkage and estimator == "svi":
            raise UserError(f"shrinkage={shrinkage} came with estimator=svi: it is for estimator=closed-form")
        self.image_shape, self.levels = tuple(image_shape), levels
        self.covariance, self.shrinkage, self.estimator = covariance, shrinkage, estimator
        size = math.prod(self.image_shape)
        self.mu = nn.Parameter(torch.zeros(size) + (levels or 0) / 2)
        self.log_diagonal = nn.Parameter(torch.zeros(size) + math.log((levels or 2) / 2))
        if covariance == "full":
            self.below_diagonal = nn.Parameter(torch.zeros(size, size))

    @property
    def scale_tril(self) -> Float[Tensor, "d d"]:
        """L, lower triangular with a positive diagonal."""
        diagonal = self.log_diagonal.exp().diag()
        return diagonal + self.below_diagonal.tril(-1) if self.covariance == "full" else diagonal

    def density(self) -> dist.Distribution:
        """N(μ, L Lᵀ) over flattened images."""
        if self.levels is None:
            return dist.MultivariateNormal(self.mu, scale_tril=self.scale_tril, validate_args=False)
        return DequantizedMultivariateNormal(self.mu, self.scale_tril, self.levels)

    def model(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """p(x) = N(x; μ, Σ)."""
        with pyro.plate("images", len(x)):
            pyro.sample("x", self.density(), obs=x.flatten(1).to(self.mu.dtype))

    def guide(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """Nothing is latent: the ELBO is log p(x) itself, and SVI is maximum likelihood."""

    def log_prob(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        """log p(x) in nats, exact; of the dequantized images when there are grey levels."""
        return self.density().log_prob(x.flatten(1).to(self.mu.dtype))

    @torch.no_grad()
    def sample(self, num: int, *, temperature: float = 1.0) -> Float[Tensor, "num *shape"]:
        """x = μ + temperature · L ε, ε ~ N(0, I), as grey levels where there are any."""
        drawn = dist.MultivariateNormal(self.mu, scale_tril=temperature * self.scale_tril).sample((num,))
        if self.levels is not None:
            drawn = drawn.floor().clamp(0, self.levels - 1)
        return drawn.reshape(num, *self.image_shape)

    @torch.no_grad()
    def maximum_likelihood(self, x: Shaped[Tensor, "b *shape"]) -> "MultivariateGaussian":
        """Set μ and Σ to the argmax of Σ_n log p(x_n): the mean and the covariance of the data.

        Raises UserError when the covariance is singular.
        """
        mean, covariance = moments(x, self.levels)
        if self.covariance == "diagonal":
            covariance = covariance.diagonal().diag()
        size = len(mean)
        target = covariance.trace() / size * torch.eye(size, dtype=torch.float64)
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * target
        scale_tril, failed = torch.linalg.cholesky_ex(covariance)
        if failed or scale_tril.diagonal().min() < 1e-6 * target[0, 0].sqrt():
            rank = int(torch.linalg.matrix_rank(covariance, hermitian=True))
            raise UserError(
                f"the covariance of {len(x)} examples in {size} dimensions is singular (rank {rank}), its "
                "likelihood has no maximum: give more data, or set shrinkage, e.g. shrinkage=0.1"
            )
        self.mu.copy_(mean)
        self.log_diagonal.copy_(scale_tril.diagonal().log())
        if self.covariance == "full":
            self.below_diagonal.copy_(scale_tril.tril(-1))
        return self
