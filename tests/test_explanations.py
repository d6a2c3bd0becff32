"""Derivations: what a line claims is checked, each number is the right one, and a broken derivation is seen to be."""

import importlib

import pytest
from derivations import small

from probgen.distributions import FactoredImage
from probgen.explanations import TOPICS, chain_rule, elbo, gan, iwae, kl, maximum_likelihood, reparameterization
from probgen.explanations.lines import added
from probgen.explanations.small_pair import SmallPair

each_topic = pytest.mark.parametrize("topic", TOPICS)


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
