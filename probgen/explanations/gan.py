"""min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 − D(G(z)))]: what the game measures, and who gets which gradient.

Source: Goodfellow et al. 2014, Propositions 1 and 2, Theorem 1, and section 3 for the saturating generator.
"""

import math

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from probgen.explanations.gan_players import Game
from probgen.explanations.lines import Chain, Derivation, Line, added, mean_of
from probgen.explanations.subject import Subject
from probgen.inference.adversarial.losses import make_loss
from probgen.inference.adversarial.optimal import expectation, jensen_shannon, minimax_value, optimal_discriminator
from probgen.inference.adversarial.saturation import generator_gradients
from probgen.inference.traces import evaluating
from probgen.models.contracts import Kind, kind_of

GRID = torch.linspace(-12, 12, 4801, dtype=torch.float64)
REAL, FAKE = (0.0, 1.0), (1.0, 0.5)  # mean and standard deviation
DRAWS = 20_000
SURE = 0.01  # D(G(z)) of a generated image that is easily told

VALUE = "probgen.inference.adversarial.optimal.minimax_value"
BEST = "probgen.inference.adversarial.optimal.optimal_discriminator"
JSD = "probgen.inference.adversarial.optimal.jensen_shannon"
EXPECTATION = "probgen.inference.adversarial.optimal.expectation"
SATURATION = "probgen.inference.adversarial.saturation.generator_gradients"
AUTOGRAD = "torch.autograd.grad"


