"""Derivations: what a line claims is checked, each number is the right one, and a broken derivation is seen to be."""

import functools
import importlib
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from laws import check_equal
from oracles import (
    array,
    diagonal_gaussian_kl,
    linear_gaussian_elbo,
    linear_gaussian_evidence,
    linear_gaussian_posterior,
)
from scipy import integrate, special, stats

from probgen.distributions import FactoredImage
from probgen.errors import UserError
from probgen.explanations import TOPICS, chain_rule, elbo, gan, iwae, kl, maximum_likelihood, reparameterization
from probgen.explanations.gan_players import Game, log_sigmoid, written_out
from probgen.explanations.lines import Chain, Derivation, Line, added, compare, mean_of, minus
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.subject import Subject
from probgen.explanations.topics import topic_named
from probgen.inference.adversarial.losses import LOSSES, make_loss
from probgen.models.gaussian import MultivariateGaussian

each_topic = pytest.mark.parametrize("topic", TOPICS)


def sampled(value, stderr):
    return added(value, mean_of(torch.tensor([-stderr, stderr], dtype=torch.float64)))


def line(relation, number):
    return Line(relation, "", number, "")


# --- what holds


@pytest.mark.parametrize(
    ("before", "relation", "after", "holds"),
    [
        (1.0, "=", 1.0 + 1e-9, True),
        (1.0, "=", 1.0 + 1e-7, False),
        (1e6, "=", 1e6 + 1e-3, True),
        (1e6, "=", 1e6 + 1e-1, False),
        (0.0, "=", 1e-12, True),
        (1.0, "=", math.nan, False),
        (1.0, "≥", 0.5, True),
        (1.0, "≥", 1.0, True),
        (1.0, "≥", 1.001, False),
        (1.0, "≤", 2.0, True),
        (1.0, "≤", 0.999, False),
        (1.0, "≤", math.nan, False),
        (1.0, "≠", 1.1, True),
        (1.0, "≠", 1.0, False),
        (1.0, "=", math.inf, False),
        (1.0, "≥", math.inf, False),
        (1.0, "≤", -math.inf, False),
        (1.0, "≠", math.inf, False),
        (math.inf, "=", math.inf, False),
        (sampled(1.0, math.nan), "=", 1.0, False),
        (1.0, "≥", sampled(0.5, math.nan), False),
        (sampled(1.0, 0.1), "=", 1.4, True),
        (sampled(1.0, 0.1), "=", 1.6, False),
        (sampled(1.0, 0.3), "=", sampled(3.0, 0.4), True),
        (sampled(1.0, 0.3), "=", sampled(3.6, 0.4), False),
        (sampled(1.0, 0.1), "≥", 1.4, True),
        (sampled(1.0, 0.1), "≥", 1.6, False),
        (sampled(1.0, 0.1), "≠", 1.4, False),
        (sampled(1.0, 1e-14), "=", 1.0 + 1e-12, True),
        (None, "=", 1.0, None),
        (1.0, "≥", None, None),
    ],
)
def test_a_relation_holds_within_rounding_or_five_standard_errors(before, relation, after, holds):
    assert compare(line("", before), line(relation, after)).holds is holds


def test_differences_are_told_in_their_own_unit():
    exact = compare(line("", 2.0), line("=", 2.5))
    assert (exact.difference, exact.standard_errors) == (0.5, None)
    drawn = compare(line("", sampled(2.0, 0.3)), line("=", sampled(3.0, 0.4)))
    assert drawn.difference == pytest.approx(1.0)
    assert drawn.standard_errors == pytest.approx(2.0)


def test_sums_of_independent_numbers():
    total = added(1.0, sampled(2.0, 0.3), minus(sampled(5.0, 0.4)))
    assert total.value == pytest.approx(-2.0)
    assert total.stderr == pytest.approx(0.5)


def derivation(*numbers, relation="="):
    first, *rest = numbers
    return Derivation("kl", "", (Chain("", (line("", first), *(line(relation, n) for n in rest))),))


def test_the_verdict_counts_and_tells_the_largest_difference():
    found = derivation(1.0, 1.0, 1.0 + 2e-12, sampled(1.1, 0.1))
    assert found.holds
    assert found.verdict == (
        "3 equals signs; largest difference 2.0e-12 nats between exact lines, 1.0 standard errors between sampled ones"
    )
    assert derivation(1.0, 0.0, relation="≥").verdict == "1 inequality"
    assert derivation(1.0, None).verdict == "1 without a number on both sides"
    broken = derivation(1.0, 1.5, 1.5)
    assert not broken.holds
    assert broken.verdict.endswith("; 1 of these DOES NOT HOLD")
    assert derivation(1.0, 2.0, 3.0).verdict.endswith("; 2 of these DO NOT HOLD")
    assert [row["holds"] for row in broken.to_json()["chains"][0]["lines"]] == [None, False, True]


def test_topics_are_found_by_name():
    assert topic_named("elbo").module is elbo
    with pytest.raises(UserError, match="unknown topic 'elbow': did you mean 'elbo'"):
        topic_named("elbow")


# --- every derivation


@functools.cache
def small(topic):
    return TOPICS[topic].module.small()


