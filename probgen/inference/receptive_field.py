"""What a pixel's distribution looks at: ∂ (its numbers) / ∂ x_j for every pixel j, from the network itself."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

NUM_IMAGES = 8
SHADES = "·░▒▓█"


@dataclass(frozen=True)
class ReceptiveField:
    """How strongly one pixel's numbers depend on each pixel: mean |gradient|, the largest 1; zero where they cannot.

    row, column: the pixel. strength: h w.
    """

    row: int
    column: int
    strength: Float[Tensor, "h w"]

    @property
    def num_earlier(self) -> int:
        """Pixels before it in raster order: what it may depend on."""
        return self.row * self.strength.shape[1] + self.column

    @property
    def num_seen(self) -> int:
        """How many of these it depends on: where the gradient is not zero."""
        return int((self.strength.flatten()[: self.num_earlier] > 0).sum())

    def to_json(self) -> dict[str, Any]:
        """The pixel, how many earlier pixels it depends on, and the map as text."""
        place = {"row": self.row, "column": self.column}
        return {**place, "seen": self.num_seen, "earlier": self.num_earlier, "map": str(self).splitlines()}

    def __str__(self) -> str:
        """A map of characters, darker where the gradient is larger; ◎ is the pixel, blank what comes after it."""
        steps = [0.0, 1e-3, 1e-2, 1e-1]
        lines = []
        for i, line in enumerate(self.strength.tolist()):
            cells = [SHADES[sum(value > step for step in steps)] for value in line]
            seen = len(line) if i < self.row else self.column if i == self.row else 0
            lines.append(" ".join([*cells[:seen], *(["◎"] if i == self.row else [])]))
        return "\n".join(lines[: self.row + 1])


def receptive_field(
    numbers: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b n c h w"]],
    image: Float[Tensor, "b c h w"],
    row: int,
    column: int,
) -> ReceptiveField:
    """The field of one pixel, averaged over some images; all channels together.

    numbers: of every conditional, given images.
    """
    x = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        out = numbers(x)[..., row, column]
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    strength = gradient.abs().mean((0, 1))
    return ReceptiveField(row, column, strength / strength.max().clamp_min(1e-30))


def field_of(pair: Any) -> ReceptiveField | None:
    """The field of the middle pixel of the last row, which has most to look at; None for a pair that has none."""
    asked = ("numbers", "conditional", "image_shape")
    if not all(hasattr(pair, name) for name in asked) or len(pair.image_shape) != 3:
        return None
    _, height, width = pair.image_shape
    generator = torch.Generator().manual_seed(0)
    levels = pair.conditional.levels
    images = torch.randint(levels, (NUM_IMAGES, *pair.image_shape), generator=generator)
    precise = copy.deepcopy(pair).double().eval()  # what has come through many steps would vanish in float32
    example = next(iter(precise.parameters()))
    return receptive_field(precise.numbers, images.to(example), height - 1, width // 2)
