"""The variational autoencoder and the autoencoder."""

import math

import numpy as np
import oracles
import pyro
import pytest
import torch
from laws import check_equal, check_estimate, check_sampler
from pyro import poutine
from pyro.infer import Trace_ELBO

from probgen.errors import UserError
from probgen.inference import elbo_terms, fit, iwae
from probgen.inference.objective import step_objective
from probgen.inference.predict import reconstruct, sample
from probgen.models import VAE, Autoencoder, Kind, MultivariateGaussian, ProbabilisticPCA
from probgen.models.contracts import kind_of


def correlated(num, dim=3, seed=0):
    draw = np.random.default_rng(seed).normal
    return torch.tensor(draw(size=(num, dim)) @ draw(size=(dim, dim)) + draw(size=dim))


def grey(num, dim=4, levels=17, seed=0):
    reals = correlated(num, dim, seed) * 2 + levels / 2
    return reals.floor().clamp(0, levels - 1)


# --- the variational autoencoder


def small_vae(levels=2, shape=(1, 2, 2), **options):
    options = {"latent_dim": 2, "hidden": (8,), "activation": "tanh"} | options
    vae = VAE(shape, levels, **options).double()
    with torch.no_grad():  # away from the origin, where the two terms would hardly depend on z
        for parameter in vae.parameters():
            parameter.mul_(1.5)
    return vae


def binary(num, shape=(1, 2, 2)):
    return torch.randint(0, 2, (num, *shape)).double()


def test_vae_has_the_sites_of_its_equation():
    vae, x = small_vae(), binary(3)
    model, guide = poutine.trace(vae.model).get_trace(x), poutine.trace(vae.guide).get_trace(x)
    assert list(model.stochastic_nodes) == ["images", "z"]
    assert list(guide.stochastic_nodes) == ["images", "z"]
    assert model.observation_nodes == ["x"]
    assert (model.nodes["z"]["fn"].batch_shape, model.nodes["z"]["fn"].event_shape) == ((3,), (2,))
    assert (model.nodes["x"]["fn"].batch_shape, model.nodes["x"]["fn"].event_shape) == ((3,), (1, 2, 2))


def decoder_logits(vae):
    return lambda z: oracles.array(vae.decoder(torch.tensor(z))).reshape(len(z), -1)


def test_vae_evidence_by_quadrature_bounds_its_elbo_and_is_met_by_iwae():
    vae, x = small_vae(), oracles.all_images(2, (1, 2, 2))
    log_evidence = oracles.bernoulli_evidence(x.flatten(1), decoder_logits(vae), 2)
    check_equal(np.exp(log_evidence).sum(), 1.0)
    assert (oracles.array(elbo_terms(vae.model, vae.guide, x, 2000).elbo) < log_evidence).all()
    with torch.no_grad():
        vae.encoder.layers[-1].weight.mul_(0.1)  # a guide near the prior: weights without a heavy tail
    tight = np.stack([oracles.array(iwae(vae.model, vae.guide, x, 2000).per_image) for _ in range(10)])
    check_estimate(tight, log_evidence, largest_error=0.03, num_errors=6)


def test_vae_samples_have_the_probabilities_of_its_evidence():
    vae, images = small_vae(), oracles.all_images(2, (1, 2, 2))
    masses = np.exp(oracles.bernoulli_evidence(images.flatten(1), decoder_logits(vae), 2))
    drawn = sample(vae, 20_000, (1, 2, 2)).flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()
    check_sampler(drawn, masses)


@pytest.mark.parametrize("beta", [0.5, 4.0])
@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_beta_weighs_the_kl_and_nothing_else_in_training(beta, kl, num_particles):
    vae, x = small_vae(beta=beta, kl=kl, num_particles=num_particles), binary(5)
    vae.train()
    pyro.set_rng_seed(3)
    step = step_objective(vae)(x)
    pyro.set_rng_seed(3)
    terms = elbo_terms(vae.model, vae.guide, x, num_particles, kl=kl)  # in eval(): weight 1, the same draws
    check_equal(step.loss, -(terms.log_likelihood - beta * terms.kl).mean())
    check_equal(step.terms["elbo"], terms.elbo.mean())
    check_equal(step.terms["log_likelihood"], terms.log_likelihood.mean())
    check_equal(step.terms["kl"], terms.kl.mean())


def test_beta_on_one_program_only_is_another_objective():
    """The twin of the test above: the trap of scaling log p(z) but not log q(z | x)."""
    vae, x = small_vae(beta=4.0, kl="sampled"), binary(5)
    vae.guide = poutine.scale(scale=1 / 4.0)(vae.guide)
    pyro.set_rng_seed(3)
    loss = step_objective(vae)(x).loss
    pyro.set_rng_seed(3)
    terms = elbo_terms(vae.model, VAE.guide.__get__(vae), x, kl="sampled")
    with pytest.raises(AssertionError):
        check_equal(loss, -(terms.log_likelihood - 4 * terms.kl).mean())


