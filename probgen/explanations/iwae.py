"""log p(x) = log E_q[w], w = p(x, z) / q(z | x); and L_K = E[log (1/K) Σ_k w_k] ≤ log p(x), which rises with K.

Source: Burda et al. 2016, equation 8 and Theorem 1.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from probgen.explanations.lines import Chain, Derivation, Line, mean_of
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.subject import BUDGET, Subject
from probgen.inference import evidence
from probgen.inference.elbo import elbo_terms
from probgen.inference.estimates import Estimate

DRAWS = 2000  # of each sampled bound
GRID = torch.linspace(-9, 9, 2001, dtype=torch.float64)  # of z
MORE = ((10, 1000), (100, 200), (1000, 40))  # number of weights K, and draws of that bound
NUMBERS, WEIGHTS = (10, 100, 1000), 20_000  # of a run's bounds: K, and the weights of each bound, at most
FEWEST_DRAWS = 20  # of each

IWAE, TERMS, SCORE = "probgen.inference.iwae", "probgen.inference.elbo_terms", "probgen.inference.traces.score"
TRAPEZOID, NODES = "torch.trapezoid", "probgen.explanations.small_pair.SmallPair.nodes"
JOINT = "probgen.explanations.small_pair.SmallPair.log_joint"
BOUND = "E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))"


def small() -> Derivation:
    """On probabilistic PCA, where log p(x) is known, and the first bounds by quadrature."""
    pair = SmallPair()
    opening = (
        f"log p(x) from weights w = p(x, z) / q(z | x), and bounds on it from K of them, shown on {pair.opening}. "
        "L_K = E[log (1/K) Σ_k w_k], z_1 … z_K ~ q."
    )
    closing = (
        "Inside the logarithm the weights' mean is p(x) itself; outside, Jensen's inequality makes it a bound. "
        "The more weights, the less their mean varies, and the less is lost: L_K rises from the ELBO to log p(x)."
    )
    return Derivation("iwae", opening, (as_a_mean(pair), first_is_elbo(pair), rising(pair)), closing)


@torch.no_grad()
def as_a_mean(pair: SmallPair) -> Chain:
    """log p(x) as the logarithm of an expectation, and what Jensen's inequality makes of it."""
    joint, guide = pair.log_joint(GRID), pair.log_guide(GRID)
    weighted = float(torch.trapezoid(guide.exp() * (joint - guide).exp(), GRID).log())
    drawn = pair.m + pair.log_s.exp() * torch.randn(100 * DRAWS, dtype=torch.float64)
    weights = (pair.log_joint(drawn) - pair.log_guide(drawn)).exp()
    mean = mean_of(weights)
    relative = torch.tensor([mean.stderr / mean.value], dtype=torch.float64)  # of a logarithm, to first order
    sampled = Estimate.of(weights.mean().log()[None], "estimate", len(weights), relative)
    lines = (
        Line("", "log p(x)", pair.log_evidence(), "known here", "probgen.models.ProbabilisticPCA.log_prob"),
        Line(
            "=", "log ∫ p(x, z) dz", float(torch.trapezoid(joint.exp(), GRID).log()), "marginal of the joint", TRAPEZOID
        ),
        Line("=", "log ∫ q(z | x) · p(x, z) / q(z | x) dz = log E_q[w]", weighted, "multiply by q / q = 1", TRAPEZOID),
        Line(
            "=",
            "log E[(1/2) (w_1 + w_2)], z_1, z_2 ~ q",
            on_pairs(pair),
            "a mean has the same mean",
            NODES,
        ),
        Line("=", f"log (1/K) Σ_k w_k, K = {len(weights):,}", sampled, "by the law of large numbers", JOINT),
        Line("≥", "L_1 = E_q[log w]", bound(pair, 1), "Jensen: the logarithm is concave", NODES),
    )
    return Chain("log p(x) as the logarithm of a mean", lines)


def nodes_of(pair: SmallPair, number: int) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """log w at the quadrature's nodes, and their probabilities under q."""
    with torch.no_grad():
        z, weights = pair.nodes(number)
        return pair.log_joint(z) - pair.log_guide(z), weights


def on_pairs(pair: SmallPair) -> float:
    """log E[(w_1 + w_2) / 2], over all pairs of nodes."""
    log_w, weights = nodes_of(pair, 200)
    half = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
    return float((weights[:, None] * weights[None] * half.exp()).sum().log())


def bound(pair: SmallPair, number: int) -> float:
    """L_K for K = 1, 2 or 3, over all K-tuples of nodes."""
    log_w, weights = nodes_of(pair, 100)
    places = range(number)
    axes = [[len(log_w) if i == j else 1 for j in places] for i in places]
    parts = torch.stack(torch.broadcast_tensors(*(log_w.reshape(axis) for axis in axes)))
    chance = math.prod((weights.reshape(axis) for axis in axes), start=torch.ones((), dtype=torch.float64))
    return float((chance * (parts.logsumexp(0) - math.log(number))).sum())


