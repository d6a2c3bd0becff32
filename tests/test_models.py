"""The models against their equations: Gaussian, probabilistic PCA, VAE, autoencoder."""

import math

import numpy as np
import oracles
import pyro
import pytest
import torch
from laws import check_equal, check_estimate, check_maximum, check_sampler
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


# --- the multivariate Gaussian


def gaussian_fitted(x, levels=None, **options):
    return MultivariateGaussian(x.shape[1:], levels, **options).double().maximum_likelihood(x)


def test_gaussian_closed_form_is_numpys_mean_and_covariance():
    x = correlated(50)
    model = gaussian_fitted(x)
    check_equal(model.mu, np.mean(x.numpy(), 0))
    check_equal(model.scale_tril @ model.scale_tril.T, np.cov(x.numpy().T, bias=True))


def test_gaussian_on_levels_moves_the_mean_by_half_and_adds_the_noise_variance():
    x = grey(50)
    model = gaussian_fitted(x, 17)
    check_equal(model.mu, np.mean(x.numpy(), 0) + 0.5)
    check_equal(model.scale_tril @ model.scale_tril.T, np.cov(x.numpy().T, bias=True) + np.eye(4) / 12)


def test_gaussian_log_prob_is_scipys():
    x = correlated(50)
    check_equal(gaussian_fitted(x).log_prob(x), oracles.gaussian_log_density(x, x.mean(0), np.cov(x.T, bias=True)))


def test_gaussian_on_levels_scores_the_mean_over_the_noise():
    x = grey(30, dim=2)
    model = gaussian_fitted(x, 17)
    covariance = np.cov(x.numpy().T, bias=True) + np.eye(2) / 12
    expected = [oracles.dequantized_multivariate_normal(row, x.numpy().mean(0) + 0.5, covariance) for row in x.numpy()]
    check_equal(model.log_prob(x), expected)


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_gaussian_closed_form_is_the_maximum(levels, covariance):
    x = grey(50)
    model = gaussian_fitted(x, levels, covariance=covariance)
    check_maximum(lambda: model.log_prob(x).mean().item(), list(model.parameters()))


def test_a_gaussian_off_its_maximum_is_found_out():
    x = correlated(50)
    model = gaussian_fitted(x)
    model.log_diagonal.data += 0.3
    with pytest.raises(AssertionError, match="raised the likelihood"):
        check_maximum(lambda: model.log_prob(x).mean().item(), list(model.parameters()))


def test_diagonal_gaussian_is_a_product_of_pixels():
    x = correlated(50)
    model = gaussian_fitted(x, covariance="diagonal")
    each = [oracles.gaussian_log_density(x[:, i], x[:, i].mean(), x[:, i].var(correction=0)) for i in range(3)]
    check_equal(model.log_prob(x), np.sum(each, 0))
    assert not any(name == "below_diagonal" for name, _ in model.named_parameters())


def test_svi_with_an_empty_guide_reaches_the_closed_form():
    x = correlated(100)
    closed, model = gaussian_fitted(x), MultivariateGaussian((3,)).double()
    fit(model, x, steps=150, batch_size=100, lr=0.15, schedule="cosine", progress=False)
    assert closed.log_prob(x).mean() - model.log_prob(x).mean() < 1e-2
    check_equal(model.mu, closed.mu, 0.02)
    check_equal(model.scale_tril @ model.scale_tril.T, closed.scale_tril @ closed.scale_tril.T, 0.05)


def test_svi_on_levels_reaches_the_closed_form():
    x = grey(100, dim=3)
    closed, model = gaussian_fitted(x, 17), MultivariateGaussian((3,), 17).double()
    fit(model, x, steps=150, batch_size=100, lr=0.15, schedule="cosine", progress=False)
    assert 0 <= closed.log_prob(x).mean() - model.log_prob(x).mean() < 1e-2


