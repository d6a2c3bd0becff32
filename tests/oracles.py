"""Exact answers, written with NumPy and SciPy and without a line of probgen, and a Pyro pair that they are about."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special, stats
from torch import Tensor, nn

Array = NDArray[np.float64]


def array(x: ArrayLike | Tensor) -> Array:
    """Anything as float64 numbers."""
    return np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64)


# --- one pixel


def logistic_masses(loc: float, scale: float, levels: int) -> Array:
    """The mass of a logistic in the unit bin around each level, the tails in the outermost bins."""
    edges = np.concatenate([[-np.inf], np.arange(levels - 1) + 0.5, [np.inf]])
    below, above = stats.logistic.cdf(edges, loc, scale), stats.logistic.sf(edges, loc, scale)
    return np.where(edges[1:] > loc, above[:-1] - above[1:], below[1:] - below[:-1])


def normal_masses(loc: float, scale: float, levels: int) -> Array:
    """The mass of a Gaussian in each bin [x, x + 1), the tails in the outermost bins."""
    edges = np.concatenate([[-np.inf], np.arange(1, levels), [np.inf]])
    return np.diff(stats.norm.cdf(edges, loc, scale))


def log_normal_bin_masses(loc: float, scale: float, levels: int) -> Array:
    """log ∫₀¹ N(x + u) du for each level, without the tails."""
    edges = np.arange(levels + 1)
    below, above = stats.norm.logcdf(edges, loc, scale), stats.norm.logsf(edges, loc, scale)
    with np.errstate(divide="ignore"):  # the branch not taken
        left = below[1:] + np.log1p(-np.exp(below[:-1] - below[1:]))
        right = above[:-1] + np.log1p(-np.exp(above[1:] - above[:-1]))
    return np.where(edges[1:] > loc, right, left)


def dequantized_normal(x: float, loc: float, scale: float) -> float:
    """E_u[log N(x + u; loc, scale²)], u uniform on [0, 1], by quadrature."""
    return integrate.quad(lambda u: stats.norm.logpdf(x + u, loc, scale), 0, 1)[0]


def dequantized_multivariate_normal(x: ArrayLike, mean: ArrayLike, covariance: ArrayLike) -> float:
    """E_u[log N(x + u; mean, covariance)], u uniform on the unit cube, by Gauss–Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    points = (np.array(list(itertools.product(nodes, repeat=len(array(x))))) + 1) / 2
    volumes = np.prod(list(itertools.product(weights / 2, repeat=len(array(x)))), axis=1)
    return float(volumes @ stats.multivariate_normal(mean, covariance).logpdf(array(x) + points))


# --- the linear-Gaussian model: z ~ N(0, I), x | z ~ N(W z + μ, σ² I)


def gaussian_log_density(x: ArrayLike, mean: ArrayLike, covariance: ArrayLike) -> Array:
    """log N(x; mean, covariance) of each row."""
    return np.atleast_1d(stats.multivariate_normal(array(mean), array(covariance)).logpdf(array(x)))


def linear_gaussian_evidence(x: ArrayLike, W: ArrayLike, mu: ArrayLike, sigma: float) -> Array:
    """log p(x) = log N(x; μ, W Wᵀ + σ² I) of each row."""
    W = array(W)
    return gaussian_log_density(x, mu, W @ W.T + float(sigma) ** 2 * np.eye(len(W)))


def linear_gaussian_posterior(x: ArrayLike, W: ArrayLike, mu: ArrayLike, sigma: float) -> tuple[Array, Array]:
    """Means (b q) and covariance (q q) of p(z | x), by conditioning the joint Gaussian of z and x on x."""
    W = array(W)
    gain = W.T @ np.linalg.inv(W @ W.T + float(sigma) ** 2 * np.eye(len(W)))
    return (array(x) - array(mu)) @ gain.T, np.eye(W.shape[1]) - gain @ W


def diagonal_gaussian_kl(mean_q: ArrayLike, std_q: ArrayLike, mean_p: ArrayLike, std_p: ArrayLike) -> Array:
    """KL(N(mean_q, std_q²) ‖ N(mean_p, std_p²)) of each dimension."""
    ratio = array(std_q) ** 2 / array(std_p) ** 2
    return 0.5 * (ratio - 1 - np.log(ratio) + (array(mean_q) - array(mean_p)) ** 2 / array(std_p) ** 2)


