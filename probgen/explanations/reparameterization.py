"""The ELBO's gradient in the guide: through the draw z = m + s ε, or by the score function.

    ∇_φ E_{q_φ}[f_φ(z)] = E_ε[∇_φ f_φ(g(ε, φ))]                     reparameterized: the path through z
                        = E_q[f_φ(z) ∇_φ log q_φ(z)]                score function, f = log p(x, z) − log q_φ(z | x)

Source: Kingma and Welling 2014, section 2.2 and equation 4; Williams 1992 for the second.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from probgen.explanations.lines import Chain, Derivation, Line, Number, mean_of
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.subject import Subject
from probgen.inference.evidence import log_weights
from probgen.inference.gradients import GradientComparison, compare_gradients, guide_parameters
from probgen.inference.traces import evaluating

DRAWS = 300  # of each gradient
MOST_DRAWS = 400  # of a run's; a quarter of the reparameterized ones choose the direction
COPIES = 1000  # of a run's z, at most, for the difference of ELBOs
PARABOLA = 1e-2  # step of the difference in m, in which the ELBO is a parabola
STEP = 1e-3  # of a run's differences
ROUNDING = 1e20  # a variance so many times smaller is that of rounding, (1e-16)² of a gradient's square
DIFFERENCES = ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12))  # places and weights: right to the fourth order

COMPARE, AUTOGRAD = "probgen.inference.compare_gradients", "torch.autograd.grad"
CLOSED = "probgen.explanations.small_pair.SmallPair.closed_elbo"
ELBO = "E_q[log p(x, z) − log q(z | x)]"


def small() -> Derivation:
    """On probabilistic PCA, where the gradient is known."""
    pair = SmallPair()
    comparison = compare_gradients(pair.model, pair.guide, pair.x, [pair.m, pair.log_s], DRAWS)
    chains = (in_mean(pair, comparison), in_log_std(pair, comparison), cut_path(pair), variances(pair, comparison))
    opening = f"Two gradients of one ELBO in the guide's φ = (m, s), shown on {pair.opening}."
    closing = (
        "Both means are the gradient; a draw of the reparameterized one is far nearer to it, since it knows in which "
        "direction f rises. It needs a z that is differentiable in φ; the score function needs log q(z | x) alone."
    )
    return Derivation("reparameterization", opening, chains, closing)


def slope(of: Tensor, parameter: Tensor) -> float:
    """The derivative of a number in m or log s."""
    return float(torch.autograd.grad(of, parameter)[0])


def f(pair: SmallPair, z: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """log p(x, z) − log q(z | x)."""
    return pair.log_joint(z) - pair.log_guide(z)


def by_path(pair: SmallPair, parameter: Tensor) -> float:
    """E_ε[∂ f(m + s ε)], by quadrature over ε."""
    z, weights = pair.nodes()
    return slope(weights @ f(pair, z), parameter)


def by_score(pair: SmallPair, parameter: Tensor) -> float:
    """E_q[f(z) ∂ log q(z | x)], by quadrature over z, which is held fixed."""
    z, weights = (t.detach() for t in pair.nodes())
    return slope(weights @ (f(pair, z).detach() * pair.log_guide(z)), parameter)


def in_mean(pair: SmallPair, comparison: GradientComparison) -> Chain:
    """∂/∂m, by six expressions."""
    W, mu, variance = (t.detach() for t in (pair.exact.W[:, 0], pair.exact.mu, (2 * pair.exact.log_sigma).exp()))
    m = pair.m.detach()
    by_hand = float(W @ (pair.x[0] - mu - W * m) / variance - m)
    lines = (
        Line("", "∂/∂m ELBO", slope(pair.closed_elbo(), pair.m), "of its closed form", CLOSED),
        Line("=", "Wᵀ(x − μ − W m) / σ² − m", by_hand, "by hand"),
        Line(
            "=", "(ELBO(m + h) − ELBO(m − h)) / 2h, h = 0.01", difference(pair), "the ELBO is a parabola in m", CLOSED
        ),
        *both_ways(pair, pair.m, "m", comparison, 0),
    )
    return Chain("in the mean of q, at m = 0.3", lines, unit="nats per unit of m")


def difference(pair: SmallPair) -> float:
    """The ELBO's central difference in m."""
    with torch.no_grad():
        middle, ends = float(pair.m), []
        for shift in (PARABOLA, -PARABOLA):
            pair.m.fill_(middle + shift)
            ends.append(float(pair.closed_elbo()))
        pair.m.fill_(middle)
    return (ends[0] - ends[1]) / (2 * PARABOLA)


