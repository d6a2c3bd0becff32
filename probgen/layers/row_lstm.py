"""The Row LSTM: the state of a pixel is made of three states of the row above, so that a row is one step.

    [o, f, i, g] = K_ss ∗ h_{above} + K_is ∗ x        o, f, i = σ(·), g = tanh(·)
    c = f ⊙ c_{above} + i ⊙ g                         h = o ⊙ tanh(c)

van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.1, equation 3. What a
pixel sees of the rows above is a triangle that widens by a pixel a row: the corners beside it are a blind spot.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from probgen.layers.causal import CausalConv2d, ContextBias, Features
from probgen.layers.cursor import Cursor
from probgen.layers.stack import CausalStack


class RowLSTMNetwork(CausalStack):
    """A wide first layer with mask A, Row LSTM layers, two pointwise layers (table 1).

    image_shape: (c, h, w). outputs: numbers for each value of the image. features: of a layer's state for each channel
    of the image; between layers it is twice that. kernel: width of the convolutions along the row and of the row above.
    context_shape: of a condition, None for none.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        features: int,
        layers: int,
        first_kernel: int = 7,
        kernel: int = 3,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        width, channels = 2 * features * image_shape[0], image_shape[0]
        stack = (RowLSTM(width, kernel, channels, context_shape) for _ in range(layers))
        super().__init__(image_shape, outputs, context_shape, width=width, first_kernel=first_kernel, layers=stack)


class RowLSTM(nn.Module):
    """x + W h, h the states of an LSTM that runs down the rows of x (figure 5 right)."""

    def __init__(self, width: int, kernel: int, channels: int, context_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.hidden, self.kernel = width // 2, kernel
        self.along = CausalConv2d(width, 4 * self.hidden, (1, kernel), "B", channels)  # K_is
        bound = (kernel * self.hidden) ** -0.5
        self.above = nn.Parameter(torch.empty(kernel * self.hidden, 4 * self.hidden).uniform_(-bound, bound))  # K_ss
        self.up = CausalConv2d(self.hidden, width, (1, 1), "B", channels)
        self.bias = None if context_shape is None else ContextBias(context_shape, 4 * self.hidden, channels)
        open_forget_gates(self.along.bias)

    def forward(
        self,
        x: Features,
        image: Tensor | None = None,
        context: Tensor | None = None,
        cursor: Cursor | None = None,
    ) -> Features:
        """The layer's output, of the shape of its input x; it does not look at the image itself."""
        if cursor is not None:
            memory = cursor.remember(self, lambda: RowLSTMMemory(self, x, cursor))
            return self.up(memory.step(x, context, cursor), cursor).add_(x)
        gates = self.along(x.contiguous(memory_format=torch.channels_last))
        if self.bias is not None and context is not None:
            gates = gates + self.bias(context)
        return self.up(maps(self.down_the_rows(places(gates)))).add_(x)

    def down_the_rows(self, gates: Float[Tensor, "h w b g"]) -> Float[Tensor, "h w b f"]:
        """The states of all rows, one after the other; what x adds to their gates is given."""
        state = cell = gates.new_zeros(*gates.shape[1:3], self.hidden)
        states = []
        for row in gates.unbind():
            state, cell = lstm(row + self.from_above(state), cell)
            states.append(state)
        return torch.stack(states)

    def from_above(self, row: Float[Tensor, "w b f"]) -> Float[Tensor, "w b g"]:
        """K_ss ∗ h_{above}: of a row that is known already, all columns and channels; no mask."""
        width, aside = len(row), self.kernel // 2
        padded = F.pad(row, (0, 0, 0, 0, aside, aside))
        return torch.cat([padded[tap : tap + width] for tap in range(self.kernel)], 2) @ self.above


class RowLSTMMemory:
    """The states of the row above, overwritten pixel by pixel, and what they add to the gates of the cursor's row."""

    def __init__(self, layer: RowLSTM, x: Float[Tensor, "b inputs_of_channel"], cursor: Cursor) -> None:
        b, w, f = len(x), cursor.width, layer.hidden
        self.layer = layer
        self.states, self.cells, self.sums = x.new_zeros(w, b, f), x.new_zeros(w, b, f), x.new_zeros(w, b, 4 * f)
        self.state_at, self.cell_at, self.sum_at = (
            views(numbers, cursor.channels) for numbers in (self.states, self.cells, self.sums)
        )

    def step(
        self, x: Float[Tensor, "b inputs_of_channel"], context: Tensor | None, cursor: Cursor
    ) -> Float[Tensor, "b f_of_channel"]:
        """The state of the channel and pixel at the cursor."""
        if cursor.in_new_row:
            self.begin_row(context, cursor)
        j, g = cursor.column, cursor.channel
        state, cell = lstm(self.layer.along(x, cursor) + self.sum_at[j][g], self.cell_at[j][g])
        self.cell_at[j][g].copy_(cell)
        self.state_at[j][g].copy_(state)
        return state

    def begin_row(self, context: Tensor | None, cursor: Cursor) -> None:
        """K_ss ∗ h_{above}, and what the context adds, for a whole row at once."""
        self.sums.copy_(self.layer.from_above(self.states))
        if self.layer.bias is not None and context is not None:
            self.sums.add_(places(self.layer.bias.of_row(context, cursor))[0])


def lstm(
    gates: Float[Tensor, "*places g"], cell: Float[Tensor, "*places f"]
) -> tuple[Float[Tensor, "*places f"], Float[Tensor, "*places f"]]:
    """c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g), h = σ(o) ⊙ tanh(c'); gives h and c' (equation 3).

    gates: o, f, i and g, side by side.

    >>> hold = torch.tensor([9.0, 99.0, -99.0, 0.5])  # give out, keep, let nothing in
    >>> lstm(hold, torch.tensor([0.5]))
    (tensor([0.4621]), tensor([0.5000]))
    """
    size = cell.shape[-1]
    of_gates, new = gates.split((3 * size, size), -1)
    o, f, i = of_gates.sigmoid().chunk(3, -1)
    cell = torch.addcmul(f * cell, i, new.tanh())
    return o * cell.tanh(), cell


def open_forget_gates(bias: Tensor) -> None:
    """Begin with f near 1, that a gradient comes through many steps (Jozefowicz et al. 2015, section 2.2)."""
    nn.init.ones_(bias.detach().chunk(4)[1])


def places(x: Float[Tensor, "b f h w"]) -> Float[Tensor, "h w b f"]:
    """Place after place, the features of all images side by side: a step is one product with no copies."""
    return x.permute(2, 3, 0, 1).contiguous()


def maps(x: Float[Tensor, "h w b f"]) -> Float[Tensor, "b f h w"]:
    """The inverse of `places`, in the memory order of which convolutions of single pixels are products."""
    return x.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def views(row: Float[Tensor, "w b f"], channels: int) -> list[list[Float[Tensor, "b f_of_channel"]]]:
    """The features of each pixel and channel, to read and to write: made once, used for every row."""
    return [[row[j, :, channel::channels] for channel in range(channels)] for j in range(len(row))]
