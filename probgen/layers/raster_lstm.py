"""The chain rule itself: one LSTM reads the values of an image in raster order, and before each one predicts it.

    s_t = LSTM(s_{t−1}, x_{t−1}, place t, context)        p(x_t | x_1 … x_{t−1}) = p(x_t; W s_t + b)

The order is row, column, channel. There is no mask: the state s_t has read nothing but x_1 … x_{t−1}.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probgen.layers.causal import ContextBias, Features
from probgen.layers.cursor import Cursor
from probgen.layers.row_lstm import open_forget_gates
from probgen.layers.stack import CausalNetwork


class RasterLSTMNetwork(CausalNetwork):
    """A stack of plain LSTMs over the sequence of all values: it has to carry what is above through a whole row.

    image_shape: (c, h, w). outputs: numbers for each value of the image. features: of each layer's state.
    context_shape: of a condition, None for none.
    """

    places: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        features: int,
        layers: int,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(image_shape, outputs, context_shape)
        self.register_buffer("places", places(*image_shape), persistent=False)
        self.read = nn.Linear(1 + self.places.shape[1], features)
        self.lstm = nn.LSTM(features, features, layers, batch_first=True)
        self.predict = nn.Linear(features, outputs)
        channels = image_shape[0]
        self.bias = None if context_shape is None else ContextBias(context_shape, features * channels, channels)
        for layer in range(layers):
            open_forget_gates(self.lstm.get_parameter(f"bias_ih_l{layer}"))

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Tensor | None = None, cursor: Cursor | None = None
    ) -> Features:
        """x in [−1, 1] → the numbers of every conditional, `b n c h w`; with a cursor, of the one there, `b n`."""
        if cursor is not None:
            return self.step(x, context, cursor)
        c, h, w = x.shape[1:]
        before = delayed(x.permute(0, 2, 3, 1).flatten(1))  # b t
        inputs = self.read(torch.cat([before[:, :, None], self.places.expand(len(x), -1, -1)], 2))  # b t f
        if self.bias is not None and context is not None:
            added = self.bias(context).unflatten(1, (-1, c)).permute(0, 3, 4, 2, 1)  # b h w c f
            inputs = inputs + added.expand(-1, h, w, -1, -1).flatten(1, 3)
        states, _ = self.lstm(inputs)
        return self.predict(states).unflatten(1, (h, w, c)).permute(0, 4, 3, 1, 2)

    def step(self, x: Float[Tensor, "b c h w"], context: Tensor | None, cursor: Cursor) -> Float[Tensor, "b n"]:
        """Read the last value that was drawn, and predict the next one."""
        t = (cursor.row * cursor.width + cursor.column) * cursor.channels + cursor.channel
        pixel, channel = divmod(t - 1, cursor.channels)
        before = (
            x[:, channel, pixel // cursor.width, pixel % cursor.width] if t > 0 else torch.zeros_like(x[:, 0, 0, 0])
        )
        inputs = self.read(torch.cat([before[:, None], self.places[t].expand(len(x), -1)], 1))
        if self.bias is not None and context is not None:
            inputs = inputs + self.bias(context, cursor)
        state, cursor.memory[self] = self.lstm(inputs[:, None], cursor.memory.get(self))
        return self.predict(state[:, 0])


def delayed(values: Float[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """At t the value of t − 1, and 0 at the start.

    >>> delayed(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[0., 1., 2.]])
    """
    return F.pad(values, (1, 0))[:, :-1]


def places(channels: int, height: int, width: int) -> Float[Tensor, "t flags"]:
    """What is known of place t beforehand: whether it is the first, and its channel, as a row of 0 and 1.

    >>> places(2, 1, 2)
    tensor([[1., 1., 0.],
            [0., 0., 1.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    of_channel = torch.eye(channels).repeat(height * width, 1)
    is_first = F.pad(torch.ones(1, 1), (0, 0, 0, len(of_channel) - 1))
    return torch.cat([is_first, of_channel], 1)