def both_ways(
    pair: SmallPair, parameter: Tensor, name: str, comparison: GradientComparison, place: int
) -> tuple[Line, ...]:
    """Both estimators, by quadrature and sampled."""
    reparameterized, score = (
        mean_of(study.draws[:, place]) for study in (comparison.reparameterized, comparison.score_function)
    )
    through, by = f"E_ε[∂/∂{name} f(m + s ε)], ε ~ N(0, 1)", f"E_q[f(z) · ∂/∂{name} log q(z | x)]"
    return (
        Line("=", through, by_path(pair, parameter), "z = m + s ε: the expectation is of ε", NODES),
        Line("=", by, by_score(pair, parameter), "∂q = q ∂ log q, and E_q[∂ log q] = 0", NODES),
        Line("=", f"{through}, sampled", reparameterized, f"reparameterized, {DRAWS} draws", COMPARE),
        Line("=", f"{by}, sampled", score, f"score function, {DRAWS} draws", COMPARE),
    )


NODES = "probgen.explanations.small_pair.SmallPair.nodes"


def in_log_std(pair: SmallPair, comparison: GradientComparison) -> Chain:
    """∂/∂log s."""
    spread = (2 * pair.log_s.detach()).exp()
    W, variance = pair.exact.W.detach(), (2 * pair.exact.log_sigma.detach()).exp()
    by_hand = float(1 - spread - spread * W.square().sum() / variance)
    lines = (
        Line("", "∂/∂log s ELBO", slope(pair.closed_elbo(), pair.log_s), "of its closed form", CLOSED),
        Line("=", "1 − s² − s² |W|² / σ²", by_hand, "by hand"),
        *both_ways(pair, pair.log_s, "log s", comparison, 1),
    )
    return Chain("in the spread of q, at s = 0.7; f(z) = log p(x, z) − log q(z | x)", lines, "nats per unit of log s")


def cut_path(pair: SmallPair) -> Chain:
    """What is left when z is held fixed and the score function is forgotten."""
    z, weights = (t.detach() for t in pair.nodes())
    lines = (
        Line("", "∂/∂log s ELBO", slope(pair.closed_elbo(), pair.log_s), "the gradient", CLOSED),
        Line(
            "≠", "E_q[∂/∂log s f(z)], z held fixed", slope(weights @ f(pair, z), pair.log_s), "the path is cut", NODES
        ),
        Line("=", "−E_q[∂/∂log s log q(z | x)]", -slope(weights @ pair.log_guide(z), pair.log_s), "p has no s", NODES),
        Line("=", "0", 0.0, "the mean of a score is always 0"),
    )
    return Chain("why one cannot just differentiate inside", lines, unit="nats per unit of log s")


def variances(pair: SmallPair, comparison: GradientComparison) -> Chain:
    """Of one draw of ∂/∂m, by quadrature and sampled."""
    path, score = path_draws(pair), score_draws(pair)
    _, weights = (t.detach() for t in pair.nodes())
    exact = [float(weights @ (g - weights @ g) ** 2) for g in (path, score)]
    sampled = [squared(s.draws[:, :1]) for s in (comparison.reparameterized, comparison.score_function)]
    lines = (
        Line("", "Var[∂/∂m f(m + s ε)]", exact[0], "reparameterized, by quadrature", NODES),
        Line("=", "the same, sampled", sampled[0], f"{DRAWS} draws", COMPARE),
        Line("≤", "Var[f(z) · ∂/∂m log q(z | x)]", exact[1], "score function, by quadrature", NODES),
        Line("=", "the same, sampled", sampled[1], f"{DRAWS} draws", COMPARE),
    )
    remark = f"The score function's variance is {exact[1] / exact[0]:.1f} times the other's."
    return Chain("the variance of one draw", lines, unit="(nats per unit of m)²", remark=remark)


def path_draws(pair: SmallPair) -> Float64[Tensor, " n"]:
    """∂/∂m f(m + s ε) at each node."""
    z, _ = pair.nodes()
    return torch.stack([torch.autograd.grad(part, pair.m, retain_graph=True)[0] for part in f(pair, z)])


def score_draws(pair: SmallPair) -> Float64[Tensor, " n"]:
    """f(z) ∂/∂m log q(z | x) at each node."""
    z, _ = (t.detach() for t in pair.nodes())
    values, scores = f(pair, z), pair.log_guide(z)
    each = [torch.autograd.grad(part, pair.m, retain_graph=True)[0] for part in scores]
    return values.detach() * torch.stack(each)


