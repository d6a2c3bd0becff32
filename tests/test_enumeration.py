"""Discrete latents that are summed over: against sums written out, against Pyro's, and refused where they go wrong."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import EXACT, PARALLEL, SAMPLED, STD, Guided, Mixture, Pixels, Prior, log_softmax, normal
from laws import check_equal, check_estimate, check_per_image
from oracles import array
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scipy import special

from probgen.inference import ais, elbo_terms, enumeration, equation, fit, iwae
from probgen.inference.checks import sites_of
from probgen.inference.objective import step_objective
from probgen.inference.terms_view import rows
from probgen.inference.traces import score, trace_pair
from probgen.models.contracts import Objective

X = torch.tensor(np.random.default_rng(5).normal(size=(6, 2)))


def terms_of(pair, x=X, num_particles=1, **options):
    return elbo_terms(pair.model, pair.guide, x, num_particles, **options)


# --- exact sums


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("num_particles", "chunk_size"), [(1, 1024), (3, 6)])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_with_nothing_left_to_draw_the_elbo_is_the_evidence(name, num_particles, chunk_size, broadcasts):
    pair = EXACT[name]
    pair.broadcasts = broadcasts and "pixels" not in name
    terms = terms_of(pair, num_particles=num_particles, chunk_size=chunk_size)
    check_equal(terms.elbo, pair.evidence(X))
    check_equal(iwae(pair.model, pair.guide, X, num_particles).per_image, pair.evidence(X))
    assert terms.estimate.kind == "exact"
    assert not terms.stderr.any()
    check_per_image(lambda x: terms_of(pair, x, num_particles).elbo, X)


@pytest.mark.parametrize("name", ["mixture", "image over pixels"])
def test_a_sum_over_images_before_the_logarithm_is_rejected(name):
    """The twin: log Σ_c p(c) Π_b p(x_b | c), one class for the whole batch, spread over its images."""
    pair = EXACT[name]
    own = name == "mixture"

    def pooled(x):
        means = pair.mu if own else pair.b[:, None]
        log_p = log_softmax(pair.logits) + normal(array(x)[:, None], means).sum((0, 2))
        return torch.full((len(x),), float(special.logsumexp(log_p)) / len(x))

    with pytest.raises(AssertionError):
        check_equal(pooled(X), pair.evidence(X))
    with pytest.raises(AssertionError):
        check_per_image(pooled, X)


def test_one_class_is_no_sum():
    def model(x):
        with pyro.plate("images", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(1).double()), infer=PARALLEL)
            pyro.sample("x", dist.Normal(0.0 * c[..., None], 1.0).to_event(1), obs=x)

    check_equal(elbo_terms(model, lambda x: None, X).elbo, normal(X, 0, 1).sum(-1))


def test_sites_under_one_sum_are_one_term_and_the_others_stay():
    terms = terms_of(EXACT["chain"])
    named = {term.name: term.summed_out for term in terms.observed}
    assert named == {"x_2, x_1": ("c_1", "c_2", "c_3"), "y": ()}
    check_equal(terms.observed[1].log_likelihood, normal(X[:, 0], 0))
    assert [row.term for row in rows(terms.to_json())] == [
        "log p(x_2, x_1), c_1, c_2, c_3 summed out", "log p(y)", "log p(x)"
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_sites_that_disagree_by_many_nats_leave_a_finite_sum(dtype):
    """log (½ e^−g + ½ e^−g) = −g; Pyro's own sums, the twin, are −∞ for g = 1,000, in some orders of the sites."""
    far = torch.tensor([0.0, 2000.0**0.5], dtype=dtype)

    def model(x):
        with pyro.plate("images", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5, dtype=dtype)), infer=PARALLEL).long()
            for name, mean in (("w", far[c] * 0), ("x", far[c]), ("y", far[1 - c])):
                pyro.sample(name, dist.Normal(mean, 1.0), obs=x[:, 0])

    x = torch.zeros(2, 1, dtype=dtype)
    expected = [-1000 - 1.5 * math.log(2 * math.pi)] * 2
    check_equal(elbo_terms(model, lambda x: None, x).elbo, expected, 1e-6)
    with pytest.raises(AssertionError, match="inf"):
        check_equal(-TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: None, x), sum(expected), 1e-6)


