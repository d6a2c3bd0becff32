"""The generator's two losses: how much of a gradient is left where the discriminator is sure."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from probgen.inference.adversarial.saturation import Saturation

CURVES = {  # by the loss's name: colour, line, label, and where its label begins
    "non-saturating": ("tab:blue", "-", "non-saturating loss: −log D(G(z))", (2e-6, 0.25)),
    "minimax": ("tab:red", "--", "saturating loss: log(1 − D(G(z)))", (2e-4, 3e-5)),
}
LOWEST = 1e-6


def saturation_figure(saturation: "Saturation") -> Figure:
    """|d loss / d logit| over D(G(z)), both logarithmic, for the two generators of the minimax game."""
    order = saturation.logits.argsort()
    probabilities = saturation.probabilities[order].cpu().numpy()
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, (colour, line, label, place) in CURVES.items():
        sizes = saturation.gradients[name][order].abs().cpu().numpy()
        axis.plot(probabilities, sizes, line, color=colour, lw=2.2, label=label)
        axis.text(*place, label, color=colour, fontsize=11)
    axis.set(xscale="log", yscale="log", xlim=(LOWEST, 1), ylim=(LOWEST / 2, 4))
    axis.set(xlabel="D(G(z)), on the left a bad generator, seen through", ylabel="|d loss / d logit|")
    axis.set_title("The saturating loss teaches a bad generator least")
    axis.grid(color="0.9")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
