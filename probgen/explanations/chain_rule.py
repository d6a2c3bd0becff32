"""p(x) = p(x₁) p(x₂ | x₁) p(x₃ | x₁, x₂) …: any joint probability is a product of conditionals, in any order.

Source: van den Oord, Kalchbrenner and Kavukcuoglu 2016, equation 1, for the pixels of an image.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probgen.distributions import LabelledImage
from probgen.explanations.lines import Chain, Derivation, Line
from probgen.explanations.prefixes import from_prefixes, in_blocks, in_order, is_text
from probgen.explanations.subject import Subject, list_of
from probgen.inference.evidence import entropy
from probgen.inference.traces import evaluating
from probgen.models.pixelcnn import PixelCNN

IMAGE = (1, 0, 0, 1)  # of 2 × 2 pixels, in raster order
DRAWS = 4000
SPREAD = 0.5  # of an untrained network's weights, so that its pixels depend on each other

LOG_PROB, MAP = "probgen.distributions.FactoredImage.log_prob", "probgen.distributions.FactoredImage.log_prob_map"
NUMBERS, ENTROPY = "probgen.distributions.FactoredImage.numbers", "probgen.inference.entropy"
PREFIXES = "probgen.explanations.prefixes.from_prefixes"


def small() -> Derivation:
    """On a table of 16 probabilities, and on a PixelCNN over the same images."""
    table = torch.rand(2, 2, 2, 2, dtype=torch.float64).square()
    table /= table.sum()
    model = PixelCNN((1, 2, 2), 2, features=4, blocks=1, first_kernel=3, kernel=3).double().eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.normal_(0, SPREAD)
        chains = (by_table(table), by_network(model), drawn(model), sums_to_one(model), first_pixel(model))
    opening = (
        "A joint probability as a product of conditionals, shown on all 16 images of 2 × 2 binary pixels at "
        f"x = {IMAGE}: first by a table of their probabilities, p(x) = {float(table[IMAGE]):.4f}, then by a PixelCNN "
        f"with {sum(p.numel() for p in model.parameters()):,} random weights."
    )
    closing = (
        "Nothing was assumed: every joint probability is such a product. What a network adds: one set of weights gives "
        "all factors, and masks keep each from seeing the pixels that it is to predict."
    )
    return Derivation("chain-rule", opening, chains, closing)


def factors(table: Float64[Tensor, "2 2 2 2"], order: Sequence[int]) -> list[Float64[Tensor, ""]]:
    """p(x_i | the pixels before it in the order), each a quotient of sums over the table."""
    found = []
    for place in range(len(order)):
        known = order[: place + 1]
        upto, before = (marginal(table, known[:stop]) for stop in (place + 1, place))
        found.append(upto / before)
    return found


def marginal(table: Float64[Tensor, "2 2 2 2"], known: Sequence[int]) -> Float64[Tensor, ""]:
    """The probability that these pixels are those of the image."""
    return table[tuple(IMAGE[i] if i in known else slice(None) for i in range(4))].sum()


def by_table(table: Float64[Tensor, "2 2 2 2"]) -> Chain:
    """Each factor is a quotient of two sums."""
    forward, backward = factors(table, (0, 1, 2, 3)), factors(table, (3, 2, 1, 0))
    alone = [float(marginal(table, (i,)).log()) for i in range(4)]
    lines = (
        Line("", "log p(x₁, x₂, x₃, x₄)", float(table[IMAGE].log()), "its place in the table"),
        Line(
            "=", "log [p(x₁) p(x₂ | x₁) p(x₃ | x₁, x₂) p(x₄ | x₁, x₂, x₃)]", float(torch.stack(forward).prod().log()),
            "p(a, b) = p(a) p(b | a), three times", FACTORS,
        ),
        Line(
            "=", "log p(x₁) + log p(x₂ | x₁) + log p(x₃ | x₁, x₂) + log p(x₄ | x₁, x₂, x₃)",
            sum(float(p.log()) for p in forward), "logarithm of a product", FACTORS,
        ),
        Line(
            "=", "log p(x₄) + log p(x₃ | x₄) + log p(x₂ | x₃, x₄) + log p(x₁ | x₂, x₃, x₄)",
            sum(float(p.log()) for p in backward), "any order will do", FACTORS,
        ),
        Line("≠", "log p(x₁) + log p(x₂) + log p(x₃) + log p(x₄)", sum(alone), "pixels are not independent", MARGINAL),
    )  # fmt: skip
    return Chain("by a table, p(x₂ | x₁) = Σ p(x₁, x₂, …) / Σ p(x₁, …)", lines)


FACTORS, MARGINAL = "probgen.explanations.chain_rule.factors", "probgen.explanations.chain_rule.marginal"


def all_images() -> Float64[Tensor, "16 1 2 2"]:
    """Every image, in the order of the table."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(16, 1, 2, 2)


