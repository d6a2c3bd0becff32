"""A VAE whose likelihood is a PixelCNN: p(x | z) exact, p(x) bounded, and the code inside the pictures."""

import itertools

import numpy as np
import pytest
import torch
from laws import check_chain_rule, check_equal, check_estimate, check_mass_is_one, check_sampler
from oracles import all_images, array
from scipy import special, stats

from probgen.errors import UserError
from probgen.inference import elbo_terms, fit, iwae
from probgen.inference.evidence import log_weights
from probgen.inference.objective import step_objective
from probgen.inference.predict import decode, reconstruct, sample, sample_means
from probgen.inference.traces import trace_pair
from probgen.models import VAE
from probgen.models.pixel_likelihood import PixelCNNLikelihood

SHAPE = (1, 2, 2)
SIZE = {"likelihood": "pixelcnn", "pixelcnn_features": 4, "pixelcnn_blocks": 1}
IMAGES = all_images(2, SHAPE)


def strengthen(module):
    """Parameters so large that pixels depend on z and on each other; the encoder is left as it is."""
    for name, parameter in module.named_parameters():
        if not name.startswith("encoder"):
            parameter.data = torch.randn_like(parameter) if parameter.dim() == 1 else 2.5 * parameter.data
    return module.double().eval()


def tiny(shape=SHAPE, levels=2, **options):
    """A VAE with one latent number, and a guide near the prior: a narrow one would miss much of p(z | x)."""
    pair = strengthen(VAE(shape, levels, latent_dim=1, **{"hidden": (8,)} | SIZE | options))
    pair.encoder.layers[-1].weight.data *= 0.1
    return pair


def likelihood_at(pair, z):
    """p(x | z) of every image (columns) at some z (rows), by the decoder's distribution alone."""
    distribution = pair.likelihood(pair.decoder(torch.as_tensor(z, dtype=torch.float64).reshape(-1, 1, 1)))
    return array(distribution.log_prob(IMAGES))


def evidence(pair):
    """log ∫ N(z; 0, 1) p(x | z) dz of every image, by the trapezoidal rule."""
    z = np.linspace(-8, 8, 2001)
    return special.logsumexp(likelihood_at(pair, z) + stats.norm.logpdf(z)[:, None], axis=0) + np.log(z[1] - z[0])


# --- p(x | z)


@pytest.mark.parametrize(("levels", "shape"), [(2, (1, 2, 2)), (3, (1, 2, 2)), (2, (2, 1, 2))], ids=str)
def test_given_a_code_the_masses_of_all_images_sum_to_one(levels, shape):
    likelihood = strengthen(PixelCNNLikelihood(shape, levels, features=4, blocks=1))
    distribution = likelihood(torch.randn(3, likelihood.channels, *shape, dtype=torch.float64))
    assert (distribution.batch_shape, distribution.event_shape) == ((3,), shape)
    check_mass_is_one(distribution)
    check_chain_rule(likelihood(torch.randn(likelihood.channels, *shape, dtype=torch.float64)))
    masses = distribution.log_prob(all_images(levels, shape)[:, None]).exp()
    assert (masses[:, 0] - masses[:, 1]).abs().max() > 0.01  # the code matters


def test_the_decoder_starts_without_a_say_and_learns():
    images = torch.randint(2, (40, *SHAPE))
    for network in ("mlp", "conv"):
        pair = VAE(SHAPE, 2, latent_dim=1, network=network, hidden=(4,), **SIZE)
        pair.initialize(images)
        assert not pair.decoder.output_bias.any()
        history = fit(pair, images, steps=30, lr=0.02, progress=False)
        assert history[-1]["elbo"] > history[0]["elbo"]


# --- the bounds


def test_particles_and_images_are_paired_as_by_one_pass_for_each():
    pair = tiny()
    sites = {site.name: site for site in trace_pair(pair.model, pair.guide, IMAGES[:5], 3)}
    assert sites["x"].log_p.shape == sites["z"].log_q.shape == (3, 5)
    for k, b in itertools.product(range(3), range(5)):
        alone = pair.likelihood(pair.decoder(sites["z"].drawn[k, b]))
        check_equal(sites["x"].log_p[k, b], alone.log_prob(IMAGES[b]))


