"""Distances between the features of samples and of data: Fréchet's (FID) and the kernel's (KID)."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgen.errors import UserError

KERNEL_SUBSETS = 10


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased squared distance, which may be negative, and its standard error over disjoint subsets."""

    value: float
    stderr: float | None
    subsets: int
    subset_size: int

    @property
    def protocol(self) -> str:
        """How it was found."""
        return (
            f"KID (Bińkowski et al. 2018), unbiased MMD² of the kernel (x·y/f + 1)³, mean of {self.subsets} disjoint "
            f"subsets of {self.subset_size}"
        )


def frechet_distance(samples: Float[Tensor, "n f"], real: Float[Tensor, "m f"]) -> float:
    """d² = |μ_s - μ_r|² + tr(Σ_s + Σ_r - 2 (Σ_s Σ_r)^½), the means and covariances those of the features.

    Heusel et al. (2017), "GANs trained by a two time-scale update rule", the square of its distance, as
    everybody reports it. Biased upwards by about 1/n: compare equal numbers only. It is the published FID only on
    the features of the Inception network.

    Raises UserError for fewer than two samples or real ones.
    """
    _check(samples, real, 2)
    with _torchmetrics():
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(_Features(samples.shape[1]))
        middle = real.detach().double().mean(dim=0)  # a common shift changes nothing but the rounding
        metric.update(real.detach().double() - middle, real=True)
        metric.update(samples.detach().double() - middle, real=False)
        return max(0.0, float(metric.compute()))


def kernel_distance(
    samples: Float[Tensor, "n f"], real: Float[Tensor, "m f"], *, subsets: int = KERNEL_SUBSETS
) -> KernelDistance:
    """MMD²_u = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j), k(x, y) = (x·y/f + 1)³.

    Bińkowski et al. (2018), "Demystifying MMD GANs", section 4; the mean over `subsets`. These are disjoint, not
    drawn anew as in the paper, so that their spread gives an honest standard error. The rows must be in random order.

    Raises UserError for fewer than two samples or real ones in a subset.
    """
    size = min(len(samples), len(real)) // subsets
    _check(samples, real, 2 * subsets)
    values = []
    with _torchmetrics():
        from torchmetrics.image.kid import KernelInceptionDistance

        for subset in range(subsets):
            rows = slice(subset * size, (subset + 1) * size)
            metric = KernelInceptionDistance(_Features(samples.shape[1]), subsets=1, subset_size=size)
            metric.update(real[rows].detach().double(), real=True)
            metric.update(samples[rows].detach().double(), real=False)
            values.append(metric.compute()[0])
    numbers = torch.stack(values).double()
    stderr = float(numbers.std() / math.sqrt(subsets)) if subsets > 1 else None
    return KernelDistance(float(numbers.mean()), stderr, subsets, size)


def _check(samples: Float[Tensor, "n f"], real: Float[Tensor, "m f"], fewest: int) -> None:
    if min(len(samples), len(real)) < fewest:
        raise UserError(f"{len(samples)} samples and {len(real)} real ones came, expected at least {fewest} of both")


class _Features(nn.Module):
    """The network of a metric that is given the features themselves."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        return features


@contextmanager
def _torchmetrics() -> Iterator[None]:
    """Without its warnings, and with its draws (an order of the rows) from a stream of their own."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        yield
