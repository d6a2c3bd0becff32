"""Images as pictures: grids, pairs, traversals."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from probgen.errors import UserError
from probgen.plots.png import figure_png

CELL = 64  # smallest side of an image in a grid, in screen pixels
GAP = 4
PAPER = 255  # the grid's background: white


def to_display(images: Shaped[Tensor, "b c h w"], levels: int) -> np.ndarray:
    """Grey levels (whole or not) as uint8 b h w 3, each pixel enlarged to a visible size."""
    if images.shape[1] not in (1, 3):
        raise UserError(f"images of {images.shape[1]} channels came, a picture has 1 or 3")
    scaled = (images.float().cpu() / (levels - 1)).clamp(0, 1).mul(255).round().to(torch.uint8)
    scaled = scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    factor = max(1, math.ceil(CELL / max(images.shape[-2:])))
    return scaled.repeat_interleave(factor, 1).repeat_interleave(factor, 2).numpy()


def grid(images: Shaped[Tensor, "b c h w"], levels: int, columns: int | None = None) -> bytes:
    """Images in rows of `columns` (about square without it)."""
    return png(Image.fromarray(canvas(to_display(images, levels), columns or math.ceil(math.sqrt(len(images))))))


def canvas(cells: np.ndarray, columns: int) -> np.ndarray:
    """Pictures b h w 3 side by side, `columns` in a row, with gaps, as one picture H W 3."""
    rows = math.ceil(len(cells) / columns)
    height, width = cells.shape[1] + GAP, cells.shape[2] + GAP
    whole = np.full((rows * height + GAP, columns * width + GAP, 3), PAPER, np.uint8)
    for place, cell in enumerate(cells):
        top, left = place // columns * height + GAP, place % columns * width + GAP
        whole[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return whole


def pairs(above: Shaped[Tensor, "b c h w"], below: Shaped[Tensor, "b c h w"], levels: int) -> bytes:
    """Originals over their reconstructions, in blocks of up to ten columns; a bar of paper between blocks."""
    columns = min(10, len(above))
    blocks = []
    for start in range(0, len(above), columns):
        for part in (above[start : start + columns], below[start : start + columns]):
            filler = torch.full((columns - len(part), *part.shape[1:]), float(levels - 1))
            blocks.append(canvas(to_display(torch.cat([part.float().cpu(), filler]), levels), columns))
        blocks.append(np.full((2 * GAP, blocks[-1].shape[1], 3), PAPER, np.uint8))
    return png(Image.fromarray(np.concatenate(blocks[:-1])))


def png(image: Image.Image) -> bytes:
    """A Pillow image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def traversal(
    rows: Sequence[Shaped[Tensor, "n c h w"]], names: Sequence[str], values: Sequence[float], levels: int
) -> bytes:
    """One row per latent dimension, with its name, over the values it takes (columns)."""
    count, (height, width) = len(rows), rows[0].shape[-2:]
    cell = 0.62 / max(height, width)
    size = (1.6 + cell * width * len(values) * 1.06, 0.7 + cell * height * count * 1.06)
    close = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, hspace=0, wspace=0)
    figure = Figure(figsize=size, layout=close)
    axes = figure.subplots(count, len(values), squeeze=False)
    for name, row, line in zip(names, rows, axes, strict=True):
        for axis, image in zip(line, to_display(row, levels), strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axis, value in zip(axes[0], values, strict=True):
        axis.set_title(f"{value:+g}" if value else "0", fontsize=8)
    return figure_png(figure)
