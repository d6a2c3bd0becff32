"""log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x)), and the lower bound in it.

Source: Kingma and Welling 2014, equations 1 to 3; the first lines are Bayes' rule under an expectation.
"""

import torch

from probgen.explanations.lines import Chain, Derivation, Line, added, mean_of, minus
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.subject import Subject, total
from probgen.inference.elbo import elbo_terms
from probgen.inference.estimates import Estimate
from probgen.inference.evidence import iwae, log_weights
from probgen.inference.terms_view import HOW
from probgen.inference.traces import evaluating

DRAWS = 2000  # of z, for each sampled line
PARTICLES = 5000  # of a run's importance-weighted bound on log p(x), at most

SCORE, TERMS = "probgen.inference.traces.score", "probgen.inference.elbo_terms"
JOINT = "probgen.explanations.small_pair.SmallPair.log_joint"
MEAN = "probgen.explanations.small_pair.SmallPair.mean"
LOG_PROB = "probgen.models.ProbabilisticPCA.log_prob"
CLOSED = "probgen.explanations.small_pair.SmallPair.closed_elbo"
KL = "torch.distributions.kl_divergence"
WHOLE = "E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))"
BOUND = "E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))"


def small() -> Derivation:
    """On probabilistic PCA, where every term is known."""
    pair = SmallPair()
    mean, std = pair.posterior()
    opening = (
        "log p(x) as three terms, two of which can be computed for any model, shown on "
        f"{pair.opening}, which is N({mean:.3f}, {std:.3f}²)."
    )
    chains = (from_log_p(pair), terms_apart(pair), without_gap(pair))
    closing = (
        "The first two terms are the ELBO. It lacks KL(q(z | x) ‖ p(z | x)), which no model with a network as decoder "
        "can compute, but which is never negative: hence a lower bound, tight where q is the posterior."
    )
    return Derivation("elbo", opening, chains, closing)


def from_log_p(pair: SmallPair) -> Chain:
    """From log p(x) to the three terms, and down to the bound."""
    p_z, p_x_z, p_xz, p_z_x, q = (
        pair.log_prior, pair.log_likelihood, pair.log_joint, pair.log_posterior, pair.log_guide,
    )  # fmt: skip
    log_p = pair.log_evidence()
    to_prior, to_posterior = pair.closed_kls()
    likelihood = pair.mean(p_x_z)
    by_logs = pair.mean(p_x_z) - pair.mean(lambda z: q(z) - p_z(z)) + pair.mean(lambda z: q(z) - p_z_x(z))
    with torch.no_grad():
        drawn = elbo_terms(pair.model, pair.guide, pair.x.expand(DRAWS, 2))
    lines = (
        Line("", "log p(x)", log_p, "p(x) = N(x; μ, W Wᵀ + σ² I) is known here", LOG_PROB),
        Line("=", "E_q[log p(x)]", pair.mean(lambda z: 0 * z + log_p), "p(x) does not depend on z", MEAN),
        Line("=", "E_q[log (p(x, z) / p(z | x))]", pair.mean(lambda z: p_xz(z) - p_z_x(z)), "Bayes' rule", JOINT),
        Line(
            "=", "E_q[log (p(x | z) p(z) / p(z | x))]", pair.mean(lambda z: p_x_z(z) + p_z(z) - p_z_x(z)),
            "product rule", SCORE,
        ),
        Line(
            "=", "E_q[log (p(x | z) · p(z) / q(z | x) · q(z | x) / p(z | x))]",
            pair.mean(lambda z: p_x_z(z) + (p_z(z) - q(z)) + (q(z) - p_z_x(z))), "multiply by q / q = 1", SCORE,
        ),
        Line(
            "=", "E_q[log p(x | z)] − E_q[log (q(z | x)/p(z))] + E_q[log (q(z | x)/p(z | x))]", by_logs,
            "logarithm of a product", SCORE,
        ),
        Line("=", WHOLE, likelihood - to_prior + to_posterior, "definition of KL, in closed form", KL),
        Line("≥", BOUND, likelihood - to_prior, "KL ≥ 0: the ELBO", KL),
        Line("=", f"the same, over {DRAWS:,} draws of z", mean_of(drawn.elbo), "as it is trained", TERMS),
    )  # fmt: skip
    return Chain("from log p(x) to its three terms", lines)


def terms_apart(pair: SmallPair) -> Chain:
    """The gap that the bound leaves, term by term."""
    to_prior, to_posterior = pair.closed_kls()
    log_p, likelihood = pair.log_evidence(), pair.mean(pair.log_likelihood)
    by_hand = float(pair.closed_elbo().detach())
    lines = (
        Line("", "log p(x) − ELBO", log_p - (likelihood - to_prior), "what the bound lacks", LOG_PROB),
        Line(
            "=", "log p(x) + log 2πσ² + (|x − W m − μ|² + s²|W|²)/2σ² + (m² + s² − 1 − log s²)/2", log_p - by_hand,
            "the ELBO's two terms by hand", CLOSED,
        ),
        Line("=", "KL(q(z | x) ‖ p(z | x))", to_posterior, "the third term, between two Gaussians", KL),
        Line(
            "=", "E_q[log q(z | x) − log p(z | x)]", pair.mean(lambda z: pair.log_guide(z) - pair.log_posterior(z)),
            "its definition", SCORE,
        ),
        Line("≥", "0", 0.0, "Gibbs' inequality"),
    )  # fmt: skip
    remark = (
        f"The three terms: E_q[log p(x | z)] = {likelihood:.4f}, KL(q(z | x) ‖ p(z)) = {to_prior:.4f}, "
        f"KL(q(z | x) ‖ p(z | x)) = {to_posterior:.4f} nats."
    )
    return Chain("the gap", lines, remark=remark.replace("-", "−"))


