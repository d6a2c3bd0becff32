"""Which taps of a convolution look at the past: masks A and B, as pure functions that one can print and plot.

The order is the raster: rows from the top, in a row from the left, in a pixel the channels R, G, B. A tap may see

    all rows above; in its own row all pixels to the left; in its own pixel the channels before it   (mask A)
                                                           … and its own channel                     (mask B)

Mask A is for the first layer, where the tap would be the value to predict; from then on features of a channel
hold only what lies before it, and mask B may pass them on (van den Oord et al. 2016, figure 2 right).

With several channels, feature f of a layer belongs to channel f mod c ("interleaved"): a layer's features cut in
halves, or in the four gates of an LSTM, are still whole channels.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MaskKind = Literal["A", "B"]


def spatial_mask(height: int, width: int) -> Float[Tensor, "height width"]:
    """1 for the taps strictly before the centre in raster order, 0 for the centre and all after it.

    >>> spatial_mask(3, 3)
    tensor([[1., 1., 1.],
            [1., 0., 0.],
            [0., 0., 0.]])
    """
    place = torch.arange(height * width).reshape(height, width)
    return (place < place[height // 2, width // 2]).float()


def channel_mask(kind: MaskKind, outputs: int, inputs: int, channels: int) -> Float[Tensor, "outputs inputs"]:
    """1 where a feature may see another of its pixel: one of a channel before its own; B: or of its own.

    >>> channel_mask("A", 3, 3, channels=3)
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [1., 1., 0.]])
    """
    of_output, of_input = torch.arange(outputs) % channels, torch.arange(inputs) % channels
    return (of_input < of_output[:, None] if kind == "A" else of_input <= of_output[:, None]).float()


def causal_mask(
    kind: MaskKind, outputs: int, inputs: int, height: int, width: int, channels: int = 1
) -> Float[Tensor, "outputs inputs height width"]:
    """The mask of a convolution's weight: all that comes before in raster order, and the centre as `kind` says.

    >>> causal_mask("A", 1, 1, 3, 3)[0, 0]
    tensor([[1., 1., 1.],
            [1., 0., 0.],
            [0., 0., 0.]])
    >>> causal_mask("B", 1, 1, 3, 3)[0, 0]
    tensor([[1., 1., 1.],
            [1., 1., 0.],
            [0., 0., 0.]])
    """
    mask = spatial_mask(height, width).repeat(outputs, inputs, 1, 1)
    mask[:, :, height // 2, width // 2] = channel_mask(kind, outputs, inputs, channels)
    return mask


def printed(mask: Float[Tensor, "height width"] | Bool[Tensor, "height width"]) -> str:
    """A mask as text, a row a line: ■ where a tap looks, · where it must not.

    >>> print(printed(spatial_mask(3, 5)))
    ■ ■ ■ ■ ■
    ■ ■ · · ·
    · · · · ·
    """
    return "\n".join(" ".join("■" if tap else "·" for tap in row) for row in mask.bool().tolist())
