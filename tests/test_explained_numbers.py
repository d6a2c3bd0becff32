"""The numbers of derivations against oracles, SciPy and quadrature; derivations of pairs that were trained."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from derivations import line, sampled, small, the_number
from laws import check_equal
from oracles import (
    array,
    diagonal_gaussian_kl,
    linear_gaussian_elbo,
    linear_gaussian_evidence,
    linear_gaussian_posterior,
)
from scipy import integrate, special, stats

from probgen.explanations import chain_rule, elbo, iwae, kl, maximum_likelihood, reparameterization
from probgen.explanations.gan_players import Game, log_sigmoid, written_out
from probgen.explanations.lines import compare
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.subject import Subject
from probgen.inference.adversarial.losses import LOSSES, make_loss
from probgen.models.gaussian import MultivariateGaussian

# --- the players of a game


def game(name, real, fake, **players):
    """A game of these logits, as functions of the players' parameters."""
    made = object.__new__(Game)
    made.loss, made.real, made.fake, made.players = make_loss(name), real, fake, players
    return made


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sure", [40.0, -40.0, 800.0, -800.0])
def test_a_value_is_written_out_for_sure_discriminators(name, sure):
    real = torch.tensor([sure, 0.3], dtype=torch.float64)
    value, each = make_loss(name).value(real, -real), written_out(name, real, -real)
    assert each.isfinite().all()
    assert compare(line("", float(value)), line("=", float(each.mean()))).holds
    assert not compare(line("", float(value)), line("=", float(each.mean()) * (1 + 1e-6) + 1e-6)).holds


def test_digits_of_a_sure_discriminator_are_kept():
    logits = torch.tensor([-40.0, 40.0, -800.0], dtype=torch.float64)
    check_equal(log_sigmoid(logits), np.array([-40.0, -math.exp(-40), -800.0]), 1e-15)


def test_a_saturated_game_holds():
    """All images are beyond the margin: neither player has a gradient."""
    theta, phi = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0))
    made = game("hinge", 2 * phi, -phi * theta, generator=[theta], discriminator=[phi])
    chains = made.both_players()
    assert chains[0].lines[0].value == 0
    assert all(check.holds is not False for chain in chains for check in chain.checks)


def test_a_parameter_with_a_gradient_from_one_side_counts():
    theta, a, b = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0, 5.0))
    made = game("wasserstein", 4 * a, 3 * b * theta, generator=[theta], discriminator=[a, b])
    learns, nothing, both = made.both_players()
    assert [made.value for made in (*learns.lines, *nothing.lines)] == [15, 15, 0, 0]
    check_equal([made.value for made in both.lines], [math.hypot(4, 6)] * 2)


def test_a_gradient_through_real_images_is_seen():
    """A discriminator that depends on the generator's parameters through the real images."""
    theta, phi = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0))
    made = game("wasserstein", phi * theta, 2 * phi * theta, generator=[theta], discriminator=[phi])
    learns, nothing, _ = made.both_players()
    assert [chain.checks[1].holds for chain in (learns, nothing)] == [False, False]


# --- and its numbers


@pytest.fixture(scope="module")
def small_pair():
    pair = SmallPair()
    W, mu, sigma = array(pair.exact.W), array(pair.exact.mu), float(pair.exact.log_sigma.detach().exp())
    return pair, (array(pair.x), W, mu, sigma), float(pair.m.detach()), float(pair.log_s.detach().exp())


def test_the_terms_of_log_p_are_those_of_the_oracle(small_pair):
    _, known, m, s = small_pair
    evidence = linear_gaussian_evidence(*known)[0]
    likelihood, to_prior = (part[0] for part in linear_gaussian_elbo(*known, [[m]], [s]))
    mean, covariance = linear_gaussian_posterior(*known)
    to_posterior = diagonal_gaussian_kl([m], [s], mean[0], np.sqrt(covariance[0]))[0]
    found = small("elbo")
    check_equal(the_number(found, "log p(x)"), evidence)
    check_equal(the_number(found, elbo.WHOLE), evidence)
    check_equal(the_number(found, elbo.BOUND), likelihood - to_prior)
    check_equal(the_number(found, "KL(q(z | x) ‖ p(z | x))"), to_posterior)


