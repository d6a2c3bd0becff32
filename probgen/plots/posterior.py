"""Pictures of a diagnosis: the posterior as NUTS draws it beside the guide. Every function gives a Figure."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from probgen.inference.diagnostics import Diagnosis

POSTERIOR, GUIDE = "tab:blue", "tab:orange"
NAMES = {POSTERIOR: "p(z | x), by NUTS", GUIDE: "q(z | x), the guide"}
MOST_POINTS = 1000  # of each colour in a scatter plot
MOST_CHAINS = 8  # in a plot of chains
BINS = 30


def draws_of(diagnosis: "Diagnosis") -> tuple[np.ndarray, np.ndarray]:
    """Draws of NUTS and of the guide, chain draw dim, the dimensions in the order of `diagnosis.marginals`."""
    posterior, guide = (
        np.concatenate([z.double().numpy().reshape(*z.shape[:2], -1) for z in draws.values()], axis=2)
        for draws in (diagnosis.posterior, diagnosis.guide)
    )
    return posterior, guide


def marginals(diagnosis: "Diagnosis", most: int = 16) -> Figure:
    """Histograms of single latent dimensions under both, those with the largest mismatch first."""
    posterior, guide = (draws.reshape(-1, draws.shape[2]) for draws in draws_of(diagnosis))
    shown = diagnosis.worst[:most]
    places = [diagnosis.marginals.index(m) for m in shown]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(max(6.0, 3.1 * columns), 0.9 + 2.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, marginal, place in zip(axes, shown, places, strict=False):
        histograms(axis, posterior[:, place], guide[:, place])
        fit = f"{marginal.name}: {marginal.shift:+.2f} sd, spread × {marginal.spread:.2f}"
        axis.set_title(fit.replace("-", "−"), fontsize=9)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    rest = f", the {len(shown)} of {len(diagnosis.marginals)} with the largest mismatch"
    title = "Latent dimensions" + (rest if len(shown) < len(diagnosis.marginals) else ", largest mismatch first")
    figure.suptitle(f"{title}: shift of the guide's mean and ratio of its spread", fontsize=10)
    legend(figure)
    return figure


def histograms(axis: Any, posterior: np.ndarray, guide: np.ndarray) -> None:
    """One dimension under both, as densities, over the range of both where that is not far beyond the posterior's."""
    low, high = np.quantile(posterior, [0.002, 0.998])
    beyond = np.quantile(guide, [0.005, 0.995])
    width = (high - low) or 1.0
    low, high = min(low, max(beyond[0], low - width)), max(high, min(beyond[1], high + width))
    edges = np.linspace(low, high, int(np.clip(len(posterior) ** 0.5, 10, BINS)) + 1)
    shares = [np.full(len(draws), 1 / len(draws) / (edges[1] - edges[0])) for draws in (posterior, guide)]
    axis.hist(posterior, edges, weights=shares[0], color=POSTERIOR, alpha=0.55)
    axis.hist(guide, edges, weights=shares[1], color=GUIDE, histtype="step", lw=1.6)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)


def legend(figure: Figure) -> None:
    """Both colours and what they are, under the whole figure."""
    handles = [figure.axes[0].scatter([], [], color=colour, s=25, label=label) for colour, label in NAMES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def pairs(diagnosis: "Diagnosis", most: int = 4) -> Figure:
    """Scatter plots of the dimensions whose correlations differ most between NUTS and the guide."""
    posterior, guide = (draws.reshape(-1, draws.shape[2]) for draws in draws_of(diagnosis))
    chosen = most_entangled(posterior, guide, most)
    names = [diagnosis.marginals[place].name for place in chosen]
    size = len(chosen)
    figure = Figure(figsize=(max(5.0, 2.3 * size), max(3.5, 2.3 * size + 0.6)), layout="constrained")
    axes = figure.subplots(size, size, squeeze=False, sharex="col")
    for row in range(size):
        for column in range(size):
            axis = axes[row][column]
            if column > row:
                axis.set_visible(False)
            elif column == row:
                histograms(axis, posterior[:, chosen[row]], guide[:, chosen[row]])
            else:
                for draws, colour in ((posterior, POSTERIOR), (guide, GUIDE)):
                    kept = draws[:: max(1, len(draws) // MOST_POINTS)]
                    axis.scatter(kept[:, chosen[column]], kept[:, chosen[row]], s=5, alpha=0.35, color=colour, lw=0)
                axis.set_ylabel(names[row] if column == 0 else "")
                axis.tick_params(labelsize=8)
        axes[-1][row].set_xlabel(names[row])
    rest = ", those whose correlations differ most" if size < len(diagnosis.marginals) else ""
    figure.suptitle(f"Pairs of latent dimensions{rest}", fontsize=10)
    legend(figure)
    return figure


def most_entangled(posterior: np.ndarray, guide: np.ndarray, most: int) -> list[int]:
    """The dimensions of the largest differences between the two matrices of correlations, in their own order."""
    size = posterior.shape[1]
    if size <= most:
        return list(range(size))
    with np.errstate(all="ignore"):
        difference = np.abs(np.corrcoef(posterior.T) - np.corrcoef(guide.T))
    difference = np.triu(np.nan_to_num(difference), 1)
    chosen: list[int] = []
    for flat in difference.ravel().argsort()[::-1]:
        chosen += [place for place in divmod(int(flat), size) if place not in chosen][: most - len(chosen)]
        if len(chosen) == most:
            break
    return sorted(chosen)


def chains(diagnosis: "Diagnosis", most: int = 4) -> Figure:
    """The chains of the dimensions with the largest R̂, and each chain's share of the ranks of all draws.

    Where the chains agree, every chain has its equal part of each tenth of the ranks (Vehtari et al. 2021, section 5).
    """
    posterior, _ = draws_of(diagnosis)
    order = np.argsort([-m.r_hat if math.isfinite(m.r_hat) else -math.inf for m in diagnosis.marginals], kind="stable")
    shown = [int(place) for place in order[:most]]
    figure = Figure(figsize=(9.5, 0.9 + 1.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[2, 1])
    for (trace, ranks), place in zip(axes, shown, strict=True):
        marginal, draws = diagnosis.marginals[place], posterior[:MOST_CHAINS, :, place]
        tenths = draws.ravel().argsort().argsort().reshape(draws.shape) * 10 / draws.size
        for number, (chain, tenth) in enumerate(zip(draws, tenths, strict=True)):
            trace.plot(chain, lw=0.6, color=f"C{number}")
            share = np.histogram(tenth, np.linspace(0, 10, 11))[0] / (draws.size / 10)
            ranks.stairs(share, np.linspace(0, 1, 11), baseline=None, color=f"C{number}", label=f"chain {number + 1}")
        trace.set_ylabel(marginal.name)
        r_hat = "unknown" if math.isnan(marginal.r_hat) else f"{marginal.r_hat:.4g}"
        trace.set_title(f"R̂ {r_hat}, worth {marginal.ess:.0f} independent draws", fontsize=9)
        ranks.axhline(1 / len(draws), color="0.4", lw=1, ls="--", zorder=0)
        ranks.set_title("share of each tenth of the ranks", fontsize=9)
        ranks.set_ylim(0, None)
    axes[-1][0].set_xlabel("draw, after the warm-up")
    axes[-1][1].set_xlabel("rank, from lowest to highest")
    figure.suptitle("NUTS: the dimensions with the largest R̂", fontsize=10)
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=MOST_CHAINS, frameon=False, fontsize=9)
    return figure
