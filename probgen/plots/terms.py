"""The ELBO's terms: stacked for single images, as a histogram, by latent dimension."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from probgen.inference.terms import ElboTerms


def terms_figure(terms: "ElboTerms") -> Figure:
    """The ELBO's terms: stacked for single images, its histogram, the KL of each latent dimension."""
    per_dim = [term.kl_per_dim for term in terms.latent if term.kl_per_dim is not None]
    several = len(terms.elbo) > 1
    figure = Figure(figsize=(1.2 + 4 * (1 + several + bool(per_dim)), 3.6), layout="constrained")
    axes = list(figure.subplots(1, 1 + several + bool(per_dim), squeeze=False)[0])
    stacked_terms(axes[0], terms)
    if several:
        finite = array(terms.elbo)[np.isfinite(array(terms.elbo))]
        axes[1].hist(finite, bins=40, color="tab:blue")
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
        sizes = np.nan_to_num(array(numbers)[places], posinf=0, neginf=0)  # −∞ has no bar
        axis.bar(places, sizes, bottom=np.where(sizes >= 0, above, below), color=colour, label=label)
        above, below = above + sizes.clip(min=0), below + sizes.clip(max=0)
    axis.set(title="−ELBO of single images", xlabel="image", ylabel="nats", xticks=places[::5])
    axis.set_ylim(1.05 * below.min(), 1.3 * above.max() + 1e-3)
    axis.legend(frameon=False, ncols=2, loc="upper center")


def array(values: Tensor) -> np.ndarray:
    """For matplotlib."""
    return values.detach().cpu().double().numpy()
