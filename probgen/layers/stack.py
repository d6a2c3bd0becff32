"""What PixelCNN and the layered PixelRNNs have in common: a first layer that looks at the image, layers, a last part.

    h = W₀ ∗ x  (mask A),     h ← layer(h)  for every layer,     numbers = W₂ relu(W₁ relu(h))  (mask B)

van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", table 1.
"""

from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from probgen.layers.causal import CausalConv2d, Features
from probgen.layers.cursor import Cursor


class CausalNetwork(nn.Module):
    """A network that gives n = `outputs` numbers for each value of an image, from the values before it.

    image_shape: (c, h, w). context_shape: of what all pixels are conditioned on, None for nothing.
    wave_lag: by how many columns a row must be ahead of the one below for their pixels to be drawn at once (see
        `Wave`): its layers then take features of several pixels, and are asked by `cursor.rows`, not by `row` and
        `column`, where they are. None: one pixel after the other.
    """

    @property
    def wave_lag(self) -> int | None:
        """None, unless a network says otherwise."""
        return None

    def __init__(self, image_shape: Sequence[int], outputs: int, context_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.image_shape, self.outputs = tuple(image_shape), outputs
        self.context_shape = None if context_shape is None else tuple(context_shape)


class CausalStack(CausalNetwork):
    """A wide first layer with mask A, layers, two pointwise layers with mask B.

    width: features between layers. layers: causal modules; each is called with (h, x, context, cursor).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        context_shape: Sequence[int] | None,
        *,
        width: int,
        first_kernel: int,
        layers: Iterable[nn.Module],
    ) -> None:
        super().__init__(image_shape, outputs, context_shape)
        channels = image_shape[0]
        self.first = CausalConv2d(channels, width, (first_kernel, first_kernel), "A", channels)
        self.layers = nn.ModuleList(layers)
        self.mix = CausalConv2d(width, width, (1, 1), "B", channels)
        self.last = CausalConv2d(width, outputs * channels, (1, 1), "B", channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Tensor | None = None, cursor: Cursor | None = None
    ) -> Features:
        """x in [−1, 1] → the numbers of every conditional, `b n c h w`.

        With a cursor, of the one there, `b n`; of a wave's, row after row, `(rows b) n`.
        """
        h = self.first(x, cursor)
        for layer in self.layers:
            h = layer(h, x, context, cursor)
        h = self.last(self.mix(h.relu(), cursor).relu_(), cursor)
        return by_channel(h, self.outputs, cursor)


def by_channel(h: Features, outputs: int, cursor: Cursor | None) -> Features:
    """Interleaved features `b (outputs c) h w` as `b outputs c h w`; those at a cursor are `b outputs` already."""
    return h.unflatten(1, (outputs, -1)) if cursor is None else h