# --- sums beside draws


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_a_sum_in_the_model_is_exact_for_every_draw(num_particles, broadcasts, seen):
    pair = Prior(seen)
    pair.broadcasts = broadcasts
    terms = terms_of(pair, num_particles=num_particles, chunk_size=8, keep_draws=True)
    draws = terms.draws
    log_prior, log_joint = pair.joint(X, array(draws.values["z"]))
    check_equal(draws.log_prior["z"], log_prior)
    check_equal(draws.log_likelihood["x, y"], log_joint - log_prior)
    (z,) = terms.latent
    assert (z.method, z.summed_out, terms.observed[0].summed_out) == ("sampled", ("c",), ("c",))
    assert ("    E_q[log p(z | …)], c summed out") in [row.term for row in rows(terms.to_json())]
    check_equal(sum(score(pair.model, X, {"z": draws.values["z"][0]}).values()).detach(), log_joint[0])


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_under_the_posterior_a_sum_in_the_guide_gives_the_evidence_for_every_draw(num_particles, broadcasts):
    pair = Guided(right=True)
    pair.broadcasts = broadcasts
    terms = terms_of(pair, num_particles=num_particles, kl="sampled", keep_draws=True)
    check_equal(terms.elbo, pair.evidence(X))
    check_per_image(lambda x: terms_of(pair, x, num_particles, kl="sampled").elbo, X)
    check_equal(iwae(pair.model, pair.guide, X, num_particles).per_image, pair.evidence(X))  # there c is drawn
    c, z = terms.latent
    assert (c.method, c.gradient, z.method, z.gradient) == ("enumerated", "exact", "sampled", "reparameterized")
    assert not terms.draws.values
    assert terms.to_arviz()["log_likelihood"]["x"].shape == (1, num_particles, 6)


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_a_wrong_guide_has_the_bound_of_its_closed_form(kl):
    pair = SAMPLED["guided"]
    terms = terms_of(pair, X.repeat(3000, 1), kl=kl)
    check_estimate(terms.elbo.reshape(3000, 6), pair.elbo(X), largest_error=0.05)
    if kl == "closed-form":
        z = terms.latent[1]
        check_equal(z.kl_per_dim.sum(1), z.kl)
        mean = (X[:, None] + pair.nu) / 2 + 0.2
        check_equal(z.guide_mean[:6], ((X @ pair.A).softmax(-1)[..., None] * mean).sum(1).detach())


def test_values_that_are_not_weighted_are_rejected():
    """The twin: every class counts a third."""
    pair = SAMPLED["guided"]
    terms = terms_of(pair, X.repeat(3000, 1))
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(terms.elbo.reshape(3000, 6), pair.elbo(X, weighted=False), largest_error=0.05)


@pytest.mark.parametrize("name", [*EXACT, *SAMPLED])
@pytest.mark.parametrize("kept", [True, False])
def test_the_terms_add_up_to_pyros_own_bound_draw_for_draw(name, kept):
    """Pyro guesses the plates by a pass of its own, as ours begins with one where the guide is summed over."""
    pair = (EXACT | SAMPLED)[name]
    guided = name in ("guided", "both", "pixels in the guide")
    plates = math.inf if guided else 2 if "pixels" in name else 1
    pyro.set_rng_seed(3)
    terms = terms_of(pair, kl="sampled", keep_draws=kept)
    pyro.set_rng_seed(3)
    check_equal(terms.elbo.sum(), -TraceEnum_ELBO(max_plate_nesting=plates).loss(pair.model, pair.guide, X))
    kl = sum(term.kl for term in terms.latent)
    check_equal(terms.elbo, sum(t.log_likelihood for t in terms.observed) - kl)


def test_vectors_in_another_plate_have_a_kl_of_each_dimension_and_no_one_mean():
    def program(shift, obs):
        def run(x):
            with pyro.plate("images", len(x), dim=-2):
                c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3).double()), infer=PARALLEL)
                with pyro.plate("parts", 3, dim=-1):
                    z = pyro.sample("z", dist.Normal(c[..., None] + torch.tensor([0, shift]), 1.0).to_event(1))
                    if obs:
                        pyro.sample("x", dist.Normal(z, STD).to_event(1), obs=x[:, None].expand(-1, 3, 2))

        return run

    _, z = elbo_terms(program(0.0, True), program(0.5, False), X).latent
    check_equal(z.kl_per_dim, [[0, 3 * 0.5**2 / 2]] * 6)
    assert z.guide_mean is None


def test_masked_images_count_nothing_and_the_others_as_before():
    mask = torch.tensor([True, False, True, True, False, True])
    for pair in (*EXACT.values(), SAMPLED["guided"]):
        wide = mask[:, None] if isinstance(pair, Pixels) else mask

        def masked(program, wide=wide):
            return poutine.mask(program, mask=wide)

        pyro.set_rng_seed(1)
        whole = terms_of(pair, kl="sampled")
        pyro.set_rng_seed(1)
        part = elbo_terms(masked(pair.model), masked(pair.guide), X, kl="sampled")
        check_equal(part.elbo, whole.elbo * mask)