def test_log_likelihoods_of_independent_data_add():
    """The density of two images beside each other is the product of theirs when no covariance joins them."""
    x = correlated(60, dim=2)
    model = gaussian_fitted(x)
    pair = MultivariateGaussian((4,)).double()
    with torch.no_grad():
        pair.mu.copy_(model.mu.repeat(2))
        pair.log_diagonal.copy_(model.log_diagonal.repeat(2))
        pair.below_diagonal.copy_(torch.block_diag(model.below_diagonal, model.below_diagonal))
    check_equal(pair.log_prob(x.reshape(30, 4)), model.log_prob(x).reshape(30, 2).sum(1))
    trace = poutine.trace(model.model).get_trace(x)
    check_equal(trace.log_prob_sum(), model.log_prob(x).sum())


@pytest.mark.parametrize("x", [correlated(3, dim=5), correlated(50)[:, [0, 0, 1]], torch.ones(5, 2).double()])
def test_singular_covariance_is_refused_with_its_rank_and_mended_by_shrinkage(x):
    rank = np.linalg.matrix_rank(np.cov(x.numpy().T, bias=True), hermitian=True)
    with pytest.raises(UserError, match=rf"rank {rank}.*shrinkage") as error:
        gaussian_fitted(x)
    assert "\n" not in str(error.value)
    if rank:  # constant data have no spread at all to shrink towards
        assert torch.isfinite(gaussian_fitted(x, shrinkage=0.1).log_prob(x)).all()


def test_shrinkage_is_ledoit_and_wolfs():
    x = correlated(50)
    S = np.cov(x.numpy().T, bias=True)
    model = gaussian_fitted(x, shrinkage=0.3)
    check_equal(model.scale_tril @ model.scale_tril.T, 0.7 * S + 0.3 * np.trace(S) / 3 * np.eye(3))
    with pytest.raises(UserError, match="closed-form"):
        MultivariateGaussian((3,), shrinkage=0.3, estimator="svi")


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_gaussian_samples_have_its_mean_and_covariance(temperature):
    model = gaussian_fitted(correlated(50))
    draws = model.sample(20_000, temperature=temperature)
    mean, covariance = oracles.array(model.mu), oracles.array(model.scale_tril @ model.scale_tril.T)
    check_estimate(draws, mean, largest_error=0.03)
    centred = draws - model.mu.detach()
    check_estimate(centred[:, :, None] * centred[:, None, :], temperature**2 * covariance, largest_error=0.1)


def test_gaussian_samples_on_levels_fill_the_bins():
    model = gaussian_fitted(grey(50, dim=2), 17)
    draws = model.sample(10_000)
    scale = (model.scale_tril @ model.scale_tril.T).diag().sqrt()
    check_sampler(draws[:, 1], oracles.normal_masses(model.mu[1].item(), scale[1].item(), 17))


# --- probabilistic PCA


def ppca(dim=4, q=2, levels=None):
    model = ProbabilisticPCA((dim,), levels, latent_dim=q).double()
    with torch.no_grad():
        model.W.mul_(5)
        model.mu.add_(torch.randn(dim))
        model.log_sigma.sub_(0.3)
    return model, (model.W.detach(), model.mu.detach(), model.log_sigma.exp().item())


def test_ppca_evidence_and_posterior_are_the_oracles():
    model, known = ppca()
    x = correlated(20, dim=4)
    check_equal(model.log_prob(x), oracles.linear_gaussian_evidence(x, *known))
    mean, covariance = oracles.linear_gaussian_posterior(x, *known)
    check_equal(model.posterior(x).mean, mean)
    check_equal(model.posterior(x).covariance_matrix, np.broadcast_to(covariance, (20, 2, 2)))


def test_ppca_evidence_on_levels_is_the_mean_over_the_noise():
    model, (W, mu, sigma) = ppca(dim=2, q=1, levels=17)
    x = grey(10, dim=2)
    covariance = oracles.array(W @ W.T) + sigma**2 * np.eye(2)
    posterior_mean, _ = oracles.linear_gaussian_posterior(x + 0.5, W, mu, sigma)
    check_equal(model.posterior(x).mean, posterior_mean)
    # The noise is averaged given z, so that σ² alone, and not W Wᵀ + σ² I, divides its variance.
    expected = oracles.gaussian_log_density(x + 0.5, mu, covariance) - 2 / (24 * sigma**2)
    check_equal(model.log_prob(x), expected)
    quadrature = [oracles.dequantized_multivariate_normal(row, mu, covariance) for row in x]
    assert (oracles.array(model.log_prob(x)) < quadrature).all()  # and so the bound is the lower one