def test_beta_is_one_in_evaluation():
    vae, x = small_vae(beta=4.0), binary(5)
    vae.eval()
    assert vae.kl_weight == 1.0
    pyro.set_rng_seed(3)
    weighted = elbo_terms(vae.model, vae.guide, x).elbo
    vae.beta = 1.0
    pyro.set_rng_seed(3)
    assert torch.equal(weighted, elbo_terms(vae.model, vae.guide, x).elbo)


def test_kl_warmup_rises_linearly_to_beta():
    vae = small_vae(beta=2.0, kl_warmup=4)
    vae.train()
    weights = []
    for vae.training_step in range(6):
        weights.append(vae.kl_weight)
    assert weights == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert small_vae(beta=2.0).kl_weight == 2.0


@pytest.mark.parametrize(
    ("levels", "name", "chosen"),
    [
        (2, None, "bernoulli"),
        (17, None, "discretized-logistic"),
        (None, None, "gaussian"),
        (17, "categorical", "categorical"),
        (2, "gaussian", "gaussian"),
    ],
)
def test_likelihood_is_the_datas_usual_one_or_the_one_named(levels, name, chosen):
    assert VAE((1, 2, 2), levels, likelihood=name).likelihood.name == chosen


@pytest.mark.parametrize(
    ("levels", "name", "message"),
    [
        (17, "bernoulli", "17 grey levels, of which it is no likelihood: binarize"),
        (None, "bernoulli", "real-valued"),
        (None, "categorical", "real-valued"),
        (None, "discretized-logistic", "real-valued"),
    ],
)
def test_what_would_be_no_likelihood_is_refused(levels, name, message):
    with pytest.raises(UserError, match=message):
        VAE((1, 2, 2), levels, likelihood=name)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize(
    ("levels", "likelihood"),
    [(2, "bernoulli"), (3, "categorical"), (3, "discretized-logistic"), (3, "gaussian"), (2, "gaussian")],
)
def test_each_likelihood_sums_to_one_over_all_images(network, levels, likelihood):
    """Σ_x p(x | z) = 1; the dequantized Gaussian, a lower bound, stays below."""
    vae = small_vae(levels, (1, 1, 2), likelihood=likelihood, network=network)
    images = oracles.all_images(levels, (1, 1, 2))
    for z in torch.randn(5, 2).double():
        total = vae.likelihood(vae.decoder(z)).log_prob(images).exp().sum()
        assert total < 1 if likelihood == "gaussian" else abs(total - 1) < 1e-9


def test_a_likelihood_with_the_axes_of_channels_and_width_swapped_does_not_sum_to_one():
    vae, images = small_vae(3, (1, 1, 3), likelihood="categorical"), oracles.all_images(3, (1, 1, 3))
    parameters = vae.decoder(torch.randn(2).double())
    unnormalized = parameters.movedim(-4, -1).log_softmax(-2)  # over the pixels, not the levels
    chosen = unnormalized.expand(27, 1, 1, 3, 3).gather(-1, images.long()[..., None])
    assert abs(chosen.sum((1, 2, 3, 4)).exp().sum() - 1) > 0.01
    assert abs(vae.likelihood(parameters).log_prob(images).exp().sum() - 1) < 1e-9


def test_gaussian_on_real_data_is_the_normal_of_the_decoder():
    vae, z, x = small_vae(None, (5,)), torch.randn(4, 2).double(), torch.randn(4, 5).double()
    loc, raw = vae.decoder(z).unbind(1)
    scale = np.log1p(np.exp(oracles.array(raw))) + 1e-3
    expected = [oracles.gaussian_log_density(x[i], loc[i].detach(), np.diag(scale[i] ** 2))[0] for i in range(4)]
    check_equal(vae.likelihood(vae.decoder(z)).log_prob(x), expected)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized-logistic"])