def normal(loc: float, scale: float) -> Normal:
    """A Gaussian in float64."""
    return Normal(torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


def small() -> Derivation:
    """On two Gaussians over one number, by integration."""
    p, q = normal(*REAL), normal(*FAKE)
    opening = (
        "What the best discriminator makes of the game, shown on real numbers x ~ p = N(0, 1) and a generator "
        "G(z) = 1 + 0.5 z, z ~ N(0, 1), that is q = N(1, 0.5²); integrals on a grid of 4,801 points."
    )
    chains = (value_at_best(p, q), nothing_better(p, q), equilibrium(p), *saturation(), second_term_only())
    closing = (
        "Against the best discriminator the generator lowers the Jensen-Shannon divergence. But where D is sure, the "
        "slope of log(1 − D(G(z))) is nearly 0, hence −log D(G(z)) in its place."
    )
    return Derivation("gan", opening, chains, closing)


def value_at_best(p: Normal, q: Normal) -> Chain:
    """V(D*, G) = 2 JSD − log 4."""
    log_p, log_q = p.log_prob(GRID), q.log_prob(GRID)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    logit = optimal_discriminator(log_p, log_q)
    x, made = p.sample(torch.Size([DRAWS])), FAKE[0] + FAKE[1] * torch.randn(DRAWS, dtype=torch.float64)
    real, fake = (optimal_discriminator(p.log_prob(t), q.log_prob(t)) for t in (x, made))
    put_in = [expectation(log, log - torch.logaddexp(log_p, log_q), GRID) for log in (log_p, log_q)]
    mixed = expectation(log_m, -log_m, GRID)
    lines = (
        Line("", "V(D*, G), D*(x) = p(x) / (p(x) + q(x))", float(minimax_value(log_p, log_q, logit, GRID)),
             "logit D* = log p(x) − log q(x)", VALUE),
        Line("=", "∫ p log [p / (p + q)] dx + ∫ q log [q / (p + q)] dx", float(sum(put_in)), "put D* in", EXPECTATION),
        Line("=", "2 JSD(p, q) − log 4", float(2 * jensen_shannon(log_p, log_q, GRID)) - math.log(4),
             "take ½ out: KL(p ‖ (p + q) / 2) + KL(q ‖ (p + q) / 2) = 2 JSD", JSD),
        Line("=", "2 H((p + q) / 2) − H(p) − H(q) − log 4",
             float(2 * mixed - p.entropy() - q.entropy()) - math.log(4), "JSD by entropies, of p and q in closed form",
             EXPECTATION),
        Line("=", "E_x[log D*(x)] + E_z[log(1 − D*(G(z)))], sampled",
             added(mean_of(logsigmoid(real)), mean_of(logsigmoid(-fake))), f"{DRAWS:,} draws of each", BEST),
    )  # fmt: skip
    return Chain("the value against the best discriminator", lines)


def nothing_better(p: Normal, q: Normal) -> Chain:
    """D* is the maximum over D, and its logit wants to move nowhere."""
    log_p, log_q = p.log_prob(GRID), q.log_prob(GRID)
    best = optimal_discriminator(log_p, log_q)
    others = (("with half its logit", best / 2), ("that says ½ everywhere", 0 * best), ("= σ(−x)", -GRID))
    top = float(minimax_value(log_p, log_q, best, GRID))
    lines = [Line("", "V(D*, G)", top, "as above", VALUE)]
    for told, logit in others:
        if len(lines) > 1:
            lines.append(Line("≤", "V(D*, G)", top, "the largest again", VALUE))
        lines.append(
            Line("≥", f"V(D, G), D {told}", float(minimax_value(log_p, log_q, logit, GRID)), "another D", VALUE)
        )
    return Chain("no discriminator does better: a·log D + b·log(1 − D) is largest at D = a / (a + b)", tuple(lines))


def equilibrium(p: Normal) -> Chain:
    """q = p is where the game ends."""
    log_p = p.log_prob(GRID)
    log_q = normal(*FAKE).log_prob(GRID)
    same = float(minimax_value(log_p, log_p, optimal_discriminator(log_p, log_p), GRID))
    other = float(minimax_value(log_p, log_q, optimal_discriminator(log_p, log_q), GRID))
    lines = (
        Line("", "V(D*, G), G with q = p", same, "D* = ½ everywhere", VALUE),
        Line("=", "−log 4", -math.log(4), "JSD(p, p) = 0"),
        Line("≤", "V(D*, G), G with q = N(1, 0.5²)", other, "JSD ≥ 0: any other G has more", VALUE),
    )
    return Chain("the best generator draws from p", lines)


def saturation() -> tuple[Chain, Chain]:
    """The derivatives of both generators' losses where D is sure."""
    found = generator_gradients(torch.tensor([SURE], dtype=torch.float64)).gradients
    saturating = (
        Line("", "∂/∂s log(1 − σ(s)), D(G(z)) = σ(s) = 0.01", float(found["minimax"]), "differentiated", SATURATION),
        Line("=", "−D(G(z))", -SURE, "by hand: small where D is sure"),
    )
    other = (
        Line("", "∂/∂s [−log σ(s)], at the same place", float(found["non-saturating"]), "differentiated", SATURATION),
        Line("=", "−(1 − D(G(z)))", -(1 - SURE), "by hand: large where D is sure"),
    )
    unit = "nats per unit of the logit s"
    return Chain("the saturating generator", saturating, unit), Chain("the non-saturating generator", other, unit)


def second_term_only() -> Chain:
    """The generator G(z) = m + 0.5 z has a gradient through E_z[log(1 − D(G(z)))] alone; D = D* held fixed."""
    points, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    m = torch.tensor(FAKE[0], dtype=torch.float64, requires_grad=True)

    def logit(x: Tensor) -> Tensor:
        """Of D*, which is held fixed while m moves."""
        return optimal_discriminator(normal(*REAL).log_prob(x), normal(*FAKE).log_prob(x))

    made = m + FAKE[1] * points
    first, second = weights @ logsigmoid(logit(REAL[1] * points)), weights @ logsigmoid(-logit(made))
    slope = made.detach().requires_grad_()
    (steep,) = torch.autograd.grad(logit(slope).sum(), slope)
    by_hand = float(weights @ (-logit(made.detach()).sigmoid() * steep))
    reach = torch.autograd.grad(first + 0 * m, m)[0]
    lines = (
        Line(
            "",
            "∂V/∂m",
            float(torch.autograd.grad(first + second, m, retain_graph=True)[0]),
            "G(z) = m + 0.5 z",
            AUTOGRAD,
        ),
        Line(
            "=",
            "∂/∂m E_z[log(1 − D(G(z)))]",
            float(torch.autograd.grad(second, m)[0]),
            "the first term has no m",
            AUTOGRAD,
        ),
        Line("=", "E_z[−D(G(z)) · s′(G(z)) · 1], s = logit D", by_hand, "chain rule"),
        Line("≠", "∂/∂m E_x[log D(x)]", float(reach), "real images do not depend on G", AUTOGRAD),
        Line("=", "0", 0.0, ""),
    )
    return Chain("the generator learns from the second term alone", lines, unit="nats per unit of m")


# --- on a run


def trained(subject: Subject) -> Derivation:
    """On the two players of a run, over a batch of real and of generated images."""
    pair = subject.pair
    if kind_of(pair) is not Kind.IMPLICIT:
        raise subject.refuse("gan")
    loss = make_loss(pair.objective.loss)
    with evaluating(pair), pyro.validation_enabled(False):
        game = Game(subject, loss)
        chains = (*game.value(), *game.both_players(), *game.saturation())
    told = "D = σ(logit), the probability of being real" if loss.is_probability else "D the logit itself"
    opening = (
        f"The value of the game and its gradients, shown on {subject.who}, beside {game.num:,} generated ones; trained "
        f"with loss={loss.name}, {told}. No number here is a likelihood: there is none."
    )
    closing = f"{game.sides()} Where the generator draws from the data, both are alike."
    return Derivation("gan", opening, chains, closing)