def test_a_pair_without_marks_takes_the_old_path(monkeypatch):
    def called(*args, **options):
        raise AssertionError("enumerated")

    pair = Guided()
    pair.guide = lambda x: poutine.infer_config(Guided.guide, lambda site: {"enumerate": None})(pair, x)
    monkeypatch.setattr(enumeration, "enumerated_sites", called)
    assert {term.method for term in terms_of(pair, kl="sampled").latent} == {"sampled"}
    step_objective(pair)(X)
    iwae(SAMPLED["guided"].model, SAMPLED["guided"].guide, X, 2)
    with pytest.raises(AssertionError, match="enumerated"):
        terms_of(SAMPLED["guided"])


@pytest.mark.parametrize("guide", [None, Prior().guide])
def test_annealing_moves_z_with_c_summed_out(guide):
    pair = SAMPLED["guided"]
    model = poutine.infer_config(pair.model, lambda site: PARALLEL if site["name"] == "c" else {})
    bound = ais(model, X[:2], guide=guide, num_chains=200, num_distributions=6, num_leapfrog=3).estimate
    check_equal(bound.per_image, pair.evidence(X[:2]), 0.1)


# --- training


def gradients(pair, loss):
    pair.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [*EXACT, *SAMPLED])
def test_loss_and_gradient_are_pyros_draw_for_draw(name):
    """`both` draws a Bernoulli as well, whose gradient is the score function's."""
    pair = (EXACT | SAMPLED)[name]
    plates = math.inf if name in ("guided", "both", "pixels in the guide") else 2 if "pixels" in name else 1
    pyro.set_rng_seed(3)
    step = step_objective(pair)(X)
    ours = gradients(pair, step.loss)
    pyro.set_rng_seed(3)
    reference = TraceEnum_ELBO(max_plate_nesting=plates).differentiable_loss(pair.model, pair.guide, X) / len(X)
    check_equal(step.loss.detach(), reference.detach())
    check_equal(step.terms["elbo"], -step.loss.detach())
    for key, expected in gradients(pair, reference).items():
        check_equal(ours[key], expected)


def test_the_gradient_without_the_score_function_is_another():
    pair = SAMPLED["both"]
    pyro.set_rng_seed(3)
    whole = gradients(pair, step_objective(pair)(X).loss)
    pyro.set_rng_seed(3)
    sites = enumeration_sites(pair)
    part = gradients(pair, -torch.stack([s.log_p - (0 if s.log_q is None else s.log_q) for s in sites]).sum(0).mean())
    with pytest.raises(AssertionError):
        check_equal(part["b"], whole["b"])


def enumeration_sites(pair):
    """A pass whose draws are constants."""
    return trace_pair(pair.model, pair.guide, X, enumerate_guide=True)


def test_a_mixture_is_fitted_and_its_iwae_objective_is_the_evidence():
    pair, x = Mixture(seed=1), torch.cat([X + 4, X - 4])
    pair.objective = Objective("iwae", "sampled", 3)
    check_equal(step_objective(pair)(x).loss.detach(), -pair.evidence(x).mean())
    del pair.objective
    before = pair.evidence(x).mean()
    history = fit(pair, x, steps=100, lr=0.1, progress=False)
    assert pair.evidence(x).mean() > before + 3
    assert history[-1]["kl"] == 0


# --- how it reads


def test_the_equation_says_what_is_summed():
    def lines(pair):
        return str(equation(pair.model, pair.guide, X)).splitlines()

    assert lines(EXACT["mixture"]) == ["p(x) = Σ_c p(c) · p(x | c)", "log p(x) = log Σ_c p(c) · p(x | c)"]
    assert lines(EXACT["chain"])[1] == (
        "log p(x_2, y, x_1) = log Σ_{c_1,c_2,c_3} p(c_1) · p(c_2 | c_1) · p(x_2 | c_2) · p(c_3 | c_2) "
        "· p(x_1 | c_1, c_3) + log p(y)"
    )
    assert lines(SAMPLED["prior"])[-1] == (
        "log p(x, y) = E_q[log p(x, y | z)] − KL(q(z | x, y) ‖ p(z)) + KL(q(z | x, y) ‖ p(z | x, y))"
    )
    assert lines(SAMPLED["guided"])[1] == "q(c, z | x) = q(c | x) · q(z | c, x)"
    assert r"\sum_{c} p(c)" in equation(EXACT["mixture"].model, EXACT["mixture"].guide, X).latex
    assert sites_of(SAMPLED["prior"], X) == {"c": "summed out", "z": "latent", "x": "observed", "y": "observed"}