def squared(draws: Float[Tensor, "n p"]) -> Number:
    """The variance of a draw, summed over coordinates, with its standard error."""
    num = len(draws)
    return mean_of((draws - draws.mean(0)).square().sum(1) * (num / (num - 1)))


# --- on a run


def trained(subject: Subject) -> Derivation:
    """The derivative of one image's ELBO along one direction of the guide's parameters, by three estimators."""
    subject.need_latent("reparameterization")
    draws = subject.affordable(MOST_DRAWS)
    pilots = draws // 4
    pair, x, quiet = subject.pair, subject.images, subject.quiet
    comparison = compare_gradients(pair.model, pair.guide, x, list(pair.parameters()), draws, progress=not quiet)
    pilot, path = comparison.reparameterized.draws.split([pilots, draws - pilots])
    score = comparison.score_function.draws
    direction = pilot.mean(0) / pilot.mean(0).norm()
    used = guide_parameters(pair.model, pair.guide, x, list(pair.parameters()))
    copies = subject.affordable(COPIES)
    lines = (
        Line(
            "", "d/dt ELBO(φ + t u) at t = 0", by_differences(subject, used, direction, copies),
            f"by differences; {copies:,} draws of ε", "probgen.inference.evidence.log_weights",
        ),
        Line(
            "=", "E_ε[u · ∇_φ f(g(ε, φ))]", mean_of(path @ direction),
            f"reparameterized, {draws - pilots} draws", COMPARE,
        ),
        Line(
            "=", "E_q[u · (f(z) ∇_φ log q(z | x) + ∇_φ log p(x, z))]", mean_of(score @ direction),
            f"score function, {draws} draws", COMPARE,
        ),
    )  # fmt: skip
    coordinates = len(direction)
    parts = "" if coordinates == comparison.num_parameters else f", {coordinates:,} of them looked at"
    through = Line("", "Σ_j Var[∂/∂φ_j f(g(ε, φ))]", squared(path), "reparameterized", COMPARE)
    by = Line(
        "", "Σ_j Var[f(z) ∂/∂φ_j log q(z | x) + ∂/∂φ_j log p(x, z)]", squared(score), "score function", COMPARE
    )  # fmt: skip
    remark = (
        f"{how_much_larger(comparison.variance_ratio)} Over all coordinates the two means differ by "
        f"{comparison.disagreement:.2f} of their standard errors (root mean square)."
    )
    chains = (
        Chain("the slope along u", lines, unit="nats per unit of φ"),
        Chain("the variance of one draw, through z", (through,), unit="(nats per unit of φ)²"),
        Chain("the variance of one draw, by the score function", (by,), unit="(nats per unit of φ)²", remark=remark),
    )
    opening = (
        f"Two gradients of one ELBO, {ELBO}, in the guide's {comparison.num_parameters:,} parameters φ{parts}, shown "
        f"on {subject.who}. u is the direction in which it rises, by {pilots} other draws; f(z) is what E_q is of."
    )
    return Derivation("reparameterization", opening, chains, which_is_nearer(comparison.variance_ratio))


def how_much_larger(ratio: float) -> str:
    """How many times the score function's variance is the other's; no figure where the other is rounding alone."""
    if ratio > ROUNDING:
        return "Reparameterized, all draws have the same gradient, but for rounding."
    return f"The score function's variance is {ratio:,.4g} times the other's."


def which_is_nearer(ratio: float) -> str:
    """What the variances come to; ratio: how many times the score function's is the other's."""
    if not ratio >= 1:
        return (
            "Both means are the gradient; here a draw by the score function is no farther from it. That the "
            "reparameterized one has the smaller variance is usual, and no theorem."
        )
    return "Both means are the gradient; by these draws, one of the reparameterized is nearer to it."


@torch.no_grad()
def by_differences(subject: Subject, used: list[Tensor], direction: Tensor, copies: int) -> Number:
    """The slope of each draw's ELBO along the direction, from its values at four places, of the same noise."""
    where = parameters_to_vector(used).clone()
    along = torch.zeros_like(where)
    along[:: -(-len(where) // len(direction))] = direction  # as `compare_gradients` keeps every so-many-th
    seed, slope = int(torch.randint(2**31, ())), torch.zeros(())
    with evaluating(subject.pair), torch.random.fork_rng():
        for place, weight in DIFFERENCES:
            vector_to_parameters(where + place * STEP * along, used)
            torch.manual_seed(seed)
            slope = (
                slope + weight * log_weights(subject.pair.model, subject.pair.guide, subject.images, copies)[:, 0].cpu()
            )
    vector_to_parameters(where, used)
    return mean_of(slope / STEP)
