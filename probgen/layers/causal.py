"""Convolutions that look at the past only, on whole images and pixel by pixel.

    y[i] = b + Σ_{taps t before i} W[t] x[i + t]

Each layer's `forward(x, cursor)` takes features `b f h w` of whole images without a cursor. With one it takes the
features `b f/c` of the channel and pixel where the cursor stands (see `Cursor`) and gives that pixel's output; with a
`Wave`, of all its pixels, `n f/c`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.layers.cursor import Cursor, Wave
from probgen.layers.masks import MaskKind, causal_mask
from probgen.layers.taps import all_taps, convolved, looking
from probgen.layers.wave import WaveImage, WaveMemory

Features = Float[Tensor, "_ ..."]  # b f h w; at a cursor b f/c, or n f/c of several pixels (see `Wave`)
ALL = slice(None)


class CausalConv2d(nn.Module):
    """A convolution with mask A or B; `kernel` is (height, width), odd, of which only the upper half is kept.

    channels: of the image; feature f belongs to channel f mod `channels` (see `masks`). A layer with mask A looks
    at the image itself: at a cursor it takes the whole image, drawn so far, in place of one pixel's features.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], kind: MaskKind, channels: int = 1) -> None:
        super().__init__()
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise UserError(f"a kernel of {kernel[0]}×{kernel[1]} came, expected odd sides, which have a centre")
        self.above, self.aside = kernel[0] // 2, kernel[1] // 2
        self.kind, self.channels = kind, channels
        mask = causal_mask(kind, outputs, inputs, *kernel, channels)[:, :, : self.above + 1]
        self.register_buffer("mask", mask, persistent=False)
        self.taps = looking(kind, self.above, self.aside, channels)
        bound = 1 / mask.sum((1, 2, 3)).clamp_min(1).sqrt()  # as torch does, but counting only the taps that look
        self.weight = nn.Parameter(torch.empty_like(mask).uniform_(-1, 1) * bound[:, None, None, None])
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Features, cursor: Cursor | None = None) -> Features:
        """All pixels at once; with a cursor, the pixel there."""
        if cursor is not None:
            memory = cursor.memory.get(self) or self.start(x, cursor)
            return memory.step(x, cursor)
        return convolved(x, self.weight * self.mask, self.bias, self.taps, (self.aside, self.aside, self.above, 0))

    def start(self, x: Features, cursor: Cursor) -> Any:
        """The memory of a layer that is asked for the first pixel."""
        pointwise = self.above == self.aside == 0 and self.channels == 1
        of_image, of_features = (WaveImage, WaveMemory) if isinstance(cursor, Wave) else (ImageMemory, RowMemory)
        kind: Any = of_image if self.kind == "A" else PointMemory if pointwise else of_features
        cursor.memory[self] = memory = kind(self, x, cursor)
        return memory

    def matrix(self, outputs: slice = ALL, rows: slice = ALL, columns: slice = ALL) -> Float[Tensor, "taps outputs"]:
        """The masked weight of some taps for some outputs; taps in the order (row, column, input)."""
        weight = (self.weight * self.mask)[outputs, :, rows, columns]
        return weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()

    def of_channels(self) -> list[slice]:
        """Which outputs belong to each channel."""
        return [slice(channel, None, self.channels) for channel in range(self.channels)]


class PointMemory:
    """A pointwise layer has nothing to remember but its weight as a matrix."""

    def __init__(self, layer: CausalConv2d, x: Tensor, cursor: Cursor) -> None:
        self.bias, self.matrix = layer.bias, layer.matrix()

    def step(self, x: Float[Tensor, "b inputs"], cursor: Cursor) -> Float[Tensor, "b outputs"]:
        """b + W x."""
        return torch.addmm(self.bias, x, self.matrix)


class ImageMemory:
    """The image with a border of zeros, for a layer whose window at the cursor is a few numbers."""

    def __init__(self, layer: CausalConv2d, image: Float[Tensor, "b c h w"], cursor: Cursor) -> None:
        b, c, h, w = image.shape
        self.above, self.aside = layer.above, layer.aside
        self.padded = image.new_zeros(b, h + self.above, w + 2 * self.aside, c)
        self.inside = self.padded[:, self.above :, self.aside : self.aside + w]
        self.matrices = [layer.matrix(outputs) for outputs in layer.of_channels()]
        self.biases = [layer.bias[outputs] for outputs in layer.of_channels()]

    def step(self, image: Float[Tensor, "b c h w"], cursor: Cursor) -> Float[Tensor, "b outputs_of_channel"]:
        """The window around the cursor, as far as it is drawn, times the weight."""
        i, j = cursor.row, cursor.column
        fresh = slice(max(0, i - 1), i + 1)
        self.inside[:, fresh].copy_(image[:, :, fresh].permute(0, 2, 3, 1))
        window = self.padded[:, i : i + self.above + 1, j : j + 2 * self.aside + 1].flatten(1)
        return torch.addmm(self.biases[cursor.channel], window, self.matrices[cursor.channel])


