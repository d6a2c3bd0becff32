"""The Diagonal BiLSTM: two LSTMs cross the image from its upper corners; what they see together is all of the past.

    [o, f, i, g] = W_left h[row, column − 1] + W_above h[row − 1, column] + K_is ∗ x       from the left corner;
    from the right one the same with column + 1, its states moved down by a row before they are added.

van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", section 3.2 and figure 3. The
pixels of a diagonal do not look at each other: in the skewed map they are a column, and one step.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from probgen.layers.causal import CausalConv2d, ContextBias, Features, shifted_down
from probgen.layers.cursor import Cursor
from probgen.layers.row_lstm import lstm, maps, open_forget_gates, places, views
from probgen.layers.stack import CausalStack


class DiagonalBiLSTMNetwork(CausalStack):
    """A wide first layer with mask A, Diagonal BiLSTM layers, two pointwise layers (table 1).

    image_shape: (c, h, w). outputs: numbers for each value of the image. features: of the states of one direction for
    each channel of the image; between layers it is twice that. first_kernel: 3 or more, or nothing of a neighbour
    comes in. context_shape: of a condition, None for none.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        outputs: int,
        *,
        features: int,
        layers: int,
        first_kernel: int = 7,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        width, channels = 2 * features * image_shape[0], image_shape[0]
        stack = (DiagonalBiLSTM(width, channels, context_shape) for _ in range(layers))
        super().__init__(image_shape, outputs, context_shape, width=width, first_kernel=first_kernel, layers=stack)


