"""Importance-weighted bounds against evidences that are known."""

import numpy as np
import oracles
import pytest
import torch
from laws import check_equal, check_estimate, check_per_image, check_rises
from oracles import ExactLinearGaussian, LinearGaussian

from probgen.errors import UserError
from probgen.inference import elbo_terms, evidence, exact, iwae
from probgen.inference.evidence import log_weights
from probgen.models import VAE, MultivariateGaussian


def independent_bounds(pair, x, num_particles, repeats):
    """Draws of the bound of each image of x: repeats × images."""
    copies = x.repeat(repeats, *[1] * (x.dim() - 1))
    return iwae(pair.model, pair.guide, copies, num_particles).per_image.reshape(repeats, len(x))


@pytest.fixture
def pair():
    """A guide that is wrong, and wide enough for its weights to have a variance."""
    pair = LinearGaussian()
    pair.log_s.data += 0.2
    return pair


def test_bounds_rise_with_the_particles_and_stay_below_the_evidence(pair):
    x = pair.data(3)
    bounds = [independent_bounds(pair, x, k, 1000) for k in (1, 5, 50)]
    elbo = elbo_terms(pair.model, pair.guide, x.repeat(1000, 1)).elbo.reshape(1000, 3)
    check_rises(bounds, pair.evidence(x))
    log_likelihood, kl = pair.terms(x)
    for draws in (bounds[0], elbo):  # one particle: the ELBO
        check_estimate(draws, log_likelihood - kl, largest_error=0.5)


def test_the_bound_tends_to_the_evidence(pair):
    x = pair.data(3)
    check_estimate(independent_bounds(pair, x, 2000, 20), pair.evidence(x), largest_error=0.03, num_errors=6)


def test_bounds_in_the_wrong_order_or_above_the_evidence_are_rejected(pair):
    x = pair.data(3)
    low, high = (independent_bounds(pair, x, k, 300) for k in (1, 50))
    with pytest.raises(AssertionError, match="should rise"):
        check_rises([high, low], pair.evidence(x))
    with pytest.raises(AssertionError, match="lower bound of"):
        check_rises([low, high + 1], pair.evidence(x))


def test_weights_average_to_the_probability_itself(pair):
    """E_q[p(x, z) / q(z | x)] = p(x), without a bias for any number of particles."""
    x = pair.data(3)
    weights = log_weights(pair.model, pair.guide, x, 50_000).exp()
    relative = oracles.array(weights) / np.exp(pair.evidence(x))
    check_estimate(relative, np.ones(3), largest_error=0.03)


def test_weights_of_the_k_sample_estimate_average_to_the_probability(pair):
    x = pair.data(3)
    relative = (independent_bounds(pair, x, 10, 5000) - torch.tensor(pair.evidence(x))).exp()
    check_estimate(relative, np.ones(3), largest_error=0.03)


@pytest.mark.parametrize("num_particles", [1, 7])
@pytest.mark.parametrize("chunk", [1, 5, 14, 10**6])
def test_with_the_posterior_as_guide_it_is_exact_in_chunks_of_any_size(monkeypatch, chunk, num_particles):
    """Equal weights: a particle counted twice, lost, or divided by the wrong number shows at once."""
    monkeypatch.setattr(evidence, "CHUNK", chunk)
    pair = ExactLinearGaussian()
    x = pair.data(5)
    estimate = iwae(pair.model, pair.guide, x, num_particles)
    check_equal(estimate.per_image, pair.evidence(x))
    assert (estimate.kind, estimate.particles) == ("lower bound", num_particles)


def test_chunks_leave_the_distribution_of_the_estimate(monkeypatch, pair):
    """Four particles one at a time: a mean of the chunks' logarithms would be as low as the ELBO."""
    x = pair.data(1)
    whole, elbo = (oracles.array(independent_bounds(pair, x, k, 3000)) for k in (4, 1))
    monkeypatch.setattr(evidence, "CHUNK", 1)
    chunked = oracles.array(independent_bounds(pair, x, 4, 100))
    error = np.sqrt(whole.var() / 3000 + chunked.var() / 100)
    assert abs(whole.mean() - chunked.mean()) < 4.5 * error
    assert whole.mean() - elbo.mean() > 9 * error  # or the line above would say nothing


def test_the_batch_inside_one_weight_is_rejected(pair):
    """The twin: log-weights summed over the images before the mean over the particles."""
    x = pair.data(20)
    right = independent_bounds(pair, x, 500, 20).mean(1)
    weights = [log_weights(pair.model, pair.guide, x, 500).sum(1) for _ in range(20)]
    wrong = torch.stack([(w.logsumexp(0) - np.log(500)) / 20 for w in weights])
    truth = pair.evidence(x).mean()
    check_estimate(right, truth, largest_error=0.02, num_errors=6)
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(wrong, truth, largest_error=0.2, num_errors=6)


def test_each_image_has_a_bound_of_its_own():
    pair = ExactLinearGaussian()
    check_per_image(lambda x: iwae(pair.model, pair.guide, x, 3).per_image, pair.data(7))


def test_binary_vae_weights_average_to_the_enumerated_probability():
    vae = VAE((1, 2, 2), 2, latent_dim=1, hidden=(8,), activation="tanh").double()
    with torch.no_grad():  # a guide as wide as the prior: weights with a small variance
        vae.encoder.layers[-1].weight.mul_(0.1)
        vae.encoder.layers[-1].bias.copy_(torch.tensor([0.0, 0.1]))
    x = oracles.all_images(2, (1, 2, 2))

    def logits(z):
        return oracles.array(vae.decoder(torch.tensor(z))).reshape(len(z), -1)

    log_evidence = oracles.bernoulli_evidence(x.flatten(1), logits, 1)
    weights = log_weights(vae.model, vae.guide, x, 4000).exp()
    check_estimate(oracles.array(weights) / np.exp(log_evidence), np.ones(16), largest_error=0.03)


@pytest.mark.parametrize("num_particles", [2, 3, 4])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_any_number_of_particles_goes_with_any_number_of_images(num_particles, broadcasts):
    pair = ExactLinearGaussian()
    pair.broadcasts = broadcasts
    x = pair.data(3)
    check_equal(iwae(pair.model, pair.guide, x, num_particles).per_image, pair.evidence(x))


def test_no_particles_is_refused(pair):
    with pytest.raises(UserError, match="num_particles=0 came"):
        iwae(pair.model, pair.guide, pair.data(2), 0)


@pytest.mark.parametrize("chunk_size", [3, 1024])
def test_exact_is_the_models_own_log_prob(chunk_size):
    x = LinearGaussian().data(10)
    model = MultivariateGaussian((3,)).double().maximum_likelihood(x)
    estimate = exact(model.log_prob, x, chunk_size=chunk_size)
    expected = oracles.gaussian_log_density(x, x.mean(0), np.cov(x.T, bias=True))
    check_equal(estimate.per_image, expected)
    assert estimate.kind == "exact"
    assert estimate.value == pytest.approx(expected.mean())
    assert estimate.stderr == pytest.approx(expected.std(ddof=1) / 10**0.5)
