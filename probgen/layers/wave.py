"""What a causal convolution remembers where several pixels are drawn at once (see `Wave`).

y[i, j] = b + Σ_{d, e} W[d, e] x[i − d, j + e],    t = j + lag · i    ⇒    x[i − d, j + e] came in step t − lag · d + e
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from probgen.layers.cursor import Wave

if TYPE_CHECKING:
    from probgen.layers.causal import CausalConv2d


class WaveMemory:
    """A layer's input in the last steps, as many as its kernel looks back; zeros where they had no pixel.

    ring: step t's at place t mod length, `length above+h b f`: its first rows are above the image.
    """

    def __init__(self, layer: "CausalConv2d", x: Float[Tensor, "b inputs_of_channel"], wave: Wave) -> None:
        self.above, self.channels, q = layer.above, layer.channels, layer.aside
        self.length = wave.lag * layer.above + q + 1
        self.ring = x.new_zeros(self.length, layer.above + wave.height, len(x), x.shape[1] * layer.channels)
        before = [(d, e) for d in range(layer.above, 0, -1) for e in range(-q, q + 1)]
        self.taps = [*before, *((0, e) for e in range(-q, 1))]  # rows above, columns to the right
        self.matrices = [
            torch.cat([layer.matrix(part, slice(-1)), layer.matrix(part, slice(-1, None), slice(q + 1))])
            for part in layer.of_channels()
        ]
        self.biases = [layer.bias[part] for part in layer.of_channels()]

    def step(self, x: Float[Tensor, "n inputs_of_channel"], wave: Wave) -> Float[Tensor, "n outputs_of_channel"]:
        """Keep x, and give b + W x."""
        first, stop = self.above + wave.rows.start, self.above + wave.rows.stop
        if wave.channel == 0:
            self.clear(wave)
        own = self.ring[wave.step % self.length, first:stop, :, wave.channel :: self.channels]
        own.copy_(x.unflatten(0, (len(wave.rows), -1)))
        steps = [((wave.step - wave.lag * d + e) % self.length, d) for d, e in self.taps]
        window = torch.cat([self.ring[step, first - d : stop - d] for step, d in steps], -1)
        return torch.addmm(self.biases[wave.channel], window.flatten(0, 1), self.matrices[wave.channel])

    def clear(self, wave: Wave) -> None:
        """Zeros for the rows that had a pixel when this place of the ring was written last, and have none now."""
        before = wave.rows_at(wave.step - self.length).start
        if before < wave.rows.start:
            self.ring[wave.step % self.length, self.above + before : self.above + wave.rows.start] = 0


class WaveImage:
    """The image with a border of zeros, for a layer that looks at it; the windows of a step are a view of it."""

    def __init__(self, layer: "CausalConv2d", image: Float[Tensor, "b c h w"], wave: Wave) -> None:
        b, c, h, w = image.shape
        self.sides = (layer.above + 1, 2 * layer.aside + 1, c)
        self.padded = image.new_zeros(b, h + layer.above, w + 2 * layer.aside, c)
        self.inside = self.padded[:, layer.above :, layer.aside : layer.aside + w]
        self.matrices = [layer.matrix(outputs) for outputs in layer.of_channels()]
        self.biases = [layer.bias[outputs] for outputs in layer.of_channels()]

    def step(self, image: Float[Tensor, "b c h w"], wave: Wave) -> Float[Tensor, "n outputs_of_channel"]:
        """The windows around the cursor, as far as they are drawn, times the weight."""
        fresh = slice(wave.rows_at(wave.step - 1).start, wave.rows.stop)
        self.inside[:, fresh].copy_(image[:, :, fresh].permute(0, 2, 3, 1))
        images, down, right, _ = self.padded.stride()
        windows = self.padded.as_strided(
            (len(wave.rows), len(image), *self.sides),
            (down - wave.lag * right, images, down, right, 1),
            wave.row * down + wave.column * right,
        )
        window = windows.flatten(2).flatten(0, 1)
        return torch.addmm(self.biases[wave.channel], window, self.matrices[wave.channel])
