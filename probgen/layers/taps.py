"""A convolution whose weight learns by one matrix product for each tap that looks.

    y[p] = b + Σ_t W[t] x[p + t]        ∂L/∂W[t] = Σ_p ∂L/∂y[p] ⊗ x[p + t]

In memory that keeps the features of a pixel together (`channels_last`), all pixels of a batch are the rows of one
matrix, and those of a tap are the same rows moved by a number: a product of two matrices, nothing copied. Taps that a
mask leaves out cost nothing. With AVX2 oneDNN's own kernel takes 1.7 times as long (docs/performance.md); other
processors were not measured. In a compiled step there is a kernel of our own for it, `layers/tap_kernel.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from probgen.layers import tap_kernel
from probgen.layers.masks import MaskKind

Tap = tuple[int, int]  # row and column in the kernel
NARROW = 16  # features of x; below, a product for each tap has too few columns: theirs are put side by side


def convolved(
    x: Float[Tensor, "b f h w"],
    weight: Float[Tensor, "g f r s"],
    bias: Float[Tensor, " g"] | None,
    taps: Sequence[Tap],
    border: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Float[Tensor, "b g hh ww"]:
    """b + W ∗ x where the whole kernel fits, x within a border of zeros: left, right, above, below.

    taps: those that a mask leaves; the weight must be zero at the others, and gets no gradient there. On a CPU there is
    no forward-mode derivative (`torch.func.jvp`).
    """
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.conv2d(F.pad(x, border) if any(border) else x, weight, bias)
    pixels = x.permute(0, 2, 3, 1)
    pixels = F.pad(pixels, (0, 0, *border)) if any(border) else pixels.contiguous()
    return TapConvolution.apply(pixels, weight, bias, taps)


class TapConvolution(torch.autograd.Function):
    """torch's convolution, of pixels `b h w f`; of its gradients that of the weight is `weight_gradient`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(pixels: Tensor, weight: Tensor, bias: Tensor | None, taps: Sequence[Tap]) -> Tensor:
        """b + W ∗ x, `b g hh ww`."""
        return F.conv2d(pixels.permute(0, 3, 1, 2), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Sequence[Tap]], output: Tensor) -> None:
        """What the gradients need."""
        pixels, weight, _, ctx.taps = inputs
        ctx.save_for_backward(pixels, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """∂L/∂x, ∂L/∂W and ∂L/∂b from g = ∂L/∂y; each can be differentiated again."""
        pixels, weight = ctx.saved_tensors
        of_pixels, of_weight, of_bias, _ = ctx.needs_input_grad
        back = input_gradient(g, pixels, weight) if of_pixels else None
        found = weight_gradient(g.permute(0, 2, 3, 1), pixels, weight.shape[2:], ctx.taps) if of_weight else None
        return back, found, g.sum((0, 2, 3)) if of_bias else None, None


def input_gradient(
    g: Float[Tensor, "b g hh ww"], pixels: Float[Tensor, "b h w f"], weight: Float[Tensor, "g f r s"]
) -> Float[Tensor, "b h w f"]:
    """Σ_t W[t]ᵀ g[p − t], by torch's kernel."""
    found, *_ = torch.ops.aten.convolution_backward(
        g, pixels.permute(0, 3, 1, 2), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
    )
    return found.permute(0, 2, 3, 1)


def weight_gradient(
    g: Float[Tensor, "b hh ww g"], pixels: Float[Tensor, "b h w f"], kernel: Sequence[int], taps: Sequence[Tap]
) -> Float[Tensor, "g f r s"]:
    """Σ_p g[p] ⊗ x[p + t] for each of the taps, zero for the others."""
    (rows, columns), width = kernel, pixels.shape[2]
    if not taps:
        return g.new_zeros(g.shape[3], pixels.shape[3], rows, columns)
    if tap_kernel.fits(g, pixels):
        return torch.ops.probgen.tap_gradient(g, pixels, list(kernel), tap_kernel.runs_of(taps))
    # With a border of zeros g's pixels lie as x's do: a tap then is a number of pixels, for all images at once.
    bordered = F.pad(g, (0, 0, 0, columns - 1, 0, rows - 1)) if rows * columns > 1 else g.contiguous()
    of_y, of_x = bordered.reshape(-1, g.shape[3]), pixels.reshape(-1, pixels.shape[3])
    offsets = [row * width + column for row, column in taps]
    if of_x.shape[1] < NARROW:
        num = len(of_x) - max(offsets)  # what is cut off at the end is border
        side_by_side = torch.cat([of_x[offset : offset + num] for offset in offsets], 1)
        products = (of_y[:num].t() @ side_by_side).unflatten(1, (len(taps), -1)).unbind(1)
    else:
        products = tuple(of_y[: len(of_x) - offset].t() @ of_x[offset:] for offset in offsets)
    found = dict(zip(taps, products, strict=True))
    nothing = torch.zeros_like(products[0])
    every = [found.get((row, column), nothing) for row in range(rows) for column in range(columns)]
    return torch.stack(every, -1).unflatten(-1, (rows, columns))


def looking(kind: MaskKind, above: int, aside: int, channels: int = 1) -> list[Tap]:
    """The taps that a causal mask leaves, of a kernel of so many rows above its centre and columns at either side.

    >>> looking("A", 1, 1)
    [(0, 0), (0, 1), (0, 2), (1, 0)]
    """
    before = [(row, column) for row in range(above) for column in range(2 * aside + 1)]
    own_row = [(above, column) for column in range(aside)]
    centre = [(above, aside)] if kind == "B" or channels > 1 else []
    return [*before, *own_row, *centre]


def all_taps(weight: Float[Tensor, "g f r s"]) -> list[Tap]:
    """Those of a kernel without a mask."""
    return [(row, column) for row in range(weight.shape[2]) for column in range(weight.shape[3])]
