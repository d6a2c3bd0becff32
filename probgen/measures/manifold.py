"""Precision and recall of samples: quality and variety apart."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from probgen.errors import UserError

NEIGHBOURS = 3

SHARE_ERROR = "standard error with two successes and two failures added (Agresti & Coull 1998)"

_CHUNK_ROWS = 1_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of samples in the manifold of the data. recall: share of data in that of the samples."""

    precision: float
    recall: float


def precision_recall(
    samples: Float[Tensor, "n f"], real: Float[Tensor, "m f"], *, neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """precision(Φ_r, Φ_g) = (1/|Φ_g|) Σ f(φ_g, Φ_r), recall(Φ_r, Φ_g) = (1/|Φ_r|) Σ f(φ_r, Φ_g).

    Kynkäänniemi et al. (2019), "Improved precision and recall metric for assessing generative models", equations 1
    and 2: f(φ, Φ) is 1 if φ lies in the ball of a φ' ∈ Φ that reaches to its k-th nearest neighbour in Φ. Both grow
    or shrink with the numbers of samples: compare equal ones only.

    Raises UserError for sets of k or fewer.
    """
    if min(len(samples), len(real)) <= neighbours:
        raise UserError(
            f"{len(samples)} samples and {len(real)} real ones came, expected more than {neighbours} of both: a ball "
            f"reaches to the {neighbours}rd nearest neighbour"
        )
    middle = real.detach().cpu().double().mean(dim=0)  # near the origin squares lose least
    samples, real = (points.detach().cpu().double() - middle for points in (samples, real))
    precision = share_covered(samples, real, ball_radii(real, neighbours))
    recall = share_covered(real, samples, ball_radii(samples, neighbours))
    return PrecisionRecall(precision, recall)


def ball_radii(points: Float64[Tensor, "n f"], neighbours: int) -> Float64[Tensor, "n"]:
    """The squared distance of each point to its k-th nearest neighbour among the others."""
    # The nearest of all is the point itself, or a twin of it: the k-th of the others is the (k+1)-th of all.
    chunks = points.split(_CHUNK_ROWS)
    nearest = [_squares(chunk, points).topk(neighbours + 1, dim=1, largest=False).values for chunk in chunks]
    return torch.cat(nearest)[:, -1]


def share_covered(
    points: Float64[Tensor, "n f"], centers: Float64[Tensor, "m f"], radii: Float64[Tensor, "m"]
) -> float:
    """The share of points in at least one of the balls, of squared radii."""
    size = centers.square().sum(dim=1)
    inside = 0
    for chunk in points.split(_CHUNK_ROWS):
        slack = _ROUNDING * (chunk.square().sum(dim=1, keepdim=True) + size)  # a twin of a centre is in its ball
        inside += int((_squares(chunk, centers) <= radii + slack).any(dim=1).sum())
    return inside / len(points)


def share_error(share: float, count: int) -> float:
    """√(p̃(1−p̃)/ñ) with ñ = n + 4, p̃ = (np + 2)/ñ: never 0, unlike √(p(1−p)/n), which calls a share of 1 certain.

    Agresti and Coull (1998), "Approximate is better than 'exact' for interval estimation of binomial proportions". At a
    share of 0 or 1 two of it are 2.8/n, close to the rule of three.
    """
    more = count + 4
    middle = (count * share + 2) / more
    return math.sqrt(middle * (1 - middle) / more)


def _squares(points: Float64[Tensor, "n f"], centers: Float64[Tensor, "m f"]) -> Float64[Tensor, "n m"]:
    """|x - y|² = |x|² + |y|² - 2 x·y, wrong by some 1e-15 (|x|² + |y|²): many times faster than differences."""
    return (points.square().sum(dim=1, keepdim=True) + centers.square().sum(dim=1)).addmm(points, centers.T, alpha=-2)
