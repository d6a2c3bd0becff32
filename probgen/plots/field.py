"""The receptive field of a pixel as a picture."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor


def field_figure(strength: Tensor, row: int, column: int) -> Figure:
    """How strongly the pixel at (row, column) depends on each pixel, h w, in logarithmic shades; white: not at all."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    values = strength.double().cpu().numpy()
    shown = np.ma.masked_less_equal(values, 0)
    image = axis.imshow(shown, norm=LogNorm(vmin=1e-4, vmax=1, clip=True), cmap="Blues", interpolation="nearest")
    axis.plot([column], [row], marker="s", color="crimson", markersize=7, linestyle="none")
    axis.set(title="what the red pixel depends on", xlabel="column", ylabel="row")
    figure.colorbar(image, ax=axis, label="|gradient|, the largest 1", shrink=0.85)
    return figure