def test_particles_in_one_pass_give_what_repeated_images_give():
    pair = tiny()
    drawn = []
    for broadcasts in (True, False):
        pair.broadcasts = broadcasts
        drawn.append(torch.stack([log_weights(pair.model, pair.guide, IMAGES, 50).exp() for _ in range(40)]))
    difference = (drawn[0] - drawn[1]).mean(1)
    check_estimate(difference, np.zeros(16), largest_error=0.01)


def test_importance_weights_average_to_the_evidence_of_quadrature():
    pair = tiny()
    exact = evidence(pair)
    assert np.exp(exact).sum() == pytest.approx(1)
    weights = log_weights(pair.model, pair.guide, IMAGES, 4000).exp().detach()
    check_estimate(weights, np.exp(exact), largest_error=0.01)
    with pytest.raises(AssertionError):  # the same weights for the images in another order
        check_estimate(weights.flip(1), np.exp(exact), largest_error=0.01)


def test_elbo_below_iwae_below_the_evidence():
    pair = tiny()
    exact = evidence(pair).mean()
    elbo = elbo_terms(pair.model, pair.guide, IMAGES, 500).estimate
    bounds = {k: iwae(pair.model, pair.guide, IMAGES, k, diagnose=False).value for k in (50, 3000)}
    assert elbo.kind == "lower bound"
    assert elbo.value < bounds[50] - 0.01
    assert bounds[3000] == pytest.approx(exact, abs=0.02)
    assert elbo.value < exact - 0.02


def test_the_terms_are_those_of_the_programs():
    pair = tiny()
    terms = elbo_terms(pair.model, pair.guide, IMAGES, 2000)
    z = pair.posterior(IMAGES).sample((2000,))
    log_likelihood = pair.likelihood(pair.decoder(z)).log_prob(IMAGES).detach()
    check_estimate(log_likelihood, array(terms.log_likelihood), largest_error=0.05, num_errors=6.5)  # both are noisy
    mu, sigma = pair.posterior(IMAGES).mean, pair.posterior(IMAGES).stddev
    check_equal(terms.kl, 0.5 * (sigma**2 + mu**2 - 1 - 2 * sigma.log()).sum(-1))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("objective", [{}, {"objective": "iwae", "num_particles": 3}, {"num_particles": 3}], ids=str)
def test_gradients_reach_every_part(network, objective):
    pair = VAE(SHAPE, 2, latent_dim=2, network=network, hidden=(8,), **SIZE, **objective)
    step_objective(pair)(torch.randint(2, (20, *SHAPE)).float()).loss.backward()
    for part in (pair.encoder, pair.decoder, pair.likelihood):
        assert all(parameter.grad is not None for parameter in part.parameters())
        assert sum(float(parameter.grad.abs().sum()) for parameter in part.parameters()) > 1e-4


# --- pictures


def test_samples_fit_the_evidence():
    pair = tiny()
    drawn = sample(pair, 3000, SHAPE).flatten(1).long() @ torch.tensor([8, 4, 2, 1])
    check_sampler(drawn, np.exp(evidence(pair)))


def test_a_mean_is_the_average_of_draws():
    pair = tiny()
    codes = torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    expected = np.exp(likelihood_at(pair, codes)) @ array(IMAGES.flatten(1))
    means = torch.stack([decode(pair, {"z": codes}, 2, SHAPE) for _ in range(100)])
    check_estimate(means.flatten(2), expected, largest_error=0.02)
    assert means.var(0).max() < 0.25 / 12  # of 16 draws, not of one


def test_a_reconstruction_is_the_mean_at_the_code_and_means_come_from_the_prior():
    pair = tiny(levels=3)
    x = all_images(3, SHAPE)[:7]
    for images in (reconstruct(pair, x), sample_means(pair, 7, SHAPE)):
        assert images.shape == (7, *SHAPE)
        assert (images >= 0).all()
        assert (images <= 2).all()
        assert (images != images.round()).any()


# --- refused


def test_points_are_refused():
    with pytest.raises(UserError, match=r"likelihood=pixelcnn came with data of shape \(2,\)"):
        VAE((2,), None, **SIZE)


def test_real_images_are_refused():
    with pytest.raises(UserError, match="real-valued data came"):
        VAE(SHAPE, None, **SIZE)
