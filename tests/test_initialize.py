"""Training starts p(x | z) at the pixels' own distributions."""

import pytest
import torch
from laws import check_equal

from probgen.inference import fit
from probgen.inference.predict import mean_of
from probgen.models import VAE

SHAPE = (1, 2, 3)


def images(levels, count=4000):
    rates = torch.linspace(0.1, 0.9, 6).reshape(SHAPE)
    return torch.distributions.Binomial(levels - 1, rates).sample((count,)).to(torch.uint8)


@pytest.mark.parametrize(
    ("likelihood", "levels"),
    [("bernoulli", 2), ("gaussian", 9), ("categorical", 9), ("discretized-logistic", 9)],
)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_mean_image_comes_first(likelihood, levels, network):
    vae = VAE(SHAPE, levels, likelihood=likelihood, network=network, hidden=(4,))
    x = images(levels)
    vae.initialize(x)
    with torch.no_grad():
        bias = vae.decoder.output_bias.expand(vae.likelihood.channels, *SHAPE)
        fn = vae.likelihood(bias)
        came = mean_of(fn, x[0].float())
    expected = x.float().mean(0)
    if network == "conv":  # one bias for all pixels
        assert abs(came.mean() - expected.mean()) < 0.1 * (levels - 1)
    else:
        torch.testing.assert_close(came, expected, atol=0.02 * levels, rtol=0)


def test_a_constant_pixel_starts_with_a_scale_above_zero():
    vae = VAE(SHAPE, 9, hidden=(4,))
    vae.initialize(torch.zeros(10, *SHAPE, dtype=torch.uint8))
    assert torch.isfinite(vae.decoder.output_bias).all()


def test_a_decoder_that_has_learned_is_left_alone():
    vae, x = VAE(SHAPE, 9, hidden=(4,)), images(9)
    fit(vae, x, steps=3, progress=False)
    learned = vae.decoder.output_bias.detach().clone()
    vae.initialize(x)
    check_equal(vae.decoder.output_bias, learned)