def linear_gaussian_elbo(
    x: ArrayLike, W: ArrayLike, mu: ArrayLike, sigma: float, guide_mean: ArrayLike, guide_std: ArrayLike
) -> tuple[Array, Array]:
    """E_q[log p(x | z)] and KL(q ‖ p) of each row, for q = N(guide_mean, diag(guide_std²))."""
    x, W, std = array(x), array(W), array(guide_std) * np.ones_like(array(guide_mean))
    error = ((x - array(guide_mean) @ W.T - array(mu)) ** 2).sum(-1) + (std**2 @ W.T**2).sum(-1)
    variance = float(sigma) ** 2
    log_likelihood = -0.5 * x.shape[1] * math.log(2 * math.pi * variance) - error / (2 * variance)
    return log_likelihood, diagonal_gaussian_kl(guide_mean, std, 0, 1).sum(-1)


def probabilistic_pca(x: ArrayLike, q: int) -> tuple[Array, Array]:
    """Mean and covariance W Wᵀ + σ² I of Tipping and Bishop's maximum, through a singular value decomposition."""
    x = array(x)
    mean = x.mean(0)
    _, singular, directions = np.linalg.svd((x - mean) / math.sqrt(len(x)), full_matrices=False)
    noise = (singular[q:] ** 2).mean()
    signal = (directions[:q].T * (singular[:q] ** 2 - noise)) @ directions[:q]
    return mean, signal + noise * np.eye(x.shape[1])


def linear_gaussian_entropy(W: ArrayLike, sigma: float) -> float:
    """−E_x[log p(x)] of the linear-Gaussian model: ½ log det(2πe (W Wᵀ + σ² I))."""
    W = array(W)
    return 0.5 * np.linalg.slogdet(2 * math.pi * math.e * (W @ W.T + float(sigma) ** 2 * np.eye(len(W))))[1]


def linear_gaussian_iwae(
    x: ArrayLike, W: ArrayLike, mu: ArrayLike, sigma: float, guide_mean: ArrayLike, guide_std: ArrayLike, num: int
) -> Array:
    """One draw of the bound log (1/num) Σ w of each row, for q = N(guide_mean, diag(guide_std²))."""
    mean, std = array(guide_mean), array(guide_std)
    z = mean + std * np.random.default_rng(5).normal(size=(num, *mean.shape))
    log_likelihood = stats.norm.logpdf(array(x), z @ array(W).T + array(mu), float(sigma)).sum(-1)
    log_ratio = (stats.norm.logpdf(z) - stats.norm.logpdf(z, mean, std)).sum(-1)
    return special.logsumexp(log_likelihood + log_ratio, axis=0) - math.log(num)


# --- one latent number, whatever the model