class DiagonalBiLSTM(nn.Module):
    """x + W (left + right moved down by a row), the states of two LSTMs.

    The states from the right are used a row later, when all their row is known: they mix channels, and look not only
    at x but at the image itself. x lags behind the image by a value; by x alone, as in the paper, the last pixel of
    the row above would reach only those pixels near to it of which the first layer's kernel holds it.
    """

    def __init__(self, width: int, channels: int, context_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.hidden = width // 2
        self.left = CausalConv2d(width, 4 * self.hidden, (1, 1), "B", channels)
        self.right = nn.Linear(width + channels, 4 * self.hidden)
        bound = (2 * self.hidden) ** -0.5
        # Of the left and of the right direction: the state beside, then the one above.
        self.weight = nn.Parameter(torch.empty(2, 2 * self.hidden, 4 * self.hidden).uniform_(-bound, bound))
        self.up = CausalConv2d(self.hidden, width, (1, 1), "B", channels)
        self.left_bias = None if context_shape is None else ContextBias(context_shape, 4 * self.hidden, channels)
        self.right_bias = None if context_shape is None else ContextBias(context_shape, 4 * self.hidden, channels)
        nn.init.zeros_(self.right.bias)
        open_forget_gates(self.left.bias)
        open_forget_gates(self.right.bias)

    def forward(
        self,
        x: Features,
        image: Float[Tensor, "b c h w"],
        context: Tensor | None = None,
        cursor: Cursor | None = None,
    ) -> Features:
        """The layer's output, of the shape of its input x."""
        if cursor is not None:
            memory = cursor.remember(self, lambda: DiagonalMemory(self, x, cursor))
            return self.up(memory.step(x, image, context, cursor), cursor).add_(x)
        x = x.contiguous(memory_format=torch.channels_last)
        left, right = places(self.left(x)), self.right(torch.cat([places(x), places(image)], 3))
        if self.left_bias is not None and self.right_bias is not None and context is not None:
            left, right = left + places(self.left_bias(context)), right + places(self.right_bias(context))
        left, right = along_diagonals(torch.stack([left, right.flip(1)]), self.weight).unbind()
        return self.up(maps(left) + shifted_down(maps(right.flip(1)))).add_(x)


def along_diagonals(
    gates: Float[Tensor, "n h w b g"], weight: Float[Tensor, "n two_f g"]
) -> Float[Tensor, "n h w b f"]:
    """The states of n LSTMs, each from its upper left corner, diagonal by diagonal; what x adds to gates is given."""
    n, h, w, b, size = gates.shape
    state = cell = gates.new_zeros(n, 0, b, size // 4)
    states = []
    for d, diagonal in enumerate(skew(gates)):
        # Zeros above the first row and left of the first column, as long as the diagonal goes that far.
        border = (0, 0, 0, 0, int(d < w), int(d < h))
        state, cell = F.pad(state, border), F.pad(cell, border)
        both = torch.cat([state[:, 1:], state[:, :-1]], 3)  # the state beside, and the one above
        flat = torch.baddbmm(diagonal.flatten(1, 2), both.flatten(1, 2), weight)
        state, cell = lstm(flat.unflatten(1, (-1, b)), cell[:, 1:])
        states.append(state)
    return unskew(states, h, w)


def skew(maps: Float[Tensor, "n h w *features"]) -> list[Float[Tensor, "n _ *features"]]:
    """The columns of a map of which each row stands one pixel further right than the last: its diagonals.

    >>> for diagonal in skew(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])):
    ...     print(diagonal)
    tensor([[1.]])
    tensor([[2., 3.]])
    tensor([[4., 5.]])
    tensor([[6.]])
    """
    h, w = maps.shape[1:3]
    sizes = [min(d + 1, h, w, h + w - 1 - d) for d in range(h + w - 1)]
    return list(maps.flatten(1, 2).index_select(1, diagonal_order(h, w, maps.device)).split(sizes, 1))


def unskew(diagonals: list[Float[Tensor, "n _ *features"]], h: int, w: int) -> Float[Tensor, "n h w *features"]:
    """The inverse of `skew`.

    >>> unskew([torch.tensor([[1.0]]), torch.tensor([[2.0, 3.0]]), torch.tensor([[4.0]])], 2, 2)
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    flat = torch.cat(diagonals, 1)
    return flat.index_select(1, diagonal_order(h, w, flat.device).argsort()).unflatten(1, (h, w))


def diagonal_order(h: int, w: int, device: torch.device | None = None) -> Int[Tensor, " places"]:
    """The places of a map, numbered in raster order, diagonal by diagonal and in each from the top.

    >>> diagonal_order(3, 2)
    tensor([0, 1, 2, 3, 4, 5])
    >>> diagonal_order(2, 3)
    tensor([0, 1, 3, 2, 4, 5])
    """
    diagonal = torch.arange(h, device=device)[:, None] + torch.arange(w, device=device)
    return diagonal.flatten().argsort(stable=True)


class DiagonalMemory:
    """The states from the left, of the cursor's row, and those from the right, of the row above it."""

    def __init__(self, layer: DiagonalBiLSTM, x: Float[Tensor, "b inputs_of_channel"], cursor: Cursor) -> None:
        b, w, f, c = len(x), cursor.width, layer.hidden, cursor.channels
        self.layer, self.channels = layer, c
        self.beside, self.above = layer.weight.split(f, 1)  # of both directions: f 4f
        self.inputs = x.new_zeros(w, b, x.shape[1] * c)  # x of the row so far
        self.left = x.new_zeros(w + 1, b, f)  # one place before the first column, where no state is
        self.cell = x.new_zeros(b, f)
        self.right, self.sums = x.new_zeros(w, b, f), x.new_zeros(w, b, 4 * f)
        self.of_pixel = self.sums[0]
        self.input_at = views(self.inputs, c)
        self.left_at, self.right_at = views(self.left[1:], c), views(self.right, c)
        self.cell_of = [self.cell[:, channel::c] for channel in range(c)]

    def step(
        self, x: Float[Tensor, "b inputs_of_channel"], image: Tensor, context: Tensor | None, cursor: Cursor
    ) -> Float[Tensor, "b f_of_channel"]:
        """The sum of both directions' states of the channel and pixel at the cursor."""
        if cursor.in_new_row:
            self.begin_row(image, context, cursor)
        j, g = cursor.column, cursor.channel
        if g == 0:  # a pixel behind, the states may mix channels: one product for all of them
            self.of_pixel = torch.addmm(self.sums[j], self.left[j], self.beside[0])
        gates = self.layer.left(x, cursor) + self.of_pixel[:, g :: self.channels]
        state, cell = lstm(gates, self.cell_of[g])
        self.input_at[j][g].copy_(x)
        self.cell_of[g].copy_(cell)
        self.left_at[j][g].copy_(state)
        return state + self.right_at[j][g]

    def begin_row(self, image: Float[Tensor, "b c h w"], context: Tensor | None, cursor: Cursor) -> None:
        """The row above is complete: its states from the right, and what those from the left add to the new row."""
        if cursor.row > 0:
            self.from_the_right(image[:, :, cursor.row - 1], context, cursor)
        self.sums.copy_(self.left[1:] @ self.above[0])
        if self.layer.left_bias is not None and context is not None:
            self.sums.add_(places(self.layer.left_bias.of_row(context, cursor))[0])
        self.cell.zero_()

    def from_the_right(self, image_row: Float[Tensor, "b c w"], context: Tensor | None, cursor: Cursor) -> None:
        """The states of the row above the cursor, in place of those of the row above that."""
        gates = self.layer.right(torch.cat([self.inputs, image_row.permute(2, 0, 1)], 2)) + self.right @ self.above[1]
        if self.layer.right_bias is not None and context is not None:
            gates = gates + places(self.layer.right_bias.of_row(context, cursor, lag=1))[0]
        state = cell = torch.zeros_like(self.cell)
        for j in reversed(range(cursor.width)):
            state, cell = lstm(torch.addmm(gates[j], state, self.beside[1]), cell)
            self.right[j].copy_(state)
