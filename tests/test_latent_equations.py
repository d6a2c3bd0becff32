"""Equations of the latent-variable chapter that no other test holds by itself: each beside a twin that it rejects."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate
from oracles import LinearGaussian, array
from pyro import poutine
from scipy import stats

from probgen.inference import elbo_terms
from probgen.models import VAE


def real_vae():
    vae = VAE((1, 2, 2), None, latent_dim=3, hidden=(8,), activation="tanh").double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(1.5)
    return vae, torch.randn(5, 1, 2, 2).double()


def test_the_joint_is_the_prior_times_the_decoders_gaussian():
    vae, x = real_vae()
    z = torch.randn(5, 3).double()
    trace = poutine.trace(poutine.condition(vae.model, data={"z": z})).get_trace(x)
    loc, raw = array(vae.decoder(z)).transpose(1, 0, 2, 3, 4)
    scale = np.log1p(np.exp(raw)) + 1e-3

    def joint(spread):
        return stats.norm.logpdf(array(z)).sum() + stats.norm.logpdf(array(x), loc, spread).sum()

    check_equal(trace.log_prob_sum(), joint(scale))
    with pytest.raises(AssertionError):
        check_equal(trace.log_prob_sum(), joint(scale**2))


def test_the_guides_draw_is_mu_plus_sigma_times_noise():
    vae, x = real_vae()
    mu, log_sigma = array(vae.encoder(x)).reshape(5, 2, 3).transpose(1, 0, 2)
    pyro.set_rng_seed(3)
    z = poutine.trace(vae.guide).get_trace(x).nodes["z"]["value"]
    pyro.set_rng_seed(3)
    noise = array(torch.normal(torch.zeros(5, 3).double(), torch.ones(5, 3).double()))
    check_equal(z, mu + np.exp(log_sigma) * noise)
    with pytest.raises(AssertionError):
        check_equal(z, mu + np.exp(log_sigma / 2) * noise)
    assert z.requires_grad  # through μ and σ


class TwoGaussians:
    """q(z) = N(m, s²) and p(z) = N(a, b²), neither of them standard; the images are a formality."""

    m, s, a, b = np.array([0.3, -1.0]), np.array([0.5, 0.7]), np.array([-0.4, 0.6]), np.array([1.3, 0.9])

    def law(self, x, mean, std):
        mean, std = (torch.tensor(t).expand(len(x), 2) for t in (mean, std))
        return dist.Normal(mean, std).to_event(1)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", self.law(x, self.a, self.b))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", self.law(x, self.m, self.s))


def test_the_kl_of_two_gaussians_is_its_closed_form_in_that_order():
    pair, x = TwoGaussians(), torch.zeros(2000, 2).double()
    there, back = (
        oracles.diagonal_gaussian_kl(*numbers).sum()
        for numbers in ((pair.m, pair.s, pair.a, pair.b), (pair.a, pair.b, pair.m, pair.s))
    )
    check_equal(elbo_terms(pair.model, pair.guide, x).kl, np.full(2000, there))
    sampled = elbo_terms(pair.model, pair.guide, x, kl="sampled").kl
    check_estimate(sampled, there, largest_error=0.1)
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(sampled, back, largest_error=0.1)


def test_the_three_terms_add_to_the_evidence():
    """The third is a KL of Gaussians here: of the guide to the posterior, which the first two know nothing of."""
    pair = LinearGaussian()
    x = pair.data(3)
    mean, std = array(x @ pair.G.T + pair.g), np.exp(array(pair.log_s))
    post_mean, post_cov = oracles.linear_gaussian_posterior(x, *pair.known())
    precision, off = np.linalg.inv(post_cov), post_mean - mean
    third = (np.diag(precision) * std**2).sum() + np.einsum("bi,ij,bj->b", off, precision, off) - len(std)
    third = (third - 2 * np.log(std).sum() + math.log(np.linalg.det(post_cov))) / 2
    assert (third > 0.1).all()
    two = elbo_terms(pair.model, pair.guide, x.repeat(2000, 1)).elbo.reshape(2000, 3)
    check_estimate(array(two) + third, pair.evidence(x), largest_error=0.2)
    for wrong in (array(two), array(two) - third):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_estimate(wrong, pair.evidence(x), largest_error=0.2)
