"""Pareto k̂ against weights whose tail is known, in whichever line of ArviZ is installed."""

import pytest
import torch

from probgen.inference import iwae
from probgen.inference.arviz_bridge import pareto_k
from probgen.models import VAE, ProbabilisticPCA


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_the_shape_of_a_pareto_tail_is_found(k):
    log_weights = -k * torch.rand(5000, 3).log()  # w = u^(−k) has a tail of shape k
    found = pareto_k(log_weights)
    assert found.shape == (3,)
    assert (found - k).abs().max() < 0.15


def test_minus_the_log_weights_are_rejected():
    """The broken twin: one of ArviZ's two lines takes the other sign."""
    log_weights = -0.5 * torch.rand(5000, 1).log()
    assert (pareto_k(-log_weights) - 0.5).abs().max() > 1


def test_each_image_has_its_own_tail():
    log_weights = torch.stack([-k * torch.rand(5000).log() for k in (0.1, 0.9)], 1)
    light, heavy = pareto_k(log_weights).tolist()
    assert light < 0.4
    assert heavy > 0.7


def test_one_weight_that_is_all_has_the_heaviest_tail():
    log_weights = torch.cat([torch.zeros(1, 2), torch.full((99, 2), -1e5) + torch.rand(99, 2)])
    assert (pareto_k(log_weights) == torch.inf).all()


def test_exact_posterior_weights_have_no_tail_and_are_trusted():
    ppca = ProbabilisticPCA((5,), latent_dim=2)
    estimate = iwae(ppca.model, ppca.guide, torch.randn(4, 5), 100)
    assert estimate.untrusted == 0


def test_a_hopeless_guide_is_not_trusted():
    vae = VAE((1, 4, 4), 17, latent_dim=8, hidden=(16,))
    with torch.no_grad():
        vae.decoder.layers[-1].weight.mul_(30)
    images = torch.randint(0, 17, (10, 1, 4, 4))
    assert iwae(vae.model, vae.guide, images, 100).untrusted > 0.5
    assert iwae(vae.model, vae.guide, images, 100, diagnose=False).untrusted is None
