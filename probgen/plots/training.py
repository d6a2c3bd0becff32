"""A training run as curves, and two-dimensional samples as points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from matplotlib.figure import Figure
from torch import Tensor

from probgen.plots.png import figure_png

OTHERS = {"student_forced": "train, student-forced", "joint": "train, log p(x, y)"}  # instead of the bound


def curve(records: Sequence[Mapping[str, Any]], each: str = "image") -> bytes:
    """The training run: bound (or loss) on training batches and validation images, and its two terms.

    Of a model without latent sites the bound is log p(x) itself, and the only panel. What was trained on instead of
    it is dashed. each: what one value is of, an image or a sentence.
    """
    splits = {name: [r for r in records if r["split"] == name] for name in ("train", "valid")}
    densities = any("elbo" in r for r in splits["valid"] or splits["train"])
    exact = densities and all(r["kl"] == 0 for r in records if "kl" in r)
    terms = ("elbo",) if exact else ("elbo", "log_likelihood", "kl") if densities else ("loss",)
    titles = {
        "elbo": "log p(x), exact" if exact else "ELBO",
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
                marker = "o" if len(points) == 1 else None  # a line of one point would not be seen
                axis.plot(*zip(*points, strict=True), color=colour, label=name, lw=1.5, marker=marker)
        values = [r[term] for r in records if term in r]
        if len(values) > 10:  # the first steps would flatten all that follows
            low, high = np.percentile(values, [4, 100] if term != "loss" else [0, 96])
            axis.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
        axis.set(title=titles[term], xlabel="step")
        axis.grid(alpha=0.3)
    for term, name in OTHERS.items():
        if others := [(r["step"], r[term]) for r in splits["train"] if term in r]:
            axes[0][0].plot(*zip(*others, strict=True), color="tab:blue", label=name, lw=1.2, ls="--")
    axes[0][0].set_ylabel(f"nats per {each}" if densities else f"per {each}")
    axes[0][0].legend(frameon=False)
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