@each_topic
def test_every_line_of_a_small_derivation_holds(topic):
    found = small(topic)
    assert found.topic == topic
    assert found.holds, found.verdict
    equal = [check for _, made, check in found.checked() if made.relation == "="]
    exact = [check for check in equal if check.standard_errors is None]
    assert len(exact) >= 4
    assert max(abs(check.difference) for check in exact) < 1e-12
    for chain in found.chains:
        assert chain.lines[0].relation == ""
        assert all(made.relation for made in chain.lines[1:])
        assert all(made.formula for made in chain.lines)


def resolves(name):
    """Whether a dotted name is something: a module's attribute, or a class's."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part, None)
        return thing is not None
    return False


@each_topic
def test_the_functions_that_lines_name_exist(topic):
    names = {made.by for chain in small(topic).chains for made in chain.lines if made.by}
    assert names
    assert {name for name in names if not resolves(name)} == set()


def test_a_function_that_does_not_exist_is_seen():
    assert resolves("probgen.inference.iwae")
    assert not resolves("probgen.inference.iwaes")
    assert not resolves("probgen.models.VAE.elbo")


def neighbours(found, formula):
    """The numbers of the lines with this formula."""
    return [made.value for chain in found.chains for made in chain.lines if made.formula == formula]


def the_number(found, formula):
    return neighbours(found, formula)[0]


BREAKS = {
    "maximum-likelihood": (
        "a product becomes a sum",
        maximum_likelihood,
        "log_likelihood",
        lambda real: lambda m, x: real(m, x) + 1e-6,
    ),
    "kl": ("what it is", kl, "kl_divergence", lambda real: lambda p, q: real(q, p)),
    "chain-rule": (
        "by a PixelCNN",
        chain_rule,
        "factors",
        lambda real: lambda table, order: [1.1 * f for f in real(table, order)],
    ),
    "elbo": (
        "from log p(x) to its three terms",
        SmallPair,
        "log_prior",
        lambda real: lambda pair, z: real(pair, z) + 1e-6,
    ),
    "reparameterization": (
        "in the mean of q",
        reparameterization,
        "by_path",
        lambda real: lambda pair, p: real(pair, p) + 1e-6,
    ),
    "iwae": ("with one weight it is the ELBO", iwae, "bound", lambda real: lambda pair, k: -k),
    "gan": (
        "the value against the best discriminator",
        gan,
        "optimal_discriminator",
        lambda real: lambda p, q: real(p, q) / 2,
    ),
}
SAMPLED_BREAKS = {
    "kl": ("two Gaussians", kl, "mean_of", lambda real: lambda draws: real(draws + 0.1)),
    "chain-rule": (
        "what is drawn is what is scored",
        chain_rule,
        "entropy",
        lambda real: lambda density, n: added(real(density, n), 1.0),
    ),
    "elbo": ("from log p(x) to its three terms", elbo, "mean_of", lambda real: lambda draws: real(draws + 0.5)),
    "reparameterization": (
        "the variance of one draw",
        reparameterization,
        "mean_of",
        lambda real: lambda draws: real(draws + 10),
    ),
    "iwae": (
        "the bound rises with K",
        iwae,
        "drawn_bound",
        lambda real: lambda pair, k, n: added(real(pair, k, n), 0.4),
    ),
    "gan": ("the value against the best discriminator", gan, "mean_of", lambda real: lambda draws: real(draws + 0.1)),
}


JOINT_BREAK = (
    "elbo",
    ("from log p(x) to its three terms", SmallPair, "log_joint", lambda real: lambda pair, z: real(pair, z) + 1e-6),
)
DIVERGENCE_BREAK = (
    "gan",
    ("the value against the best discriminator", gan, "jensen_shannon", lambda real: lambda *a: real(*a) + 1e-6),
)


def failing(found):
    """Title and formula of every line that does not hold."""
    return [(chain.title, made.formula) for chain, made, check in found.checked() if check.holds is False]


@pytest.mark.parametrize("breaks", [*BREAKS.items(), *SAMPLED_BREAKS.items(), JOINT_BREAK, DIVERGENCE_BREAK])
def test_a_derivation_with_one_wrong_expression_does_not_hold_where_it_is(breaks, monkeypatch):
    topic, (title, where, name, broken) = breaks
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    found = TOPICS[topic].module.small()
    assert any(chain.startswith(title) for chain, _ in failing(found)), failing(found)
    assert not found.holds
    assert "NOT HOLD" in found.verdict


@pytest.mark.parametrize("seen", [lambda x: x.flip(-1), lambda x: x], ids=["future", "itself"])
def test_a_network_that_sees_what_it_predicts_is_caught(seen, monkeypatch):
    """Its factors are functions of pixels that they are to predict."""
    real = FactoredImage.numbers
    monkeypatch.setattr(FactoredImage, "numbers", lambda density, x, c=None: real(density, x, c) + seen(x)[:, None])
    monkeypatch.setattr(chain_rule.PixelCNN, "numbers", lambda model, x: model.distribution().numbers(x))
    line_of_prefixes = ("by a PixelCNN", "the same, pixels from i on set to 0 for factor i")
    assert line_of_prefixes in failing(chain_rule.small())


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