def by_network(model: PixelCNN) -> Chain:
    """One pass, the factors one by one, the sampler: all the same number."""
    density = model.distribution()
    x = torch.tensor(IMAGE, dtype=torch.float64).reshape(1, 1, 2, 2)
    parts = density.log_prob_map(x).flatten()
    table = density.log_prob(all_images()).exp().reshape(2, 2, 2, 2)
    lines = (
        Line("", "log p(x; θ)", float(density.log_prob(x)[0]), "one pass of the network", LOG_PROB),
        Line("=", "Σ_i log p(x_i | x_1 … x_{i−1}; θ)", sum(parts.tolist()), list_of(parts), MAP),
        Line(
            "=", "the same, pixels from i on set to 0 for factor i", prefix_only(model, x), "no future seen", NUMBERS
        ),
        Line(
            "=", "the same, each factor by Σ_x over the 16 probabilities",
            sum(float(p.log()) for p in factors(table, (0, 1, 2, 3))), "p(x_i | x_<i) is a quotient of sums", FACTORS,
        ),
    )  # fmt: skip
    return Chain("by a PixelCNN", lines)


def prefix_only(model: PixelCNN, x: Float64[Tensor, "1 1 2 2"]) -> float:
    """Σ_i log p(x_i | x_<i), the network being shown only the pixels before i, as when one draws."""
    total = 0.0
    for i in range(4):
        seen = x.flatten() * (torch.arange(4) < i)
        numbers = model.numbers(seen.reshape(1, 1, 2, 2))
        total += float(model.conditional.log_prob(numbers, x).flatten()[i])
    return total


def drawn(model: PixelCNN) -> Chain:
    """The sampler and the density share their conditionals."""
    density = model.distribution()
    log_p = density.log_prob(all_images())
    lines = (
        Line("", "−Σ_x p(x; θ) log p(x; θ)", float(-(log_p.exp() @ log_p)), "entropy, over all 16 images", LOG_PROB),
        Line("=", "E[−log p(x; θ)], x drawn pixel by pixel", entropy(density, DRAWS), f"{DRAWS:,} draws", ENTROPY),
    )
    return Chain("what is drawn is what is scored", lines)


def sums_to_one(model: PixelCNN) -> Chain:
    """No normalization is needed."""
    density = model.distribution()
    lines = (
        Line("", "Σ_x p(x; θ), over all 16 images", float(density.log_prob(all_images()).exp().sum()), "", LOG_PROB),
        Line("=", "1", 1.0, "each factor sums to one"),
    )
    return Chain("no constant to normalize by", lines, unit="")


def first_pixel(model: PixelCNN) -> Chain:
    """It has a prior of its own."""
    first = model.distribution().log_prob_map(all_images()).exp()[8:, 0, 0, 0]  # images whose first pixel is 1
    lines = (
        Line("", "p(x₁ = 1), given the image (1, 0, 0, 0)", float(first[0]), "mask A: it sees nothing", MAP),
        Line("=", "p(x₁ = 1), given the image (1, 1, 1, 1)", float(first[-1]), "so nothing else matters", MAP),
    )
    return Chain("the first pixel has a probability of its own", lines, unit="")


# --- on a run


