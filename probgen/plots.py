"""Pictures: grids of images, curves, traversals, terms. Every function gives the PNG's bytes."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor

from probgen.errors import UserError

if TYPE_CHECKING:
    from probgen.inference.terms import ElboTerms

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


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG; the bytes depend on the figure alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def curve(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The training run: bound (or loss) on training batches and validation images, and its two terms."""
    splits = {name: [r for r in records if r["split"] == name] for name in ("train", "valid")}
    densities = any("elbo" in r for r in splits["valid"] or splits["train"])
    terms = ("elbo", "log_likelihood", "kl") if densities else ("loss",)
    titles = {
        "elbo": "ELBO",
        "log_likelihood": "E log p(x | z)",
        "kl": "KL(q ‖ p)",
        "loss": "squared error",
    }
    figure = Figure(figsize=(4.2 * len(terms), 3.4), layout="constrained")
    axes = figure.subplots(1, len(terms), squeeze=False)
    for axis, term in zip(axes[0], terms, strict=True):
        for name, colour in (("train", "tab:blue"), ("valid", "tab:orange")):
            points = [(r["step"], r[term]) for r in splits[name] if term in r]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, label=name, lw=1.5)
        values = [r[term] for r in records if term in r]
        if len(values) > 10:  # the first steps would flatten all that follows
            low, high = np.percentile(values, [4, 100] if term != "loss" else [0, 96])
            axis.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
        axis.set(title=titles[term], xlabel="step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("nats per image" if densities else "per image")
    axes[0][0].legend(frameon=False)
    return figure_png(figure)


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


def points(samples: Shaped[Tensor, "n 2"], data: Shaped[Tensor, "m 2"] | None = None) -> bytes:
    """Two-dimensional samples over the data."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    if data is not None:
        axis.scatter(data[:, 0].cpu(), data[:, 1].cpu(), s=3, color="0.75", label="data")
    axis.scatter(samples[:, 0].cpu(), samples[:, 1].cpu(), s=3, color="tab:blue", label="samples")
    axis.set_aspect("equal")
    axis.legend(frameon=False, loc="upper right")
    return figure_png(figure)


def terms_figure(terms: "ElboTerms") -> Figure:
    """The ELBO's terms: stacked for single images, its histogram, the KL of each latent dimension."""
    per_dim = [term.kl_per_dim for term in terms.latent if term.kl_per_dim is not None]
    several = len(terms.elbo) > 1
    figure = Figure(figsize=(1.2 + 4 * (1 + several + bool(per_dim)), 3.6), layout="constrained")
    axes = list(figure.subplots(1, 1 + several + bool(per_dim), squeeze=False)[0])
    stacked_terms(axes[0], terms)
    if several:
        axes[1].hist(array(terms.elbo), bins=40, color="tab:blue")
        axes[1].axvline(float(terms.elbo.mean()), color="black", lw=1, label=f"mean {float(terms.elbo.mean()):.2f}")
        axes[1].set(title=f"ELBO of {len(terms.elbo)} images", xlabel="nats per image", ylabel="images")
        axes[1].legend(frameon=False)
    if per_dim:
        sizes = array(torch.cat(per_dim, 1).mean(0).sort(descending=True).values)
        axes[-1].bar(np.arange(len(sizes)), sizes, color="tab:orange")
        axes[-1].set(title="KL of each latent dimension", xlabel="dimension, by rank", ylabel="nats")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def stacked_terms(axis: Any, terms: "ElboTerms") -> None:
    """−log likelihood and KL of the first images on top of each other, one colour for each site."""
    places = np.arange(min(20, len(terms.elbo)))
    parts = [(f"−E log p({t.name} | …)", -t.log_likelihood, f"C{i}") for i, t in enumerate(terms.observed)]
    parts += [(f"KL({t.name})", t.kl, f"C{i + len(terms.observed)}") for i, t in enumerate(terms.latent)]
    above, below = np.zeros(len(places)), np.zeros(len(places))  # a density may have a negative −log
    for label, numbers, colour in parts:
        sizes = array(numbers)[places]
        axis.bar(places, sizes, bottom=np.where(sizes >= 0, above, below), color=colour, label=label)
        above, below = above + sizes.clip(min=0), below + sizes.clip(max=0)
    axis.set(title="−ELBO of single images", xlabel="image", ylabel="nats", xticks=places[::5])
    axis.set_ylim(1.05 * below.min(), 1.3 * above.max() + 1e-3)
    axis.legend(frameon=False, ncols=2, loc="upper center")


def array(values: Tensor) -> np.ndarray:
    """For matplotlib."""
    return values.detach().cpu().double().numpy()
