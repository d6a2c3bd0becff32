"""Importance-weighted bounds against evidences that are known."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate, check_per_image, check_rises
from oracles import ExactLinearGaussian, LinearGaussian

from probgen.errors import UserError
from probgen.inference import elbo_terms, evidence, exact, iwae
from probgen.inference.evidence import log_weights
from probgen.inference.traces import trace_pair
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


@pytest.fixture
def binary_vae():
    """Four binary pixels, one latent; all 16 images, and their probabilities by quadrature.

    The guide's σ² is 1.5 for every image: below ½, ∫ p(z)² / q(z | x) dz diverges and the weights have no variance.
    """
    vae = VAE((1, 2, 2), 2, latent_dim=1, hidden=(8,), activation="tanh").double()
    with torch.no_grad():
        vae.decoder.layers[-1].weight.mul_(3)
        vae.decoder.layers[-1].bias.copy_(torch.tensor([-1.0, -0.3, 0.4, 1.2]))
        vae.encoder.layers[-1].weight.mul_(torch.tensor([[0.5], [0.0]]))
        vae.encoder.layers[-1].bias.copy_(torch.tensor([0.3, math.log(1.5) / 2]))
    x = oracles.all_images(2, (1, 2, 2))

    def logits(z):
        return oracles.array(vae.decoder(torch.tensor(z))).reshape(len(z), -1)

    probability = np.exp(oracles.bernoulli_evidence(x.flatten(1), logits, 1))
    assert probability.max() > 10 * probability.min()  # the images differ
    return vae, x, probability


def test_binary_vae_weights_average_to_the_enumerated_probability(binary_vae):
    vae, x, probability = binary_vae
    weights = log_weights(vae.model, vae.guide, x, 10_000).exp()
    check_equal(probability.sum(), 1.0)
    check_estimate(oracles.array(weights) / probability, np.ones(16), largest_error=0.04)


def test_weights_without_a_term_or_of_another_image_are_rejected(binary_vae):
    """The twins: log p(x | z) alone, a prior of the guide's width, each image's weights beside the next image."""
    vae, x, probability = binary_vae
    latent, observed = trace_pair(vae.model, vae.guide, x, 10_000)
    wider = latent.log_p - latent.value[..., 0] ** 2 * (1 / 1.5 - 1) / 2 - math.log(1.5) / 2
    right = observed.log_p + latent.log_p - latent.log_q
    for wrong in (observed.log_p, observed.log_p + wider - latent.log_q, right.roll(1, 1)):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_estimate(oracles.array(wrong.exp()) / probability, np.ones(16), largest_error=1.0)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_images_as_particles_leave_each_image_its_own_bound(pair, count):
    """In one plate inside the other, against single images many at a time, where no sizes coincide."""
    pair.broadcasts = True
    x = pair.data(count)
    together = [iwae(pair.model, pair.guide, x, count, diagnose=False).per_image for _ in range(250)]
    alone = independent_bounds(pair, x, count, 250)
    check_estimate(torch.stack(together) - alone, np.zeros(count), largest_error=0.3)


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


def test_a_point_as_guide_gives_no_bound(pair):
    """Its weights are all equal, so that no diagnostic would show that they are no importance weights."""

    def point(x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 2).double()).to_event(1))

    for estimate in (iwae, elbo_terms):
        with pytest.raises(UserError, match=r"'z' is a point \(Delta\)"):
            estimate(pair.model, point, pair.data(2), 30)