def test_a_decoder_of_minus_one_to_one_spans_the_levels(likelihood):
    """The mean of p(x | z) is level 0 at −1 and the highest at 1."""
    vae = small_vae(17, (1, 1, 2), likelihood=likelihood)
    parameters = torch.tensor([[[[-1.0, 1.0]]], [[[0.0, 0.0]]]]).double()
    check_equal(vae.likelihood(parameters).mean, [[[0.0, 16.0]]])


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_particles_in_a_plate_are_distributed_as_in_a_repeated_batch(kl):
    vae, x = small_vae(), binary(5).repeat(400, 1, 1, 1)
    both = []
    for vae.broadcasts in (True, False):
        terms = elbo_terms(vae.model, vae.guide, x, 3, kl=kl)
        numbers = np.stack([terms.log_likelihood, terms.kl, terms.latent[0].log_prior])
        both.append(numbers.reshape(3, 400, 5))
    plate, repeated = both
    errors = np.sqrt((plate.var(1) + repeated.var(1)) / 400)
    assert (np.abs(plate.mean(1) - repeated.mean(1)) < 4.5 * errors + 1e-9).all()
    np.testing.assert_allclose(plate.std(1), repeated.std(1), rtol=0.25, atol=1e-9)


def test_one_particle_is_the_same_number_on_both_paths():
    vae, x = small_vae(), binary(5)
    numbers = []
    for vae.broadcasts in (True, False):
        pyro.set_rng_seed(1)
        numbers.append(elbo_terms(vae.model, vae.guide, x).elbo)
    assert torch.equal(*numbers)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_particles_as_many_as_images(network):
    """k = b: the two plates have one size and must not be mistaken for each other."""
    vae, x = small_vae(network=network), binary(3)
    log_evidence = oracles.bernoulli_evidence(x.flatten(1), decoder_logits(vae), 2)
    terms = [elbo_terms(vae.model, vae.guide, x, 3) for _ in range(60)]
    means = np.mean([oracles.array(t.elbo) for t in terms], 0)
    many = oracles.array(elbo_terms(vae.model, vae.guide, x, 300).elbo)
    errors = np.std([oracles.array(t.elbo) for t in terms], 0) / 60**0.5
    assert (np.abs(means - many) < 6 * errors + 1e-9).all()
    assert iwae(vae.model, vae.guide, x, 3).per_image.shape == log_evidence.shape


def test_conv_needs_images():
    with pytest.raises(UserError, match="set network=mlp"):
        VAE((6,), network="conv")


# --- the autoencoder


@pytest.mark.parametrize("levels", [2, 17, None])
def test_autoencoders_loss_is_the_squared_error(levels):
    shape = (1, 3, 3)
    ae = Autoencoder(shape, levels, latent_dim=2, hidden=(8,)).double()
    x = torch.randn(5, *shape).double() if levels is None else torch.randint(0, levels, (5, *shape)).double()
    scaled = x if levels is None else 2 * x / (levels - 1) - 1
    expected = ((scaled - ae.decoder(ae.encoder(scaled))[:, 0]) ** 2).sum((1, 2, 3)).mean()
    check_equal(step_objective(ae)(x).loss, expected.detach())
    check_equal(Trace_ELBO().loss(ae.model, ae.guide, x) / 5, expected.detach())


def test_autoencoder_has_no_bound_and_no_samples():
    ae, x = Autoencoder((1, 3, 3), 2, latent_dim=2, hidden=(8,)), binary(5, (1, 3, 3))
    assert kind_of(ae) is Kind.NONE
    for number in (elbo_terms, iwae):
        with pytest.raises(UserError, match=r"'z' has an improper prior"):
            number(ae.model, ae.guide, x)
    with pytest.raises(UserError, match="no prior"):
        sample(ae, 3, (1, 3, 3))


def test_autoencoder_reconstructs_in_grey_levels():
    ae, x = Autoencoder((1, 3, 3), 17, latent_dim=2, hidden=(8,)).double(), torch.randint(0, 17, (5, 1, 3, 3)).double()
    decoded = ae.decoder(ae.encoder(x / 8 - 1))[:, 0].clamp(-1, 1)
    check_equal(reconstruct(ae, x), ((decoded + 1) * 8).detach())


def test_autoencoder_learns_to_copy():
    x = torch.randint(0, 2, (20, 1, 2, 2)).double()
    ae = Autoencoder((1, 2, 2), 2, latent_dim=4, hidden=(32,)).double()
    history = fit(ae, x, steps=300, lr=1e-2, progress=False)
    assert history[-1]["loss"] < 0.02 < 1 < history[0]["loss"]
    assert torch.equal(reconstruct(ae, x).round(), x)
    assert math.isclose(history[-1]["loss"], -history[-1]["log_likelihood"], rel_tol=1e-6)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (MultivariateGaussian((3,)), Kind.TRACTABLE),
        (ProbabilisticPCA((3,)), Kind.TRACTABLE),
        (VAE((3,)), Kind.LATENT),
        (Autoencoder((3,)), Kind.NONE),
        (oracles.LinearGaussian(), Kind.LATENT),
    ],
)
def test_kinds_are_those_of_the_taxonomy(model, kind):
    assert kind_of(model) is kind
