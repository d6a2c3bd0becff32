"""The factors of a run's density by a network that is shown only what is before each, as when one draws."""

from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probgen.distributions import FactoredImage, FactoredSequence, LabelledImage
from probgen.distributions.causality import from_order
from probgen.explanations.subject import Subject
from probgen.vocabulary import END

MOST_FACTORS = 64  # each with a pass of the network of its own
AT_ONCE = 16  # of these passes


def is_text(density: Any) -> bool:
    """Whether it is of symbols, not pixels."""
    return isinstance(density, FactoredSequence)


def in_order(parts: Float64[Tensor, "*shape"]) -> Float64[Tensor, " n"]:
    """The factors in the order of the chain: of an image row by row, in a pixel channel by channel."""
    return parts.movedim(0, -1).flatten() if parts.dim() == 3 else parts


def from_prefixes(subject: Subject, density: Any) -> tuple[Int64[Tensor, " k"], Float64[Tensor, "k n"]]:
    """Places i, at most 64 of the n; and for each log p(x_j | x_<j) of every j by a network that is shown x_<i alone.

    Only the numbers of j ≤ i mean something: those of later j are given an image that is not theirs. A text's places
    are those of its symbols, its end the last.
    """
    x = in_order(subject.images[0])
    if is_text(density):
        x = x[: int(subject.pair.num_symbols(subject.images)[0])]
    places = torch.linspace(0, len(x) - 1, min(MOST_FACTORS, len(x)), device=x.device).round().long()
    cut = x.where(torch.arange(len(x), device=x.device) < places[:, None], END if is_text(density) else 0.0)
    return places, torch.cat([scored(subject, density, part, x) for part in cut.split(AT_ONCE)])


def scored(
    subject: Subject, density: Any, shown: Float64[Tensor, "k n"], x: Float64[Tensor, " n"]
) -> Float64[Tensor, "k n"]:
    """log p(x_j | what is shown before j): the numbers are those of what is shown, the values those of x."""
    if is_text(density):
        log_p = density.network(density.seen(shown.long(), None), None).log_softmax(-1)
        return log_p.gather(-1, x.long().expand(len(shown), -1)[..., None])[..., 0]
    shape = subject.images.shape[1:]
    images, true = from_order(shown, shape), from_order(x[None], shape).expand(len(shown), *shape)

    def given(one: FactoredImage) -> Float64[Tensor, "k n"]:
        """By p(x), or by p(x | y) of one label."""
        numbers = one.numbers(images, one.flat_context(torch.Size([len(shown)])))
        return one.conditional.log_prob(numbers, true).movedim(1, -1).flatten(1)

    if not isinstance(density, LabelledImage):
        return given(density)
    prior = subject.pair.label_logits.log_softmax(0)[:, None, None]
    each = torch.stack([given(subject.pair.distribution(y)) for y in range(len(prior))])
    upto = each.cumsum(-1)  # log p(x_≤j | y)
    return (prior + upto).logsumexp(0) - (prior + upto - each).logsumexp(0)


def in_blocks(places: Int64[Tensor, " k"], given: Float64[Tensor, "k n"]) -> Float64[Tensor, " n"]:
    """Each factor from the shortest prefix that there is: the next place's, its own where all are places."""
    which = torch.searchsorted(places, torch.arange(given.shape[1], device=places.device))
    return given.gather(0, which[None])[0]