class RowMemory:
    """The last rows of a layer's input, and what those above the cursor add to each pixel of its row.

    What the rows above add is one matrix product for a whole row; along the row only its own taps remain. For raster
    order alone; a wave has `WaveMemory`.
    """

    def __init__(self, layer: CausalConv2d, x: Float[Tensor, "b inputs_of_channel"], cursor: Cursor) -> None:
        b, c, q, w = len(x), layer.channels, layer.aside, cursor.width
        self.layer, self.width = layer, w
        self.rows = [x.new_zeros(b, w + 2 * q, x.shape[1] * c) for _ in range(layer.above + 1)]  # newest last
        self.sums = x.new_empty(w, b, len(layer.bias))
        self.matrix_above = layer.matrix(rows=slice(-1))
        self.along = [layer.matrix(outputs, slice(-1, None), slice(q + 1)) for outputs in layer.of_channels()]
        # Views are made once: at one pixel of a small batch, making one costs as much as using it.
        self.at_channel = [[pixel[:, g] for g in layer.of_channels()] for pixel in self.sums]
        self.cells = {id(row): [[row[:, j + q, g] for g in layer.of_channels()] for j in range(w)] for row in self.rows}
        self.windows = {id(row): [row[:, j : j + q + 1].flatten(1) for j in range(w)] for row in self.rows}

    def step(self, x: Float[Tensor, "b inputs_of_channel"], cursor: Cursor) -> Float[Tensor, "b outputs_of_channel"]:
        """Keep x, and give b + (what the rows above add) + W x along the row."""
        if cursor.in_new_row:
            self.begin_row()
        j, g, row = cursor.column, cursor.channel, id(self.rows[-1])
        self.cells[row][j][g].copy_(x)
        return torch.addmm(self.at_channel[j][g], self.windows[row][j], self.along[g])

    def begin_row(self) -> None:
        """The current row becomes the first above, the oldest is written over, and the sums are those of a new row."""
        self.rows = [*self.rows[1:], self.rows[0]]
        above = self.rows[:-1]
        if not above:
            self.sums.copy_(self.layer.bias.expand_as(self.sums))
            return
        shifts = range(2 * self.layer.aside + 1)
        taps = torch.cat([row[:, dx : dx + self.width] for row in above for dx in shifts], -1)
        sums = torch.addmm(self.layer.bias, taps.flatten(0, 1), self.matrix_above)
        self.sums.copy_(sums.unflatten(0, (-1, self.width)).transpose(0, 1))


class RowsConv2d(nn.Module):
    """A convolution over a row and the rows above it, all columns and channels: for features that lag a row behind.

    With a cursor it takes and gives a whole row, `b f 1 w`. A lower half of the kernel does not exist.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.above = kernel[0] // 2
        self.conv = nn.Conv2d(inputs, outputs, (self.above + 1, kernel[1]), padding=(0, kernel[1] // 2))
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.aside, self.taps = kernel[1] // 2, all_taps(self.conv.weight)

    def forward(self, x: Float[Tensor, "b f h w"], cursor: Cursor | None = None) -> Float[Tensor, "b g h w"]:
        """Whole images, or with a cursor the next row."""
        blank = x.new_zeros(*x.shape[:2], self.above, x.shape[3])
        rows = torch.cat([blank if cursor is None else cursor.remember(self, lambda: blank), x], 2)
        if cursor is not None:
            cursor.memory[self] = rows[:, :, 1:]
        return convolved(rows, self.conv.weight, self.conv.bias, self.taps, (self.aside, self.aside, 0, 0))


class ContextBias(nn.Module):
    """What a context adds to a layer's features: W c, the same at every pixel, or pixel by pixel for a map of features.

    context_shape: (k,) for a vector such as a label, (k, h, w) for a map such as a decoder's.
    """

    def __init__(self, context_shape: Sequence[int], outputs: int, channels: int = 1) -> None:
        super().__init__()
        self.is_map, self.channels = len(context_shape) == 3, channels
        self.linear = nn.Linear(context_shape[0], outputs, bias=False)
        nn.init.uniform_(self.linear.weight, -1 / math.sqrt(context_shape[0]), 1 / math.sqrt(context_shape[0]))

    def forward(self, context: Float[Tensor, "b *context"], cursor: Cursor | None = None) -> Features:
        """Of shape b f h w (h = w = 1 for a vector); with a cursor, of the n pixels there, `n f/channels`."""
        if cursor is None:
            return self.project(context)
        whole = cursor.remember(self, lambda: self.project(context))
        own = whole[:, cursor.channel :: self.channels]
        return cursor.take(own) if self.is_map else own[:, :, 0, 0].repeat(cursor.num_pixels, 1)

    def of_row(
        self, context: Float[Tensor, "b *context"], cursor: Cursor | None, lag: int = 0
    ) -> Float[Tensor, "b f _ _"]:
        """Of shape b f h w; with a cursor, of its whole row, `b f 1 w`, or of the row that is `lag` above it."""
        if cursor is None:
            return self.project(context)
        whole = cursor.remember(self, lambda: self.project(context))
        return whole[:, :, cursor.row - lag, None] if self.is_map else whole

    def project(self, context: Float[Tensor, "b *context"]) -> Float[Tensor, "b f h w"]:
        """W c at every pixel."""
        if not self.is_map:
            return self.linear(context)[:, :, None, None]
        return F.conv2d(context, self.linear.weight[:, :, None, None])


def shifted_down(x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
    """Each row holds what the row above it held, the first one nothing: a row sees only rows before its own."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]