def trained(subject: Subject) -> Derivation:
    """On one image, or sentence, of a run."""
    density = chain_of(subject)
    with torch.no_grad(), evaluating(subject.pair):
        parts = density.log_prob_map(subject.images)[0]
        places, given = from_prefixes(subject, density)
        lines = [
            Line("", "log p(x)", float(subject.pair.log_prob(subject.images)[0]), "as the model gives it",
                 name_of(density)),
            Line("=", "Σ_i log p(x_i | x_1 … x_{i−1})", float(in_blocks(places, given).sum()), one_by_one(places),
                 PREFIXES),
        ]  # fmt: skip
        if isinstance(density, LabelledImage):
            lines.append(by_label(subject))
        chains = (
            Chain("the sum of its factors", (*lines, halves(density, places, given)), remark=factors_in_words(parts)),
            without_future(density, in_order(parts), places, given),
        )
    opening = f"A joint probability as a product of conditionals, shown on {subject.who}"
    opening += f": {shown_text(subject)!r}." if is_text(density) else "."
    closing = (
        "Training sees all factors in one pass, for the data are known; drawing takes them one after the other, and "
        "feeds each draw back."
    )
    return Derivation("chain-rule", opening, chains, closing)


def chain_of(subject: Subject) -> Any:
    """The density as a product. Raises UserError for a model that has no conditionals."""
    found = getattr(subject.pair, "distribution", None)
    density = found() if callable(found) else None
    if not hasattr(density, "log_prob_map"):
        raise subject.refuse("chain-rule")
    return density


def shown_text(subject: Subject) -> str:
    """The sentence."""
    return subject.pair.decode(subject.images)[0]


def name_of(density: Any) -> str:
    """Where its `log_prob` is."""
    return f"probgen.distributions.{type(density).__name__}.log_prob"


def one_by_one(places: Int64[Tensor, " k"]) -> str:
    """How many passes gave the factors."""
    return f"log of a product; {len(places)} passes, each shown only what is before"


def halves(density: Any, places: Int64[Tensor, " k"], given: Float64[Tensor, "k n"]) -> Line:
    """The same in two parts: the first by a pass that is shown nothing of the second."""
    middle = int(places[len(places) // 2])
    first = float(given[len(places) // 2, :middle].sum())
    rest = float(in_blocks(places, given)[middle:].sum())
    what = "symbols" if is_text(density) else "pixels"
    formula = f"log p(first {middle:,} {what}) + log p(the rest | them)"
    reason = f"{first:.3f} and {rest:.3f}".replace("-", "−")
    return Line("=", formula, first + rest, reason, PREFIXES)


def by_label(subject: Subject) -> Line:
    """A model of images with labels sums over them."""
    pair = subject.pair
    prior = pair.label_logits.log_softmax(0)
    each = [pair.distribution(y).log_prob(subject.images)[0] for y in range(len(prior))]
    value = float((prior + torch.stack(each)).logsumexp(0))
    return Line("=", "log Σ_y p(y) Π_i p(x_i | x_1 … x_{i−1}, y)", value, "one pass for each label", LOG_PROB)


def factors_in_words(parts: Float64[Tensor, "*shape"]) -> str:
    """How many, and how large."""
    ordered = in_order(parts)
    number = int((ordered != 0).sum())  # after a text's end factors are one
    mean = f"{float(ordered.sum()) / max(1, number):.4f}".replace("-", "−")
    first = f"the first of them {list_of(ordered[:6])}, the least expected {list_of(ordered.min())}"
    return f"{number:,} factors of less than one, {mean} nats on average, {first}."


def without_future(
    density: Any, ordered: Float64[Tensor, " all"], places: Int64[Tensor, " k"], given: Float64[Tensor, "k n"]
) -> Chain:
    """Factors by a network that is shown neither what it is to predict nor what comes after, as when one draws."""
    count = given.shape[1]
    lines = (
        Line("", "Σ_i log p(x_i | x_1 … x_{i−1})", float(ordered[places].sum()), "all in one pass",
             f"{name_of(density)}_map"),
        Line("=", "the same, all from i on set to 0 for factor i", float(given.gather(1, places[:, None]).sum()),
             "one pass each: none sees itself or the future", PREFIXES),
    )  # fmt: skip
    which = "all" if len(places) == count else f"{len(places)} of the {count:,}"
    return Chain(f"no factor sees itself or what comes after it: {which} factors", lines)
