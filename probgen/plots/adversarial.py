"""Two players: their run as curves, and what the discriminator thinks of the plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from probgen.plots.png import figure_png

COLOURS = {"real": "tab:orange", "fake": "tab:blue"}
PLAYERS = {"discriminator": "tab:orange", "generator": "tab:blue"}
BANDS = 14
SPLITS = {"train": "-", "valid": "--"}


def duel(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The value of the game, the discriminator's scores at data and draws, and both players' gradient norms.

    None of them says how good the samples are: a still game may be one that both have lost.
    """
    figure = Figure(figsize=(12.6, 3.4), layout="constrained")
    value, scores, norms = figure.subplots(1, 3)
    critic = any("critic_real" in record for record in records)
    prefix = "critic" if critic else "d"
    for split, style in SPLITS.items():
        own = [record for record in records if record["split"] == split]
        line(value, own, "value", style, "tab:green", f"{split}")
        for side, name in (("real", "x"), ("fake", "G(z)")):
            told = f"at {name}, {split}" if critic else f"D({name}), {split}"
            line(scores, own, f"{prefix}_{side}", style, COLOURS[side], told)
        for player, colour in PLAYERS.items():
            line(norms, own, f"{player}_gradient", style, colour, player)
    value.set(title="value of the game", xlabel="step")
    scores.set(title="mean logit" if critic else "D: share of real", xlabel="step")
    norms.set(title="norm of the gradient", xlabel="step", yscale="log")
    for axis in (value, scores, norms):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    return figure_png(figure)


def line(axis: Axes, records: Sequence[Mapping[str, Any]], term: str, style: str, colour: str, label: str) -> None:
    """One term over the steps, if it was recorded."""
    points = [(record["step"], record[term]) for record in records if term in record]
    if points:
        marker = "o" if len(points) == 1 else None  # a line of one point would not be seen
        axis.plot(*zip(*points, strict=True), ls=style, color=colour, label=label, lw=1.3, marker=marker)


def judgement(
    logits: Float[np.ndarray, "h w"],
    extent: tuple[float, float, float, float],
    data: Shaped[Tensor, "m 2"],
    samples: Shaped[Tensor, "n 2"],
    title: str = "",
    *,
    numbers: bool = True,
) -> Figure:
    """The discriminator's logit over the plane, data and samples on top.

    logits: rows from low to high y. extent: x from, to, y from, to. Where it is above 0 (red) the discriminator takes a
    point for data, of a pair of losses that compares only (wasserstein, relativistic) only differences mean something.
    numbers: beside the colours. A film, in which their width would make the frames shake, is without, and everything in
    it has its place: to look for the best takes matplotlib as long as to draw.
    """
    figure = Figure(figsize=(5.4, 4.6), layout="constrained" if numbers else None)
    axis = figure.subplots()
    bound = float(np.percentile(np.abs(logits - np.median(logits)), 98)) or 1.0
    middle = float(np.median(logits))
    levels = np.linspace(middle - bound, middle + bound, BANDS + 1)
    shown = axis.contourf(logits, levels, extent=extent, cmap="RdBu_r", alpha=0.75, extend="both")
    axis.scatter(data[:, 0].cpu(), data[:, 1].cpu(), s=4, color="gold", label="data")
    axis.scatter(samples[:, 0].cpu(), samples[:, 1].cpu(), s=2, color="black", label="samples")
    axis.set(xlim=extent[:2], ylim=extent[2:], title=title, aspect="equal")
    axis.legend(frameon=True, loc="upper right", fontsize=8, markerscale=2)
    bar = figure.colorbar(shown, ax=axis, label="logit of the discriminator", shrink=0.85)
    ticks = [middle - bound, middle, middle + bound] if numbers else []
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    if not numbers:
        figure.subplots_adjust(left=0.08, right=0.99, bottom=0.07, top=0.93)
    return figure
