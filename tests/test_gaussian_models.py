"""The multivariate Gaussian and probabilistic PCA, whose answers are known."""

import numpy as np
import oracles
import pyro
import pytest
import torch
from laws import check_equal, check_estimate, check_maximum, check_sampler
from pyro import poutine

from probgen.errors import UserError
from probgen.inference import elbo_terms, fit, iwae
from probgen.inference.predict import sample
from probgen.models import MultivariateGaussian, ProbabilisticPCA


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
