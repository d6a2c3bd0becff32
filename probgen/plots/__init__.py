"""Pictures: matplotlib `Figure` objects and the bytes of PNGs; no state, no window."""

from probgen.plots.completions import completions, film, frame
from probgen.plots.field import field_figure
from probgen.plots.gradients import gradients_figure
from probgen.plots.images import canvas, grid, pairs, png, to_display, traversal
from probgen.plots.png import figure_png
from probgen.plots.terms import terms_figure
from probgen.plots.training import curve, points

__all__ = [
    "canvas",
    "completions",
    "curve",
    "field_figure",
    "figure_png",
    "film",
    "frame",
    "gradients_figure",
    "grid",
    "pairs",
    "png",
    "points",
    "terms_figure",
    "to_display",
    "traversal",
]
