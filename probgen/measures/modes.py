"""Which modes of the data samples reach, where the modes are known."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from probgen.data import ImageData, Modes
from probgen.data.stacked import STACKED_FACTORS, STACKED_NAME
from probgen.errors import UserError
from probgen.measures.manifold import SHARE_ERROR, share_error

WITHIN = 3  # sigmas

_CHUNK_POINTS = 100_000
_CHUNK_IMAGES = 2_000


@dataclass(frozen=True)
class ModeReport:
    """How samples spread over known modes.

    covered, total: modes that were reached, of how many.
    share_within, share_stderr: share of samples within 3σ of a mode, with its standard error; None of images.
    kl: nats, from the histogram of the samples over the modes to that of the data; 0 is best.
    """

    covered: int
    total: int
    share_within: float | None
    share_stderr: float | None
    kl: float
    num_samples: int
    protocol: str


@runtime_checkable
class DigitClassifier(Protocol):
    """What tells the digits of stacked MNIST, with its accuracy in its name."""

    @property
    def name(self) -> str:
        """What it is, as the protocol repeats it."""

    def logits(self, images: Shaped[Tensor, "n 1 h w"]) -> Float[Tensor, "n 10"]:
        """A logit for each digit."""


def count_modes(samples: Float[Tensor, "n 2"], modes: Modes) -> ModeReport:
    """covered = #{k : min_i |x_i - c_k| ≤ 3σ}, share = #{i : min_k |x_i - c_k| ≤ 3σ} / n.

    As in Srivastava et al. (2017), "VEEGAN", and Lin et al. (2018), "PacGAN"; there the KL divergence too: of the
    histogram of all samples over their nearest modes to the uniform one. The modes' own samples have
    share 1 - exp(-9/2) = 0.9889 and, of m modes and n samples, a KL of about (m-1)/2n.

    Raises UserError without samples, and for nan.
    """
    if not len(samples) or not torch.isfinite(samples).all():
        raise UserError(f"{len(samples)} samples came, expected one or more, without nan or infinite numbers")
    centers, reach = modes.centers.double(), WITHIN * modes.sigma
    total, within, reached = len(centers), 0, torch.zeros(len(centers), dtype=torch.bool)
    histogram = torch.zeros(total, dtype=torch.int64)
    for chunk in samples.detach().cpu().double().split(_CHUNK_POINTS):
        # Differences: the matrix product of `torch.cdist` loses the digits that matter at a small sigma.
        distance = torch.cdist(chunk, centers, compute_mode="donot_use_mm_for_euclid_dist")  # n m
        near = distance <= reach
        within, reached = within + int(near.any(dim=1).sum()), reached | near.any(dim=0)
        histogram += distance.argmin(dim=1).bincount(minlength=total)
    count, share = len(samples), within / len(samples)
    protocol = (
        f"{total} modes, one is covered with a sample within {WITHIN}σ of its centre (Srivastava et al. 2017, Lin et "
        f"al. 2018); KL in nats of the samples' nearest modes to uniform; {count} samples (their noise: KL ≈ "
        f"{(total - 1) / (2 * count):.2g}); share: {SHARE_ERROR}"
    )
    error, kl = share_error(share, count), histogram_kl(histogram)
    return ModeReport(int(reached.sum()), total, share, error, kl, count, protocol)


def count_stacked_modes(
    images: Shaped[Tensor, "n 3 h w"],
    classifier: DigitClassifier,
    law: Float64[Tensor, "1000"] | None = None,
) -> ModeReport:
    """mode = 100·d1 + 10·d2 + d3, each digit the most probable one of its channel, without a threshold.

    The count is that of Metz et al. (2017), "Unrolled generative adversarial networks": of 1,000 modes those that
    have a sample. KL(histogram of the samples ‖ `law`); uniform without one. The published protocol of Srivastava et
    al. (2017), "VEEGAN", and Lin et al. (2018), "PacGAN", draws 26,000 samples: both numbers depend on how many there
    are, and on the classifier. The published KL is to the uniform law of the 1,000 modes; with the `law` of the data's
    digits, which is nearly uniform, it is nearly the same number.

    Raises UserError without images.
    """
    if not len(images):
        raise UserError("0 images came, expected one or more to count their modes")
    digits = torch.cat([_digits(chunk, classifier) for chunk in images.split(_CHUNK_IMAGES)])
    numbers = digits @ torch.tensor([100, 10, 1])
    histogram = numbers.bincount(minlength=1000)
    count, covered = len(images), int((histogram > 0).sum())
    aim = "uniform" if law is None else "the law of the training labels (each channel a digit of its own)"
    protocol = (
        f"1000 modes, one is covered with a sample in it (Metz et al. 2017), told by the {classifier.name}, without a "
        f"threshold; KL in nats to {aim}; {count} samples (their noise: KL ≈ {999 / (2 * count):.2g}; the published "
        "protocol, Srivastava et al. 2017 and Lin et al. 2018, draws 26000 and takes the KL to uniform)"
    )
    return ModeReport(covered, 1000, None, None, histogram_kl(histogram, law), count, protocol)


def histogram_kl(histogram: Int64[Tensor, "m"], law: Float64[Tensor, "m"] | None = None) -> float:
    """KL(q ‖ p) = Σ q_k log(q_k / p_k) in nats, q the histogram's shares, p the law (None: uniform)."""
    shares = histogram.double() / histogram.sum()
    law = torch.full_like(shares, 1 / len(shares)) if law is None else law
    return float((torch.special.xlogy(shares, shares) - torch.special.xlogy(shares, law)).sum())


def digit_law(data: ImageData) -> Float64[Tensor, "1000"]:
    """p(d1, d2, d3) = p(d1) p(d2) p(d3), p(d) the share of a digit among all channels that train.

    A stand-in for each mode's own count, which is noisy; a digit's count has one added, so that none is impossible.
    """
    assert data.train.factors is not None
    digits = torch.cat([data.train.factors[name].cpu() for name in STACKED_FACTORS])
    counts = digits.bincount(minlength=10).double() + 1
    p = counts / counts.sum()
    return torch.einsum("i,j,k->ijk", p, p, p).reshape(-1)


def is_stacked(data: ImageData) -> bool:
    """Whether the data are `stacked-mnist`, told by its digits: another file may bear the name."""
    return data.name.partition(":")[0] == STACKED_NAME and data.factor_names == STACKED_FACTORS


def _digits(images: Shaped[Tensor, "n 3 h w"], classifier: DigitClassifier) -> Int64[Tensor, "n 3"]:
    return torch.stack([classifier.logits(images[:, [c]]).argmax(dim=1) for c in range(3)], dim=1)