@torch.no_grad()
def first_is_elbo(pair: SmallPair) -> Chain:
    """L_1 is the ELBO."""
    to_prior, _ = pair.closed_kls()
    terms = elbo_terms(pair.model, pair.guide, pair.x.expand(DRAWS, 2))
    lines = (
        Line("", "L_1 = E_q[log (p(x, z) / q(z | x))]", bound(pair, 1), "one weight", NODES),
        Line("=", BOUND, pair.mean(pair.log_likelihood) - to_prior, "product rule, definition of KL", SCORE),
        Line("=", f"the same, over {DRAWS:,} draws of z", mean_of(terms.elbo), "as it is trained", TERMS),
    )
    return Chain("with one weight it is the ELBO", lines)


def rising(pair: SmallPair) -> Chain:
    """L_1 ≤ L_2 ≤ … ≤ log p(x)."""
    lines: list[Line] = []
    for k in (1, 2, 3):
        lines.append(Line("≤" if lines else "", f"L_{k}", bound(pair, k), "by quadrature over all its z", NODES))
        lines.append(Line("=", f"L_{k}, sampled", drawn_bound(pair, k, DRAWS), f"{DRAWS:,} draws", IWAE))
    for k, draws in MORE:
        lines.append(Line("≤", f"L_{k}, sampled", drawn_bound(pair, k, draws), f"{draws:,} draws", IWAE))
    known = "probgen.models.ProbabilisticPCA.log_prob"
    lines.append(Line("≤", "log p(x)", pair.log_evidence(), "no bound lies above it", known))
    return Chain("the bound rises with K", tuple(lines))


def drawn_bound(pair: SmallPair, k: int, draws: int) -> Estimate:
    """L_K as the mean of independent draws of log (1/K) Σ_k w_k."""
    x = pair.x.expand(draws, 2)
    return mean_of(evidence.iwae(pair.model, pair.guide, x, k, diagnose=False, compile="off").per_image)


# --- on a run


def trained(subject: Subject) -> Derivation:
    """On a trained pair, for one image."""
    subject.need_latent("iwae")
    draws, weights = subject.affordable(DRAWS), subject.affordable(WEIGHTS, 5 * BUDGET)
    ladder = [(k, weights // k) for k in NUMBERS if weights // k >= FEWEST_DRAWS]
    model, guide = subject.pair.model, subject.pair.guide

    def sampled(k: int, number: int) -> Estimate:
        """L_K."""
        found = evidence.iwae(
            model, guide, subject.copies(number), k, diagnose=False, compile="off", progress=not subject.quiet
        )
        return mean_of(found.per_image)

    log_p = subject.log_prob()
    first = sampled(1, draws)
    same = (
        Line("", "L_1 = E_q[log (p(x, z) / q(z | x))]", first, f"one weight, {draws:,} draws", IWAE),
        Line("=", BOUND, mean_of(subject.terms(draws).elbo), f"the ELBO, {draws:,} other draws", TERMS),
    )
    best = evidence.iwae(model, guide, subject.images, draws, compile="off")
    rises = [Line("", "L_1", first, "the ELBO", IWAE)]
    rises += [
        Line("≤", f"L_{k}", sampled(k, number), f"{number:,} draws of {k:,} weights", IWAE) for k, number in ladder
    ]
    why = "∫ p(x | z) p(z) dz cannot be computed" if log_p is None else "this model knows it"
    rises.append(Line("≤", "log p(x)", log_p, why, "" if log_p is None else "probgen.inference.exact"))
    opening = (
        f"Bounds on log p(x) from K weights w = p(x, z) / q(z | x), shown on {subject.who}. "
        "L_K = E[log (1/K) Σ_k w_k], z_1 … z_K ~ q."
    )
    chains = (Chain("with one weight it is the ELBO", same), Chain("the bound rises with K", tuple(rises)))
    return Derivation("iwae", opening, chains, tail_in_words(best))


def tail_in_words(best: Estimate) -> str:
    """What Pareto k̂ says of the weights; nothing where it is not known."""
    if best.pareto_k is None:
        return ""
    k_hat = float(best.pareto_k[0])
    if k_hat == -math.inf:
        return "The weights are all alike: every L_K is log p(x)."
    if k_hat == math.inf:
        return "One weight outweighs all others: still a bound, but loose."
    heavy = "too heavy a tail: still a bound, but loose" if best.untrusted else "a tail light enough for their mean"
    return f"Pareto k̂ of {best.particles:,} weights is {k_hat:.2f}".replace("-", "−") + f": {heavy}."