@pytest.mark.parametrize("levels", [None, 17])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_ppca_elbo_and_iwae_are_the_evidence_for_every_draw(levels, num_particles):
    model, _ = ppca(levels=levels)
    x = grey(20)
    sampled = elbo_terms(model.model, model.guide, x, num_particles, kl="sampled")
    check_equal(sampled.elbo, model.log_prob(x))
    check_equal(iwae(model.model, model.guide, x, num_particles).per_image, model.log_prob(x))


def test_with_another_guide_the_bound_varies():
    """The twin of the law above: exactness is a property of the posterior, not of the estimator."""
    model, _ = ppca()
    x = grey(20)
    prior = pyro.distributions.MultivariateNormal(torch.zeros(20, 2).double(), torch.eye(2).double())
    model.posterior = lambda x: prior
    with pytest.raises(AssertionError):
        check_equal(elbo_terms(model.model, model.guide, x, kl="sampled").elbo, model.log_prob(x))


def test_ppca_maximum_likelihood_is_tipping_and_bishops():
    x = correlated(60, dim=5)
    model = ProbabilisticPCA((5,), latent_dim=2).double().maximum_likelihood(x)
    mean, covariance = oracles.probabilistic_pca(x, 2)
    check_equal(model.mu, mean)
    check_equal(model.W @ model.W.T + (2 * model.log_sigma).exp() * torch.eye(5).double(), covariance)


@pytest.mark.parametrize("levels", [None, 17])
def test_no_step_away_from_ppcas_maximum_and_no_restart_is_better(levels):
    x = correlated(60, dim=4) if levels is None else grey(60)
    model = ProbabilisticPCA((4,), levels, latent_dim=2).double().maximum_likelihood(x)
    check_maximum(lambda: model.log_prob(x).mean().item(), list(model.parameters()), size=3e-2)
    top = model.log_prob(x).mean().item()
    restart = ProbabilisticPCA((4,), levels, latent_dim=2).double()
    fit(restart, x, steps=300, batch_size=60, lr=0.1, schedule="cosine", progress=False)
    assert top - 0.1 < restart.log_prob(x).mean() < top + 1e-9


def test_ppca_on_levels_gives_no_signal_below_the_noise():
    """Nearly constant pixels: the 1/12 of their bins outweighs their variance, and W must vanish there."""
    x = torch.zeros(40, 4).double()
    x[:, 0] = (torch.arange(40) % 10 == 0).double()  # variance 0.09, all others 0
    model = ProbabilisticPCA((4,), 17, latent_dim=2).double().maximum_likelihood(x)
    assert model.W[:, 1].abs().max() == 0
    check_maximum(lambda: model.log_prob(x).mean().item(), [model.mu, model.log_sigma, model.W], size=1e-2)


def test_ppca_refuses_what_it_cannot_fit():
    with pytest.raises(UserError, match="latent_dim=3 came"):
        ProbabilisticPCA((3,), latent_dim=3)
    flat = correlated(50, dim=2) @ torch.randn(2, 4).double()
    with pytest.raises(UserError, match="smaller latent_dim"):
        ProbabilisticPCA((4,), latent_dim=2).double().maximum_likelihood(flat)


def test_ppca_samples_have_its_covariance():
    model, (W, mu, sigma) = ppca(dim=3)
    draws = sample(model, 20_000, (3,))
    check_estimate(draws, mu, largest_error=0.03)
    centred = draws - mu
    covariance = oracles.array(W @ W.T) + sigma**2 * np.eye(3)
    check_estimate(centred[:, :, None] * centred[:, None, :], covariance, largest_error=0.1)


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
