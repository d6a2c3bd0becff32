"""PixelCNN: all conditionals of p(x) = Π p(x_i | x_<i) in one pass of masked convolutions.

van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.4 and table 1;
the gated one: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", figure 2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probgen.layers.causal import CausalConv2d, ContextBias, Features, RowsConv2d, shifted_down
from probgen.layers.cursor import Cursor
from probgen.layers.stack import CausalNetwork, CausalStack, by_channel


class PixelCNNNetwork(CausalStack):
    """A wide first layer with mask A, residual blocks with mask B, two pointwise layers.

    image_shape: (c, h, w). outputs: numbers for each value of the image. features: width of a block's convolution for
    each channel of the image; between blocks it is twice that. context_shape: of a condition, None for none.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        features: int,
        blocks: int,
        first_kernel: int = 7,
        kernel: int = 3,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        width, channels = 2 * features * image_shape[0], image_shape[0]
        layers = (ResidualBlock(width, kernel, channels, context_shape) for _ in range(blocks))
        super().__init__(image_shape, outputs, context_shape, width=width, first_kernel=first_kernel, layers=layers)

    @property
    def wave_lag(self) -> int:
        """One more than the columns that its kernels reach to the right. Layers of another kind need their own."""
        return 1 + max(layer.aside for layer in self.modules() if isinstance(layer, CausalConv2d))


class ResidualBlock(nn.Module):
    """h + W₃ relu(W₂ relu(W₁ relu(h))): down to half the width, a masked convolution, up again (figure 5 left)."""

    def __init__(self, width: int, kernel: int, channels: int, context_shape: Sequence[int] | None) -> None:
        super().__init__()
        half = width // 2
        self.down = CausalConv2d(width, half, (1, 1), "B", channels)
        self.conv = CausalConv2d(half, half, (kernel, kernel), "B", channels)
        self.up = CausalConv2d(half, width, (1, 1), "B", channels)
        self.bias = None if context_shape is None else ContextBias(context_shape, half, channels)

    def forward(
        self, h: Features, x: Tensor | None = None, context: Tensor | None = None, cursor: Cursor | None = None
    ) -> Features:
        """The block's output, of the shape of its input h; it does not look at the image x."""
        inner = self.conv(self.down(h.relu(), cursor).relu_(), cursor)
        if self.bias is not None and context is not None:
            inner = inner + self.bias(context, cursor)
        return self.up(inner.relu(), cursor).add_(h)


class GatedPixelCNNNetwork(CausalNetwork):
    """Two stacks: a vertical one that sees all rows above, a horizontal one along the row that looks at the first.

    Together they see every earlier pixel within their reach, of as many rows and columns as all kernels together have
    above their centres: no blind spot. The vertical stack is moved down by a row, once, at its
    input; from then on its features of a row may look at that row. Options as for `PixelCNNNetwork`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        features: int,
        blocks: int,
        first_kernel: int = 7,
        kernel: int = 3,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(image_shape, outputs, context_shape)
        channels, width = image_shape[0], features * image_shape[0]
        sizes = [(channels, first_kernel), *[(width, kernel)] * blocks]
        self.vertical = nn.ModuleList(VerticalLayer(i, width, k, context_shape) for i, k in sizes)
        self.horizontal = nn.ModuleList(
            HorizontalLayer(i, width, k, channels, context_shape, first=n == 0) for n, (i, k) in enumerate(sizes)
        )
        self.mix = CausalConv2d(width, width, (1, 1), "B", channels)
        self.last = CausalConv2d(width, outputs * channels, (1, 1), "B", channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Tensor | None = None, cursor: Cursor | None = None
    ) -> Features:
        """x in [−1, 1] → the numbers of every conditional, `b n c h w`; with a cursor, of the one there, `b n`."""
        h: Features = x
        for layer, link in zip(self.horizontal, self.links(x, context, cursor), strict=True):
            h = layer(h, link, context, cursor)
        h = self.last(self.mix(h.relu(), cursor).relu_(), cursor)
        return by_channel(h, self.outputs, cursor)

    def links(self, x: Float[Tensor, "b c h w"], context: Tensor | None, cursor: Cursor | None) -> list[Features]:
        """What each vertical layer hands to the horizontal one beside it; at a cursor, of its pixel."""
        if cursor is None:
            return self.rows(shifted_down(x), context, None)
        if cursor.in_new_row:
            above = x[:, :, cursor.row - 1, None] if cursor.row else torch.zeros_like(x[:, :, :1])
            cursor.memory[self] = self.rows(above, context, cursor)
        return [row[:, cursor.channel :: cursor.channels, 0, cursor.column] for row in cursor.memory[self]]

    def rows(self, v: Float[Tensor, "b c h w"], context: Tensor | None, cursor: Cursor | None) -> list[Features]:
        """The vertical stack, on all rows or on the next one."""
        links = []
        for layer in self.vertical:
            v, link = layer(v, context, cursor)
            links.append(link)
        return links


class VerticalLayer(nn.Module):
    """v ← tanh(a) ⊙ σ(b), (a, b) = W ∗ v; and a pointwise link of (a, b) to the horizontal stack."""

    def __init__(self, inputs: int, width: int, kernel: int, context_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.conv = RowsConv2d(inputs, 2 * width, (kernel, kernel))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.bias = None if context_shape is None else ContextBias(context_shape, 2 * width)

    def forward(
        self, v: Float[Tensor, "b f h w"], context: Tensor | None, cursor: Cursor | None
    ) -> tuple[Float[Tensor, "b g h w"], Float[Tensor, "b link h w"]]:
        """The next vertical features, and the link."""
        both = self.conv(v, cursor)
        if self.bias is not None and context is not None:
            both = both + self.bias.of_row(context, cursor)
        return gated(both), self.link(both)


class HorizontalLayer(nn.Module):
    """h ← h + W₂ (tanh(a) ⊙ σ(b)), (a, b) = W₁ ∗ h + link; the first layer has mask A and no residual path."""

    def __init__(
        self,
        inputs: int,
        width: int,
        kernel: int,
        channels: int,
        context_shape: Sequence[int] | None,
        *,
        first: bool,
    ) -> None:
        super().__init__()
        self.first = first
        self.conv = CausalConv2d(inputs, 2 * width, (1, kernel), "A" if first else "B", channels)
        self.out = CausalConv2d(width, width, (1, 1), "B", channels)
        self.bias = None if context_shape is None else ContextBias(context_shape, 2 * width, channels)

    def forward(self, h: Features, link: Features, context: Tensor | None, cursor: Cursor | None) -> Features:
        """The next horizontal features."""
        both = self.conv(h, cursor) + link
        if self.bias is not None and context is not None:
            both = both + self.bias(context, cursor)
        out = self.out(gated(both), cursor)
        return out if self.first else h + out


def gated(both: Features) -> Features:
    """tanh(a) ⊙ σ(b), a and b the halves of the features (equation 2 of the gated paper)."""
    a, b = both.chunk(2, 1)
    return a.tanh() * b.sigmoid()
