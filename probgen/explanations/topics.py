"""What can be explained, and on which runs. Imports nothing heavy."""

import difflib
import importlib
from dataclasses import dataclass
from typing import Any, Literal

from probgen.errors import UserError

LATENT = "models with a latent z and a guide: vae, ppca, or your own"


@dataclass(frozen=True)
class Topic:
    """One derivation.

    summary: what it shows, in one line. runs: the models whose runs it can be shown on.
    looks_at: one image of the run's data (`image`), or many (`images`).
    """

    name: str
    summary: str
    runs: str
    looks_at: Literal["image", "images"]

    @property
    def module(self) -> Any:
        """Its module, with `small()` and `trained(subject)`, both of which give a `Derivation`."""
        return importlib.import_module(f"probgen.explanations.{self.name.replace('-', '_')}")


TOPICS = {
    topic.name: topic
    for topic in (
        Topic(
            "maximum-likelihood",
            "independent data: the likelihood is a product, its logarithm a sum; where it is largest",
            "gaussian, ppca",
            "images",
        ),
        Topic(
            "kl",
            "KL(p ‖ q) = H(p, q) − H(p) ≥ 0: what cross-entropy has to do with it, and why it is no distance",
            LATENT,
            "image",
        ),
        Topic(
            "chain-rule",
            "p(x) = p(x₁) p(x₂ | x₁) …: a joint probability pixel by pixel, or word by word",
            "the chain rule's models: pixelcnn, gated-pixelcnn, row-lstm, diagonal-bilstm, raster-lstm, language",
            "image",
        ),
        Topic(
            "elbo",
            "log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x)), and the bound in it",
            LATENT,
            "image",
        ),
        Topic(
            "reparameterization",
            "the ELBO's gradient through z = μ + σ ε, and by the score function: one mean, two variances",
            LATENT,
            "image",
        ),
        Topic(
            "iwae",
            "log p(x) as the logarithm of a mean weight: bounds that rise with the number of draws",
            LATENT,
            "image",
        ),
        Topic(
            "gan",
            "the best discriminator, the Jensen-Shannon divergence in the value, and who gets which gradient",
            "gan",
            "images",
        ),
    )
}


def topic_named(name: str) -> Topic:
    """The topic of a name. Raises UserError for an unknown one, with the nearest."""
    if name not in TOPICS:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), TOPICS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UserError(f"unknown topic {name!r}: {hint}expected one of {', '.join(TOPICS)}")
    return TOPICS[name]