def test_the_numbers_that_an_opening_states_are_those_computed_with(small_pair):
    pair, (x, W, mu, sigma), m, s = small_pair
    stated = "W = (1.2, −0.7), μ = (0.3, 0.1), σ = 0.8, at x = (1.4, −0.9)"
    assert stated in pair.opening
    check_equal(
        np.concatenate([W.ravel(), mu, [sigma], x.ravel(), [m, s]]),
        [1.2, -0.7, 0.3, 0.1, 0.8, 1.4, -0.9, 0.3, 0.7],
        1e-15,
    )


def test_its_bounds_are_those_of_quadrature(small_pair):
    pair, (x, W, mu, sigma), m, s = small_pair
    points, chances = np.polynomial.hermite_e.hermegauss(150)
    z = m + s * points
    weights = (
        stats.norm.logpdf(x, z[:, None] * W.T + mu, sigma).sum(1) + stats.norm.logpdf(z) - stats.norm.logpdf(z, m, s)
    )
    chances = chances / chances.sum()
    both = np.logaddexp(weights[:, None], weights[None]) - math.log(2)
    check_equal(iwae.bound(pair, 1), chances @ weights)
    check_equal(iwae.bound(pair, 2), chances @ both @ chances)
    check_equal(the_number(small("iwae"), "log p(x)"), linear_gaussian_evidence(x, W, mu, sigma)[0])


def test_the_gradient_is_that_of_the_oracle_s_elbo(small_pair):
    _, known, m, s = small_pair

    def bound(mean, log_s):
        likelihood, divergence = linear_gaussian_elbo(*known, [[mean]], [math.exp(log_s)])
        return float(likelihood[0] - divergence[0])

    h = 1e-5
    found = small("reparameterization")
    by_m = (bound(m + h, math.log(s)) - bound(m - h, math.log(s))) / (2 * h)
    by_s = (bound(m, math.log(s) + h) - bound(m, math.log(s) - h)) / (2 * h)
    check_equal(the_number(found, "∂/∂m ELBO"), by_m)
    check_equal(the_number(found, "∂/∂log s ELBO"), by_s)
    path, score = (the_number(found, f) for f in ("Var[∂/∂m f(m + s ε)]", "Var[f(z) · ∂/∂m log q(z | x)]"))
    curvature = 1 + float((array(known[1]) ** 2).sum()) / known[3] ** 2  # of log p(x, z); log q's path has none in m
    check_equal(path, (curvature * s) ** 2)
    assert score > path


def test_the_divergences_are_those_of_scipy():
    found = small("kl")
    check_equal(the_number(found, "KL(p ‖ q)"), special.rel_entr(kl.P, kl.Q).sum())
    check_equal(the_number(found, "KL(q ‖ p)"), special.rel_entr(kl.Q, kl.P).sum())
    check_equal(the_number(found, "KL(N(0, 1) ‖ N(1, 2²))"), diagonal_gaussian_kl([0], [1], [1], [2]))
    logits = np.array(kl.LOGITS)
    loss = -np.mean([special.log_softmax(row)[y] for row, y in zip(logits, kl.LABELS, strict=True)])
    check_equal(the_number(found, "cross-entropy loss"), loss)


def test_the_likelihoods_are_those_of_scipy():
    x = np.array(maximum_likelihood.NUMBERS)
    found = small("maximum-likelihood")
    check_equal(the_number(found, "Σ_n log p(x_n; θ)"), stats.norm.logpdf(x, 1.0, 2.0).sum())
    check_equal(the_number(found, "max_θ Σ_n log p(x_n; θ)"), stats.norm.logpdf(x, *stats.norm.fit(x)).sum())


def test_the_value_against_the_best_discriminator_is_that_of_adaptive_quadrature():
    p, q = stats.norm(0, 1), stats.norm(1, 0.5)

    def integrand(x):
        return p.pdf(x) * -np.log1p(np.exp(q.logpdf(x) - p.logpdf(x))) + q.pdf(x) * -np.log1p(
            np.exp(p.logpdf(x) - q.logpdf(x))
        )

    expected = integrate.quad(integrand, -8, 8, epsabs=1e-12, limit=200)[0]
    check_equal(the_number(small("gan"), "2 JSD(p, q) − log 4"), expected, 1e-8)


