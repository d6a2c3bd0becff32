"""Where the drawing of an image has come to, and what each layer remembers of the pixels before.

A causal network is evaluated in two ways by the same `forward`: on whole images, all pixels at once, for the
likelihood; and with a `Cursor` at one pixel after the other, for sampling. In the second way each layer is handed
only the features of the pixel at the cursor, keeps those that later pixels will look at, and so computes every
activation once: a whole image costs about as much arithmetic as one pass.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

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

    def remember(self, layer: nn.Module, make: Callable[[], Any]) -> Any:
        """What the layer has in memory; made when it is first asked for."""
        if layer not in self.memory:
            self.memory[layer] = make()
        return self.memory[layer]

    def bytes_held(self) -> int:
        """Memory of all layers, in bytes."""
        return sum(size_of(value) for value in self.memory.values())


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
