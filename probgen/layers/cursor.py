"""Where the drawing of an image has come to, and what each layer remembers of the pixels before.

A causal network is evaluated in two ways by the same `forward`: on whole images, all pixels at once, for the
likelihood; and with a `Cursor` at one pixel after the other, for sampling. In the second way each layer is handed
only the features of the pixel at the cursor, keeps those that later pixels will look at, and so computes every
activation once: a whole image costs about as much arithmetic as one pass.

A `Wave` is a cursor at several pixels, at most one in each row, of which none looks at another.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn


class Cursor:
    """A place in raster order, `row`, `column`, `channel`, and the memory of every layer."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.row = self.column = self.channel = 0
        self.memory: dict[nn.Module, Any] = {}

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Walk over (channel, row, column) in raster order."""
        for row, column, channel in itertools.product(range(self.height), range(self.width), range(self.channels)):
            self.row, self.column, self.channel = row, column, channel
            yield channel, row, column

    @property
    def in_new_row(self) -> bool:
        """Whether this is a row's first place."""
        return self.column == 0 and self.channel == 0

    @property
    def num_pixels(self) -> int:
        """How many pixels it is at."""
        return 1

    def take(self, maps: Shaped[Tensor, "b k h w"]) -> Shaped[Tensor, "n k"]:
        """What maps hold at the cursor: n = b, for each image; see `Wave`."""
        return maps[:, :, self.row, self.column]

    def put(self, image: Shaped[Tensor, "b h w"], values: Shaped[Tensor, " n"]) -> None:
        """Write values, in the order of `take`, to the place of the cursor."""
        image[:, self.row, self.column] = values

    def remember(self, layer: nn.Module, make: Callable[[], Any]) -> Any:
        """What the layer has in memory; made when it is first asked for."""
        if layer not in self.memory:
            self.memory[layer] = make()
        return self.memory[layer]

    def bytes_held(self) -> int:
        """Memory of all layers, in bytes."""
        return sum(size_of(value) for value in self.memory.values())


class Wave(Cursor):
    """A cursor at all pixels (i, j) with j + lag · i = `step`: one in each of its `rows`, `lag` columns apart.

    A kernel that reaches q columns to the right sees, d rows above a pixel of step t, nothing later than step
    t − lag · d + q. With lag = q + 1 that is an earlier step: the pixels of one step do not look at each other and are
    drawn at once, h · w pixels in w + lag · (h − 1) steps. This holds for any number of such layers, for each looks at
    features that are there already. `row` and `column` are those of the uppermost pixel.

    Features of several pixels are `n f`, n = rows · b, the images of a row next to each other.
    """

    def __init__(self, height: int, width: int, channels: int, lag: int) -> None:
        super().__init__(height, width, channels)
        self.lag, self.step, self.rows = lag, 0, range(1)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Walk over the steps, and in each over the channels."""
        steps = range(self.width + self.lag * (self.height - 1))
        for step, channel in itertools.product(steps, range(self.channels)):
            if channel == 0:
                self.step, self.rows = step, self.rows_at(step)
                self.row, self.column = self.rows.start, step - self.lag * self.rows.start
            self.channel = channel
            yield channel, self.row, self.column

    def rows_at(self, step: int) -> range:
        """The rows in which a step has a pixel; none before the first step."""
        first = max(0, -((self.width - 1 - step) // self.lag))
        return range(first, max(first, min(self.height, step // self.lag + 1)))

    @property
    def num_pixels(self) -> int:
        """How many pixels it is at."""
        return len(self.rows)

    def take(self, maps: Shaped[Tensor, "b k h w"]) -> Shaped[Tensor, "n k"]:
        """What maps hold at the cursor."""
        return self.at(maps).permute(2, 0, 1).flatten(0, 1)

    def put(self, image: Shaped[Tensor, "b h w"], values: Shaped[Tensor, " n"]) -> None:
        """Write values, in the order of `take`, to the places of the cursor."""
        self.at(image[:, None])[:, 0] = values.unflatten(0, (len(self.rows), -1)).mT

    def at(self, maps: Shaped[Tensor, "b k h w"]) -> Shaped[Tensor, "b k rows"]:
        """The places of the cursor, as a view: from one to the next it is a row down and `lag` columns back."""
        images, features, down, right = maps.stride()
        first = maps.storage_offset() + self.row * down + self.column * right
        return maps.as_strided((*maps.shape[:2], len(self.rows)), (images, features, down - self.lag * right), first)


def size_of(value: Any) -> int:
    """Bytes of the tensors in a layer's memory, each storage counted once."""
    found: dict[int, int] = {}

    def visit(item: Any) -> None:
        if isinstance(item, Tensor):
            found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            visit(list(item.values()))
        elif isinstance(item, list | tuple):
            for part in item:
                visit(part)
        elif hasattr(item, "__dict__"):
            visit(vars(item))

    visit(value)
    return sum(found.values())