def without_gap(pair: SmallPair) -> Chain:
    """With the posterior as guide the bound is log p(x), whatever z is drawn."""
    with torch.no_grad():
        terms = elbo_terms(pair.exact.model, pair.exact.guide, pair.x.expand(100, 2), kl="sampled")
    lines = (
        Line("", "log p(x)", pair.log_evidence(), "as above", LOG_PROB),
        Line("=", BOUND, mean_of(terms.elbo), "q(z | x) = p(z | x): 100 draws, all alike", TERMS),
    )
    return Chain("the same with the posterior as guide", lines)


# --- on a run


def trained(subject: Subject) -> Derivation:
    """On a trained pair: what can be computed, and what cannot."""
    subject.need_latent("elbo")
    particles = subject.affordable(PARTICLES)
    with evaluating(subject.pair):
        bound, first = as_trained(subject)
        best = iwae(
            subject.pair.model,
            subject.pair.guide,
            subject.images,
            particles,
            diagnose=False,
            compile="off",
            progress=not subject.quiet,
        )
    log_p = subject.log_prob()
    why = "∫ p(x | z) p(z) dz cannot be computed" if log_p is None else "this model knows it"
    by = "" if log_p is None else "probgen.inference.exact"
    second = Chain(
        "from log p(x) down to the bound",
        (
            Line("", f"log p(x) = {WHOLE}", log_p, why, by),
            Line("≥", f"E[log (1/K) Σ_k p(x, z_k) / q(z_k | x)], K = {particles:,}", best, "Jensen", IWAE),
            Line("≥", BOUND, bound, "the same with K = 1: the ELBO", TERMS),
        ),
    )
    third = Chain(
        "the third term, from below",
        (
            Line("", f"the bound with K = {particles:,} − ELBO", added(best, minus(bound)), "drawn apart", IWAE),
            Line("≥", "0", 0.0, "Jensen: the bound rises with K"),
        ),
        remark=third_term(log_p, bound),
    )
    closing = "Training raises the ELBO: that raises log p(x), or lowers the third term, or both."
    opening = f"log p(x) as three terms, of which two can be computed, shown on {subject.who}."
    return Derivation("elbo", opening, (first, second, third), closing)


IWAE = "probgen.inference.iwae"


def third_term(log_p: float | None, bound: Estimate) -> str:
    """What the difference of two bounds says of KL(q(z | x) ‖ p(z | x)), and its value where log p(x) is known."""
    said = "log p(x) lies above the bound with K: KL(q(z | x) ‖ p(z | x)) = log p(x) − ELBO is at least as large"
    if log_p is None:
        return f"{said}. From above: only on images drawn from the model, by `probgen evaluate RUN --method bdmc`."
    gap = Line("", "", added(log_p, minus(bound)), "")
    error = f" ± {gap.stderr:.4f}" if gap.stderr else ""
    return f"{said}; it is {round(log_p - bound.value, 4) + 0.0:.4f}{error} nats.".replace("-", "−")


def as_trained(subject: Subject) -> tuple[Estimate, Chain]:
    """The ELBO by several expressions, each with draws of its own; and the one that has the least noise."""
    draws = subject.affordable(DRAWS)
    with torch.no_grad():
        weights = log_weights(subject.pair.model, subject.pair.guide, subject.images, draws)[:, 0]
    one, two, three = (subject.terms(draws, "sampled") for _ in range(3))
    sampled, closed = subject.terms(draws, "sampled"), subject.terms(draws)
    apart = added(
        mean_of(one.log_likelihood), total(two, lambda t: t.log_prior), minus(total(three, lambda t: t.log_guide))
    )
    bound = mean_of(closed.elbo)
    methods = {term.method for term in closed.latent}
    lines = [
        Line("", "E_q[log (p(x, z) / q(z | x))]", mean_of(weights), f"{draws:,} draws of z", LOG_WEIGHTS),
        Line("=", "E_q[log p(x | z)] + E_q[log p(z)] − E_q[log q(z | x)]", apart, "product rule; own draws", TERMS),
        Line("=", f"{BOUND}, the KL sampled", mean_of(sampled.elbo), "definition of KL", TERMS),
    ]
    if methods != {"sampled"}:
        how = " and ".join(HOW[method] for method in sorted(methods))
        lines.append(Line("=", f"{BOUND}, the KL not sampled", bound, how, TERMS))
    likelihood, kl = mean_of(closed.log_likelihood), mean_of(closed.kl)
    remark = (
        f"E_q[log p(x | z)] = {likelihood.value:.2f} ± {likelihood.stderr:.2f}, KL(q(z | x) ‖ p(z)) = {kl.value:.2f}."
    )
    return bound, Chain("the ELBO by several expressions", tuple(lines), remark=remark.replace("-", "−"))


LOG_WEIGHTS = "probgen.inference.evidence.log_weights"