def mixture_evidence(x: ArrayLike, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> Array:
    """log Σ_k π_k N(x; m_k, C_k) of each row."""
    each = [gaussian_log_density(x, m, c) for m, c in zip(array(means), array(covariances), strict=True)]
    return special.logsumexp(np.stack(each, -1), axis=-1, b=array(weights))


def quadrature_evidence(
    x: ArrayLike, mean_of: Callable[[Array], Array], sigma: float, reach: float = 8.0, nodes: int = 8001
) -> Array:
    """log ∫ N(z; 0, 1) N(x; mean_of(z), σ² I) dz of each row, z a number, by the trapezoidal rule on ±reach."""
    z = np.linspace(-reach, reach, nodes)
    joint = stats.norm.logpdf(array(x)[:, None], mean_of(z), sigma).sum(-1) + stats.norm.logpdf(z)
    return special.logsumexp(joint, axis=-1) + math.log(z[1] - z[0])


# --- binary images with a latent Gaussian


def binary_images(num_pixels: int) -> Array:
    """All images of 0 and 1, one a row."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_pixels)))


def bernoulli_evidence(x: ArrayLike, logits_of: Callable[[Array], Array], latent_dim: int, nodes: int = 60) -> Array:
    """log ∫ N(z; 0, I) Π_i Bernoulli(x_i; σ(logits_of(z)_i)) dz of each row, by Gauss–Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z = np.array(list(itertools.product(points, repeat=latent_dim)))
    prior = np.prod(list(itertools.product(weights / weights.sum(), repeat=latent_dim)), axis=1)
    on = 1 / (1 + np.exp(-logits_of(z)))
    likelihood = np.prod(np.where(array(x)[:, None] == 1, on, 1 - on), axis=-1)
    return np.log(likelihood @ prior)


# --- discrete latents


def summed_evidence(sizes: Sequence[int], log_joint: Callable[..., ArrayLike]) -> Array:
    """log Σ_c exp log_joint(c_1, c_2, …), one combination of values after the other."""
    return np.logaddexp.reduce([array(log_joint(*values)) for values in itertools.product(*map(range, sizes))])


# --- a pair whose every number is known


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x | z ~ N(W z + μ, σ² I); a guide N(G x + g, s²) that is wrong unless one makes it right."""

    def __init__(self, dim: int = 3, latent_dim: int = 2, *, seed: int = 0) -> None:
        super().__init__()
        draw = np.random.default_rng(seed).normal
        self.W = nn.Parameter(torch.tensor(draw(size=(dim, latent_dim))))
        self.mu = nn.Parameter(torch.tensor(draw(size=dim)))
        self.G = nn.Parameter(torch.tensor(0.2 * draw(size=(latent_dim, dim))))
        self.g = nn.Parameter(torch.tensor(0.2 * draw(size=latent_dim)))
        self.log_s = nn.Parameter(torch.full((latent_dim,), math.log(0.9), dtype=torch.float64))
        self.sigma = 0.8

    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.W.shape[1]).to(self.W), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T + self.mu, self.sigma).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x @ self.G.T + self.g, self.log_s.exp()).to_event(1))

    def data(self, num: int, seed: int = 1) -> Tensor:
        """x ~ p(x)."""
        draw = np.random.default_rng(seed).normal
        noise = self.sigma * draw(size=(num, len(self.mu)))
        return torch.tensor(draw(size=(num, self.W.shape[1])) @ array(self.W).T + array(self.mu) + noise)

    def known(self) -> tuple[Array, Array, float]:
        """W, μ, σ, as the oracles take them."""
        return array(self.W), array(self.mu), self.sigma

    def evidence(self, x: Tensor) -> Array:
        """log p(x) of each row."""
        return linear_gaussian_evidence(x, *self.known())

    def terms(self, x: Tensor) -> tuple[Array, Array]:
        """E_q[log p(x | z)] and KL(q ‖ p) of each row."""
        guide_mean = array(x) @ array(self.G).T + array(self.g)
        return linear_gaussian_elbo(x, *self.known(), guide_mean, np.exp(array(self.log_s)))


class ExactLinearGaussian(LinearGaussian):
    """The same model with its posterior as guide: every importance weight equals p(x)."""

    def guide(self, x: Tensor) -> None:
        mean, covariance = linear_gaussian_posterior(x, *self.known())
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance)))


class Clusters:
    """z a mixture of two Gaussians, x | z ~ N(a z, σ² I): a posterior of two modes, a marginal in closed form."""

    weights, means, stds = np.array([0.3, 0.7]), np.array([-2.0, 1.0]), np.array([0.4, 0.8])
    a, sigma = np.array([0.8, -0.5, 0.2]), 1.0

    def model(self, x: Tensor) -> None:
        weights, means, stds = (torch.tensor(t) for t in (self.weights, self.means, self.stds))
        with pyro.plate("images", len(x)):
            prior = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, stds))
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[:, None] * torch.tensor(self.a), self.sigma).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x @ torch.tensor(self.a), 2.0))

    def data(self, num: int) -> Tensor:
        """x ~ p(x)."""
        draw = np.random.default_rng(1)
        which = draw.choice(2, num, p=self.weights)
        z = draw.normal(self.means[which], self.stds[which])
        return torch.tensor(z[:, None] * self.a + self.sigma * draw.normal(size=(num, 3)))

    def evidence(self, x: Tensor) -> Array:
        """log p(x) of each row."""
        outer = np.outer(self.a, self.a)
        covariances = [s**2 * outer + self.sigma**2 * np.eye(3) for s in self.stds]
        return mixture_evidence(x, self.weights, np.outer(self.means, self.a), covariances)


class Parabola:
    """z ~ N(0, 1), x | z ~ N((z² − 1, z / 4), σ² I): the two signs of z explain x nearly as well."""

    sigma = 0.8

    def mean_of(self, z: Array) -> Array:
        """E[x | z]."""
        return np.stack([z**2 - 1, z / 4], -1)

    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z**2 - 1, z / 4], -1), self.sigma).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x[:, 1:], 1.5).to_event(1))

    def data(self, num: int) -> Tensor:
        """x ~ p(x)."""
        draw = np.random.default_rng(1).normal
        return torch.tensor(self.mean_of(draw(size=num)) + self.sigma * draw(size=(num, 2)))

    def evidence(self, x: Tensor) -> Array:
        """log p(x) of each row."""
        return quadrature_evidence(x, self.mean_of, self.sigma)


def all_images(levels: int, shape: Sequence[int]) -> Tensor:
    """Every image of that shape, as float64 levels."""
    grid = list(itertools.product(range(levels), repeat=math.prod(shape)))
    return torch.tensor(grid, dtype=torch.float64).reshape(-1, *shape)
