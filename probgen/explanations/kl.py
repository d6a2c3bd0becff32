"""KL(p ‖ q) = Σ_x p(x) log p(x)/q(x) = H(p, q) − H(p) ≥ 0: zero when equal, unbounded, not symmetric.

Source: Kullback and Leibler 1951; the cross-entropy loss of classifiers is H(p, q) with p the labels.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from probgen.explanations.lines import Chain, Derivation, Line, added, compare, mean_of, minus
from probgen.explanations.subject import Subject, list_of, total
from probgen.inference.terms_view import HOW
from probgen.inference.traces import Site, innermost

DRAWS = 20_000
RUN_DRAWS = 2000  # of z, at most
P, Q = (0.7, 0.2, 0.1), (0.4, 0.4, 0.2)
LOGITS = ((2.0, 0.5, -1.0), (0.0, 1.5, 0.5), (-0.5, 0.3, 1.0))  # of three images, a score for each of three classes
LABELS = (0, 1, 1)

KL, CROSS = "torch.distributions.kl_divergence", "torch.nn.functional.cross_entropy"
CATEGORICAL, TERMS = "torch.distributions.Categorical", "probgen.inference.elbo_terms"


def exactly(numbers: tuple[float, ...]) -> Float64[Tensor, " n"]:
    """Numbers in float64."""
    return torch.tensor(numbers, dtype=torch.float64)


def small() -> Derivation:
    """On two categorical distributions, three labelled images, and two Gaussians."""
    opening = (
        "How far q is from p, and why classifiers are trained with a cross-entropy, shown on p = (0.7, 0.2, 0.1) and "
        "q = (0.4, 0.4, 0.2) over three outcomes, on three labelled images, and on the Gaussians N(0, 1) and N(1, 2²)."
    )
    chains = (definition(), never_negative(), *comparisons(), labels(), gaussians(), unbounded())
    closing = (
        "KL is no distance: it is not symmetric. Minimizing KL(data ‖ q) over q is maximizing the likelihood, for H(p) "
        "does not depend on q."
    )
    return Derivation("kl", opening, chains, closing)


def definition() -> Chain:
    """Three expressions of one number, and its estimate."""
    p, q = exactly(P), exactly(Q)
    entropy, cross = Categorical(p).entropy(), F.cross_entropy(q.log()[None], p[None])
    drawn = Categorical(p).sample(torch.Size([DRAWS]))
    draws = Categorical(p).log_prob(drawn) - Categorical(q).log_prob(drawn)
    lines = (
        Line("", "KL(p ‖ q)", float(kl_divergence(Categorical(p), Categorical(q))), "of the two distributions", KL),
        Line("=", "Σ_x p(x) log (p(x) / q(x))", float((p * (p / q).log()).sum()), "its definition"),
        Line("=", "−Σ_x p(x) log q(x) + Σ_x p(x) log p(x)", float(p @ p.log() - p @ q.log()), "log of a quotient"),
        Line("=", "H(p, q) − H(p)", float(cross - entropy), "cross-entropy less entropy", CROSS),
        Line("=", "E_p[log p(x) − log q(x)]", mean_of(draws), f"over {DRAWS:,} draws x ~ p", CATEGORICAL),
    )
    costs = f"H(p, q) = {float(cross):.4f} nats by a code made for q, H(p) = {float(entropy):.4f} by its own"
    remark = f"The cost of a draw from p: {costs}."
    return Chain("what it is", lines, remark=remark)


def never_negative() -> Chain:
    """Gibbs' inequality, by Jensen's."""
    p, q = exactly(P), exactly(Q)
    lines = (
        Line("", "−KL(p ‖ q)", -float(kl_divergence(Categorical(p), Categorical(q))), "", KL),
        Line("=", "E_p[log (q(x) / p(x))]", float(p @ (q / p).log()), "sign into the logarithm"),
        Line("≤", "log E_p[q(x) / p(x)]", math.log(float(p @ (q / p))), "Jensen: the logarithm is concave"),
        Line("=", "log Σ_x q(x)", math.log(math.fsum(Q)), "p cancels"),
        Line("=", "0", 0.0, "probabilities sum to one"),
    )
    return Chain("why it is never negative", lines)


def comparisons() -> tuple[Chain, Chain]:
    """Zero when equal; another number the other way round."""
    p, q = Categorical(exactly(P)), Categorical(exactly(Q))
    equal = (Line("", "KL(p ‖ p)", float(kl_divergence(p, p)), "q = p", KL), Line("=", "0", 0.0, "log 1 = 0"))
    turned = (
        Line("", "KL(p ‖ q)", float(kl_divergence(p, q)), "", KL),
        Line("≠", "KL(q ‖ p)", float(kl_divergence(q, p)), "p and q are not alike in it", KL),
    )
    return Chain("zero when equal", equal), Chain("not symmetric, hence no distance", turned)


def labels() -> Chain:
    """The loss of a classifier: labels are distributions of no entropy."""
    logits, y = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    one_hot, each = F.one_hot(y, logits.shape[1]).double(), Categorical(logits=logits)
    probabilities = logits.softmax(1)
    divergence = torch.xlogy(one_hot, one_hot / probabilities).sum(1)
    lines = (
        Line("", "cross-entropy loss", float(F.cross_entropy(logits, y)), "as classifiers are trained", CROSS),
        Line(
            "=", "1/N Σ_n H(p_n, q_n)", float(-(one_hot * probabilities.log()).sum(1).mean()), "p_n: the label, one-hot"
        ),
        Line("=", "1/N Σ_n KL(p_n ‖ q_n)", float(divergence.mean()), "a label is certain: H(p_n) = 0"),
        Line(
            "=", "−1/N Σ_n log q_n(y_n)", -float(each.log_prob(y).mean()), "−log-likelihood of the labels", CATEGORICAL
        ),
    )
    return Chain("the cross-entropy loss of three images with labels (0, 1, 1)", lines)


def gaussians() -> Chain:
    """Between densities: closed form, integral, sampled."""
    p, q = (Normal(*exactly(numbers)) for numbers in ((0.0, 1.0), (1.0, 2.0)))
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    integrand = p.log_prob(grid).exp() * (p.log_prob(grid) - q.log_prob(grid))
    drawn = p.sample(torch.Size([DRAWS]))
    by_hand = math.log(2 / 1) + (1**2 + (0 - 1) ** 2) / (2 * 2**2) - 0.5
    lines = (
        Line("", "KL(N(0, 1) ‖ N(1, 2²))", float(kl_divergence(p, q)), "", KL),
        Line("=", "log σ_q/σ_p + (σ_p² + (μ_p − μ_q)²) / 2σ_q² − ½", by_hand, "closed form"),
        Line("=", "∫ p(x) log (p(x) / q(x)) dx", float(torch.trapezoid(integrand, grid)), "its definition", TRAPEZOID),
        Line(
            "=", "E_p[log p(x) − log q(x)]", mean_of(p.log_prob(drawn) - q.log_prob(drawn)), f"{DRAWS:,} draws", NORMAL
        ),
        Line("≥", "0", 0.0, "Gibbs' inequality"),
    )
    return Chain("two Gaussians", lines)


TRAPEZOID, NORMAL = "torch.trapezoid", "torch.distributions.Normal"


def unbounded() -> Chain:
    """It grows without end as two Gaussians move apart."""
    zero, one = exactly((0.0, 1.0))
    lines: list[Line] = []
    for far in (1.0, 10.0, 100.0):
        value = float(kl_divergence(Normal(zero, one), Normal(zero + far, one)))
        first = not lines
        lines.append(Line("" if first else "≤", f"KL(N(0, 1) ‖ N({far:g}, 1))", value, "" if first else "farther", KL))
        lines.append(Line("=", f"{far:g}² / 2", far**2 / 2, "closed form"))
    return Chain("no upper bound", tuple(lines))


# --- on a run


def trained(subject: Subject) -> Derivation:
    """KL(q(z | x) ‖ p(z)), the second term of the ELBO, for one image."""
    latent = subject.need_latent("kl")
    draws = subject.affordable(RUN_DRAWS)
    closed, sampled, one, two = (subject.terms(draws, kl) for kl in ("closed-form", "sampled", "sampled", "sampled"))
    methods = " and ".join(sorted({HOW[term.method] for term in closed.latent}))
    apart = added(total(one, lambda t: t.log_guide), minus(total(two, lambda t: t.log_prior)))
    normal = normals(latent)
    lines = [Line("", "KL(q(z | x) ‖ p(z))", mean_of(closed.kl), methods, TERMS)]
    if normal is not None:
        lines += by_hand(*normal)
    lines += [
        Line("=", "E_q[log q(z | x) − log p(z)]", mean_of(sampled.kl), f"{draws:,} draws of z", TERMS),
        Line("=", "E_q[log q(z | x)] − E_q[log p(z)]", apart, "each with draws of its own", TERMS),
        Line("≥", "0", 0.0, "Gibbs' inequality"),
    ]
    chains, remark = [], ""
    opening = f"How far the guide's q(z | x) is from the prior p(z), shown on {subject.who}."
    if normal is not None:
        turned = Line("≠", "KL(p(z) ‖ q(z | x))", other_way(latent), "p and q are not alike in it", KL)
        remark = same_both_ways(lines[0], turned)
        if not remark:
            chains.append(Chain("not symmetric, hence no distance", (lines[0], turned)))
        opening += f" q(z | x) = N(μ, σ²), μ = {list_of(normal[0], 2)}, σ = {list_of(normal[1], 2)}; p(z) = N(0, I)."
    chains.insert(0, Chain("the same number by several expressions", tuple(lines), remark=remark))
    closing = "It is the second term of the ELBO: how many nats of z the guide tells about this image."
    return Derivation("kl", opening, tuple(chains), closing)


def same_both_ways(one: Line, other: Line) -> str:
    """What to say where KL(q(z | x) ‖ p(z)) and KL(p(z) ‖ q(z | x)) are one number; empty where they are two."""
    if not compare(one, replace(other, relation="=")).holds:
        return ""
    if compare(one, Line("=", "0", 0.0, "")).holds:
        return "q(z | x) is the prior here: KL(q(z | x) ‖ p(z)) and KL(p(z) ‖ q(z | x)) are both 0."
    return "KL(p(z) ‖ q(z | x)) is the same number here, as between Gaussians that differ in μ alone."


def by_hand(mu: Tensor, sigma: Tensor) -> list[Line]:
    """Between N(μ, σ²) and N(0, I)."""
    closed = float((mu**2 + sigma**2 - 1 - (sigma**2).log()).sum() / 2)
    cross = float((mu**2 + sigma**2 + math.log(2 * math.pi)).sum() / 2)
    entropy = float((2 * math.pi * math.e * sigma**2).log().sum() / 2)
    return [
        Line("=", "½ Σ_j (μ_j² + σ_j² − 1 − log σ_j²)", closed, "two Gaussians, in closed form"),
        Line("=", "H(q, p) − H(q)", cross - entropy, "cross-entropy less entropy"),
    ]


def normals(latent: list[Site]) -> tuple[Tensor, Tensor] | None:
    """μ and σ of a single site's q(z | x) = N(μ, σ²) whose prior is N(0, I); None for other pairs."""
    p, q = (innermost(d) for d in (latent[0].p, latent[0].q))
    if len(latent) > 1 or not (isinstance(p, Normal) and isinstance(q, Normal)):
        return None
    if bool((p.loc != 0).any()) or bool((p.scale != 1).any()):
        return None
    return q.loc.detach(), q.scale.detach()


def other_way(latent: list[Site]) -> float:
    """KL(p(z) ‖ q(z | x)) of a single site."""
    return float(latent[0].reduce(kl_divergence(latent[0].p, latent[0].q)).detach())