def test_factors_of_a_table_are_its_conditionals():
    table = torch.rand(2, 2, 2, 2, dtype=torch.float64)
    table /= table.sum()
    masses = array(table)
    first, second, third, fourth = chain_rule.factors(table, (0, 1, 2, 3))
    check_equal(first, masses[1].sum())
    check_equal(second, masses[1, 0].sum() / masses[1].sum())
    check_equal(third, masses[1, 0, 0].sum() / masses[1, 0].sum())
    check_equal(fourth, masses[1, 0, 0, 1] / masses[1, 0, 0].sum())


def test_bounds_rise_between_neighbours():
    rising = next(chain for chain in small("iwae").chains if chain.title == "the bound rises with K")
    exact = [made.value for made in rising.lines if made.stderr == 0]
    assert all(low < high for low, high in pairwise(exact))


# --- on a pair that was trained


def with_guide(m, s):
    """The small pair as a run, with q(z | x) = N(m, s²)."""
    pair = SmallPair()
    with torch.no_grad():
        pair.m.fill_(m)
        pair.log_s.fill_(math.log(s))
    return Subject("ppca", "two numbers", "test", pair, pair.x, index=0)


@pytest.mark.parametrize(
    ("m", "s", "remark", "asymmetric"),
    [(0.3, 0.7, "", True), (0.0, 1.0, "both 0", False), (0.3, 1.0, "the same number here", False)],
)
def test_kl_is_called_asymmetric_only_where_it_is(m, s, remark, asymmetric):
    found = kl.trained(with_guide(m, s))
    assert found.holds, found.verdict
    assert remark in found.chains[0].remark
    assert bool(found.chains[0].remark) is not asymmetric
    assert any("not symmetric" in chain.title for chain in found.chains) is asymmetric


def test_the_third_term_s_bound_has_the_errors_of_its_two_parts():
    found = elbo.trained(with_guide(0.3, 0.7))
    assert found.holds, found.verdict
    best, bound = found.chains[1].lines[1:]
    from_below, zero = found.chains[2].lines
    check_equal(from_below.value, best.value - bound.value)
    check_equal(from_below.stderr, math.hypot(best.stderr, bound.stderr))
    assert (zero.relation, zero.value) == ("≥", 0)


def test_variances_on_a_run_are_told_and_not_ordered(monkeypatch):
    monkeypatch.setattr(reparameterization, "MOST_DRAWS", 200)
    found = reparameterization.trained(with_guide(0.3, 0.7))
    told = [chain for chain in found.chains if chain.title.startswith("the variance")]
    assert [len(chain.lines) for chain in told] == [1, 1]
    assert told[1].lines[0].value > told[0].lines[0].value
    assert found.closing == reparameterization.which_is_nearer(2.0)
    for ratio in (0.5, math.nan):
        assert "is nearer" not in reparameterization.which_is_nearer(ratio)
    assert "13.5 times" in reparameterization.how_much_larger(13.5)
    assert "but for rounding" in reparameterization.how_much_larger(1e33)


@pytest.mark.parametrize(
    ("tail", "says"),
    [(None, None), (-math.inf, "all alike"), (math.inf, "one weight outweighs"), (0.2, "light enough"), (0.9, "heavy")],
)
def test_the_tail_of_the_weights_is_told(tail, says):
    best = sampled(1.0, 0.1)
    best = replace(best, particles=1000, pareto_k=None if tail is None else torch.tensor([tail]))
    said = iwae.tail_in_words(best)
    assert says in said.lower() if says else said == ""


@pytest.mark.parametrize(("constant", "shrinkage"), [(False, 0.0), (True, 0.0), (False, 0.1), (True, 0.1)])
def test_lines_of_the_likelihood_that_are_missing_say_why(constant, shrinkage):
    training = torch.randn(50, 3, dtype=torch.float64)
    pair = MultivariateGaussian((3,), shrinkage=shrinkage).double().maximum_likelihood(training)
    x = training.clone()
    if constant:
        x[:, 1] = 0.5
    subject = Subject("gaussian", "points", "test", pair, x, training=training)
    first, *others = maximum_likelihood.trained(subject).chains
    assert ("singular" in first.remark) is constant
    assert ("shrunk, λ = 0.1" in first.remark) is bool(shrinkage)
    assert any("KL(" in made.formula for made in first.lines) is not constant
    assert bool(others) is not bool(shrinkage)
