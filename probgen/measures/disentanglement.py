"""Does each factor of the data have one latent of its own? The mutual information gap, where the factors are known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from probgen.errors import UserError

CODE_BINS = 20
FACTOR_BINS = 10


@dataclass(frozen=True)
class MutualInformationGap:
    """The gap, averaged over the factors: 1 where each has one latent to itself, 0 where two latents share it.

    value, stderr: the gap and its standard error over images, by the delta method, for these latents and cuts.
    factors: names of the factors, the columns of the tables.
    information: I(z_j; v_k) / H(v_k), between 0 and 1.
    bias: what `information` is on average where z_j and v_k are independent.
    gaps: the gap of each factor.
    """

    value: float
    stderr: float
    factors: tuple[str, ...]
    information: Float64[Tensor, "d k"]
    bias: Float64[Tensor, "d k"]
    gaps: Float64[Tensor, "k"]
    num_images: int

    @property
    def protocol(self) -> str:
        """How it was found."""
        return (
            f"mutual information gap (MIG, Chen et al. 2018, equation 6) of {len(self.information)} latents and "
            f"{len(self.factors)} factors: real numbers cut into bins of equal frequency, codes into {CODE_BINS}, "
            f"factors into {FACTOR_BINS}; frequencies for probabilities, which makes I / H of an independent pair up "
            f"to {float(self.bias.max()):.2g} and not 0; {self.num_images} images"
        )


def mutual_information_gap(
    codes: Float[Tensor, "n d"], factors: Mapping[str, Shaped[Tensor, "n"]]
) -> MutualInformationGap:
    """MIG = (1/K) Σ_k [I(z_{j(k)}; v_k) − max_{j ≠ j(k)} I(z_j; v_k)] / H(v_k),  j(k) = argmax_j I(z_j; v_k).

    Chen et al. (2018), "Isolating sources of disentanglement in VAEs", equation 6. I and H are those of a table of
    bins × bins that holds the shares of images; the paper sums the guide's density over the data instead. Bins lose
    information, and need no density. Shares make I too large: by about (bins of z − 1)(bins of v − 1) / 2n nats of n
    images where the two are independent (Miller 1955). In the gap much of that cancels.

    codes: of each image one draw z ~ q(z | x), which has the guide's noise in it. Of mean codes the number does not see
        how small a code is beside that noise: a latent that the decoder cannot read then counts like one that it can.
    factors: name → the factor's value for each image; whole numbers are taken as they are, real ones cut into bins.

    Raises UserError for fewer than two latents or images, no factors, a factor that is constant or of another length,
    or numbers that are not finite.
    """
    check(codes, factors)
    cut_codes = [cut(code, CODE_BINS) for code in codes.detach().double().cpu().T]
    values = [cut(factor.detach().cpu(), FACTOR_BINS) for factor in factors.values()]
    check_cut(factors, values)
    entropies = torch.stack([surprise(v).mean() for v in values])
    pointwise = torch.stack([torch.stack([shared(z, v) for v in values]) for z in cut_codes])  # d k n
    information = pointwise.mean(-1) / entropies
    (first, second), (best, next_best) = information.topk(2, dim=0)
    gaps = first - second
    # Of a ratio I / H: its derivative in the share of each image, (i_n − (I / H) h_n) / H.
    columns = torch.arange(len(values))
    surprises = torch.stack([surprise(v) for v in values])
    change = pointwise[best, columns] - pointwise[next_best, columns] - gaps[:, None] * surprises
    each = (change / entropies[:, None]).mean(0)
    bins_z, bins_v = (torch.tensor([len(c.unique()) for c in cuts]).double() for cuts in (cut_codes, values))
    bias = (bins_z[:, None] - 1) * (bins_v - 1) / (2 * len(codes)) / entropies
    stderr = float(each.std()) / math.sqrt(len(codes))
    return MutualInformationGap(float(gaps.mean()), stderr, tuple(factors), information, bias, gaps, len(codes))


def cut(values: Shaped[Tensor, "n"], bins: int) -> Int64[Tensor, "n"]:
    """The bin of each number: whole numbers, and real ones of few values, as they are; else bins of equal frequency."""
    distinct, places = values.unique(return_inverse=True)
    if not values.is_floating_point() or len(distinct) <= bins:
        return places
    values = values.contiguous()
    edges = values.double().quantile(torch.arange(1, bins, dtype=torch.float64) / bins)
    return torch.bucketize(values.double(), edges, right=True)


def shared(z: Int64[Tensor, "n"], v: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """log p(z, v) / (p(z) p(v)) of each image, probabilities being shares of the images; its mean is I(z; v)."""
    pair = z * (int(v.max()) + 1) + v
    return surprise(z) + surprise(v) - surprise(pair)


def surprise(values: Int64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    """−log p of each image's own value in nats; its mean is the entropy."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    return (math.log(len(values)) - counts.double().log())[places]


def check_cut(factors: Mapping[str, Tensor], values: list[Tensor]) -> None:
    """Raise UserError for a real factor whose bins are all one."""
    for name, cuts in zip(factors, values, strict=True):
        if len(cuts.unique()) < 2:
            raise UserError(
                f"factor {name!r} falls into one bin, for most of its numbers are alike: give it as whole numbers"
            )


def check(codes: Float[Tensor, "n d"], factors: Mapping[str, Shaped[Tensor, "n"]]) -> None:
    """Raise UserError for what has no gap."""
    if codes.dim() != 2 or codes.shape[0] < 2 or codes.shape[1] < 2:
        raise UserError(f"codes of shape {tuple(codes.shape)} came, expected (images, latents), two or more of both")
    if not factors:
        raise UserError("no factors came: the gap needs data whose factors are known, such as sprites")
    if not bool(codes.isfinite().all()):
        raise UserError("codes with nan or infinite numbers came: the guide that gave them is broken")
    for name, factor in factors.items():
        if tuple(factor.shape) != (len(codes),):
            raise UserError(
                f"factor {name!r} of shape {tuple(factor.shape)} came, expected one number for {len(codes)} codes"
            )
        if not bool(factor.isfinite().all()):
            raise UserError(f"factor {name!r} has nan or infinite numbers")
        if len(factor.unique()) < 2:
            raise UserError(f"factor {name!r} is the same for all {len(codes)} images: leave it out")
