"""Derivations: what a line claims is checked, each number is the right one, and a broken derivation is seen to be."""

import functools
import importlib
import math
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
from probgen.explanations.lines import Chain, Derivation, Line, added, compare, mean_of, minus
from probgen.explanations.small_pair import SmallPair
from probgen.explanations.topics import topic_named

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
    "maximum-likelihood": (maximum_likelihood, "log_likelihood", lambda real: lambda m, x: real(m, x) + 1e-6),
    "kl": (kl, "kl_divergence", lambda real: lambda p, q: real(q, p)),
    "chain-rule": (chain_rule, "factors", lambda real: lambda table, order: [1.1 * f for f in real(table, order)]),
    "elbo": (SmallPair, "log_prior", lambda real: lambda pair, z: real(pair, z) + 1e-6),
    "reparameterization": (reparameterization, "by_path", lambda real: lambda pair, p: real(pair, p) + 1e-6),
    "iwae": (iwae, "bound", lambda real: lambda pair, k: -k),
    "gan": (gan, "optimal_discriminator", lambda real: lambda p, q: real(p, q) / 2),
}
SAMPLED_BREAKS = {
    "kl": (kl, "mean_of", lambda real: lambda draws: real(draws + 0.1)),
    "chain-rule": (chain_rule, "entropy", lambda real: lambda density, n: added(real(density, n), 1.0)),
    "elbo": (elbo, "mean_of", lambda real: lambda draws: real(draws + 0.5)),
    "reparameterization": (reparameterization, "mean_of", lambda real: lambda draws: real(draws + 10)),
    "iwae": (iwae, "drawn_bound", lambda real: lambda pair, k, n: added(real(pair, k, n), 0.4)),
    "gan": (gan, "mean_of", lambda real: lambda draws: real(draws + 0.1)),
}


@pytest.mark.parametrize("breaks", [*BREAKS.items(), *SAMPLED_BREAKS.items()])
def test_a_derivation_with_one_wrong_expression_does_not_hold(breaks, monkeypatch):
    topic, (where, name, broken) = breaks
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    found = TOPICS[topic].module.small()
    assert not found.holds
    assert "NOT HOLD" in found.verdict


def test_a_network_that_sees_the_future_is_caught(monkeypatch):
    """Its factors are functions of pixels that they are to predict."""
    real = FactoredImage.numbers
    monkeypatch.setattr(FactoredImage, "numbers", lambda density, x, c=None: real(density, x, c) + x[:, None].flip(-1))
    monkeypatch.setattr(chain_rule.PixelCNN, "numbers", lambda model, x: model.distribution().numbers(x))
    assert not chain_rule.small().holds


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
    check_equal(the_number(found, "log p(x)"), evidence, 1e-6)  # σ = 0.8 went through float32
    check_equal(the_number(found, elbo.WHOLE), evidence, 1e-6)
    check_equal(the_number(found, elbo.BOUND), likelihood - to_prior, 1e-6)
    check_equal(the_number(found, "KL(q(z | x) ‖ p(z | x))"), to_posterior, 1e-6)


def test_its_bounds_are_those_of_quadrature(small_pair):
    pair, (x, W, mu, sigma), m, s = small_pair
    points, chances = np.polynomial.hermite_e.hermegauss(50)
    z = m + s * points
    weights = (
        stats.norm.logpdf(x, z[:, None] * W.T + mu, sigma).sum(1) + stats.norm.logpdf(z) - stats.norm.logpdf(z, m, s)
    )
    chances = chances / chances.sum()
    both = np.logaddexp(weights[:, None], weights[None]) - math.log(2)
    check_equal(iwae.bound(pair, 1), chances @ weights, 1e-6)
    check_equal(iwae.bound(pair, 2), chances @ both @ chances, 1e-6)
    check_equal(the_number(small("iwae"), "log p(x)"), linear_gaussian_evidence(x, W, mu, sigma)[0], 1e-6)


def test_the_gradient_is_that_of_the_oracle_s_elbo(small_pair):
    _, known, m, s = small_pair

    def bound(mean, log_s):
        likelihood, divergence = linear_gaussian_elbo(*known, [[mean]], [math.exp(log_s)])
        return float(likelihood[0] - divergence[0])

    h = 1e-5
    found = small("reparameterization")
    by_m = (bound(m + h, math.log(s)) - bound(m - h, math.log(s))) / (2 * h)
    by_s = (bound(m, math.log(s) + h) - bound(m, math.log(s) - h)) / (2 * h)
    check_equal(the_number(found, "∂/∂m ELBO"), by_m, 1e-6)
    check_equal(the_number(found, "∂/∂log s ELBO"), by_s, 1e-6)
    path, score = (the_number(found, f) for f in ("Var[∂/∂m f(m + s ε)]", "Var[f(z) · ∂/∂m log q(z | x)]"))
    curvature = 1 + float((array(known[1]) ** 2).sum()) / known[3] ** 2  # of log p(x, z); log q's path has none in m
    check_equal(path, (curvature * s) ** 2, 1e-6)
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
