"""Two estimators of one gradient: where their draws lie, and how far each coordinate's scatter."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from probgen.inference.gradients import GradientComparison

COLOURS = {"reparameterized": "tab:blue", "score function": "tab:orange"}


def gradients_figure(comparison: "GradientComparison") -> Figure:
    """Draws of the coordinate that is clearest, and the standard deviation of all coordinates by rank."""
    studies = {"reparameterized": comparison.reparameterized, "score function": comparison.score_function}
    first = comparison.reparameterized
    clearest = int((first.mean.abs() / first.stderr.clamp_min(1e-30)).argmax())
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    columns = {name: study.draws[:, clearest].double().cpu().numpy() for name, study in studies.items()}
    low, high = np.percentile(np.concatenate(list(columns.values())), [0.5, 99.5])
    for name, column in columns.items():
        label = f"{name}: {column.mean():.3g} ± {column.std(ddof=1) / len(column) ** 0.5:.2g}"
        left.hist(column.clip(low, high), bins=np.linspace(low, high, 60), alpha=0.7, color=COLOURS[name], label=label)
    left.axvline(0, color="0.6", lw=0.8)
    left.set(title=f"{len(first.draws)} draws of one coordinate", xlabel="∂ELBO/∂φ, nats", ylabel="draws", yscale="log")
    left.set_ylim(top=left.get_ylim()[1] * 12)
    left.legend(frameon=False, loc="upper center")
    for name, study in studies.items():
        sizes = study.variance.sqrt().sort(descending=True).values.double().cpu().numpy()
        right.plot(np.arange(1, len(sizes) + 1), np.maximum(sizes, 1e-30), color=COLOURS[name], label=name)
    ratio = (
        f"{comparison.variance_ratio:,.0f}" if comparison.variance_ratio >= 10 else f"{comparison.variance_ratio:.1f}"
    )
    right.set(title=f"score function: {ratio} times the variance", xlabel="coordinate, by rank", yscale="log")
    right.set_ylabel("standard deviation of a draw")
    right.set_xlim(0, 1.02 * max(int((s.variance > 0).sum()) for s in studies.values()))
    largest = float(comparison.score_function.variance.max()) ** 0.5
    right.set_ylim(largest * 1e-5, largest * 2)
    right.legend(frameon=False)
    return figure
