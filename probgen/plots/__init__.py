"""Pictures: matplotlib `Figure` objects and the bytes of PNGs; no state, no window."""

from probgen.plots.adversarial import duel, judgement
from probgen.plots.completions import completions, film, frame
from probgen.plots.field import field_figure
from probgen.plots.gradients import gradients_figure
from probgen.plots.images import canvas, grid, pairs, png, to_display, traversal
from probgen.plots.png import figure_png
from probgen.plots.saturation import saturation_figure
from probgen.plots.terms import terms_figure
from probgen.plots.training import curve, points

__all__ = [
    "canvas",
    "completions",
    "curve",
    "duel",
    "field_figure",
    "figure_png",
    "film",
    "frame",
    "gradients_figure",
    "grid",
    "judgement",
    "pairs",
    "png",
    "points",
    "saturation_figure",
    "terms_figure",
    "to_display",
    "traversal",
]
