"""What a derivation is shown on: a trained pair and its data, in float64; and what several topics ask of it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from probgen.console import track
from probgen.errors import UserError
from probgen.explanations.lines import mean_of
from probgen.explanations.topics import TOPICS
from probgen.inference.elbo import concatenate, elbo_terms
from probgen.inference.estimates import Estimate
from probgen.inference.terms import ElboTerms
from probgen.inference.traces import Site, evaluating, trace_pair
from probgen.models.contracts import Kind, kind_of

BUDGET = 4 * 10**9  # operations of one line's passes, about a second of a CPU's convolutions in float64
FEWEST = 200  # passes


@dataclass(frozen=True)
class Subject:
    """A run, opened.

    name, data, split: of the model, its data and the split. pair: the model, of float64 parameters.
    images: one image or many, float64. labels: theirs, for models that take labels. index: the image's place.
    training: the first training images, for maximum likelihood alone. quiet: no progress bars.
    """

    name: str
    data: str
    split: str
    pair: Any
    images: Tensor
    labels: Tensor | None = None
    index: int | None = None
    training: Tensor | None = None
    quiet: bool = True

    @property
    def who(self) -> str:
        """`vae on test image 3 of digits`, or `gan on 512 points of ring`."""
        one = self.index is not None
        what = f"{self.split} {self.thing} {self.index}" if one else f"{len(self.images):,} {self.thing}s"
        return f"{self.name} on {what} of {self.data}"

    @property
    def thing(self) -> str:
        """What one of the images is."""
        if hasattr(self.pair, "vocabulary"):
            return "sentence"
        return "point" if self.images.dim() == 2 else "image"

    def refuse(self, topic: str) -> UserError:
        """That this run is of the wrong kind, and what is the right one."""
        return UserError(
            f"{topic} is explained on runs of {TOPICS[topic].runs}; this one is of the model {self.name}, "
            f"{kind_of(self.pair)}: choose another run, or leave --run out for the small exact model"
        )

    def affordable(self, most: int, budget: int = BUDGET) -> int:
        """How many passes of the pair a line may take, at most `most`: by their arithmetic, not by the clock."""
        with FlopCounterMode(display=False) as counter:
            elbo_terms(self.pair.model, self.pair.guide, self.images)
        return max(FEWEST, min(most, budget // max(1, counter.get_total_flops())) // 100 * 100)

    def copies(self, num: int) -> Tensor:
        """The image so many times: as many independent draws of z, one for each copy."""
        return self.images.expand(num, *self.images.shape[1:])

    def terms(self, num: int, kl: Literal["closed-form", "sampled"] = "closed-form") -> ElboTerms:
        """The ELBO's terms for so many draws of z, one number for each."""
        parts = track(self.copies(num).split(max(50, num // 10)), f"{num:,} draws of z", quiet=self.quiet)
        return concatenate([elbo_terms(self.pair.model, self.pair.guide, part, kl=kl) for part in parts])

    def need_latent(self, topic: str) -> list[Site]:
        """The latent sites. Raises UserError for a model without."""
        if kind_of(self.pair) in (Kind.IMPLICIT, Kind.NONE):
            raise self.refuse(topic)
        with evaluating(self.pair), torch.no_grad():
            latent = [s for s in trace_pair(self.pair.model, self.pair.guide, self.images) if s.log_q is not None]
        if not latent:
            raise self.refuse(topic)
        return latent

    def log_prob(self) -> float | None:
        """log p(x) of the image where the model knows it."""
        if kind_of(self.pair) is not Kind.TRACTABLE or not hasattr(self.pair, "log_prob"):
            return None
        with evaluating(self.pair), torch.no_grad():
            return float(self.pair.log_prob(self.images)[0])


def total(terms: ElboTerms, of: Callable[[Any], Tensor]) -> Estimate:
    """The mean of a number of latent terms, summed over them."""
    return mean_of(torch.stack([of(term) for term in terms.latent]).sum(0))


def list_of(numbers: Float[Tensor, "..."], places: int = 3) -> str:
    """`(1.2, −0.7)`, a few of them if there are many."""
    flat = numbers.flatten().tolist()
    shown = [f"{n:.{places}g}".replace("-", "−") for n in itertools.islice(flat, 8)]
    return "(" + ", ".join(shown) + (", …" if len(flat) > 8 else "") + ")"
