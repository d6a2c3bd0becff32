"""`probgen sample RUN --mean`: E[x | z] at z ~ p(z), whatever p(z) is, and in numbers that can hold a mean."""

import numpy as np
import pytest
from helpers import ok, refused, trained

PAIR = '''
import pyro, torch
import pyro.distributions as dist
from torch import nn

class Bright(nn.Module):
    """z ~ N(8, 0.5²) is the brightness of all pixels."""

    def __init__(self, image_shape):
        super().__init__()
        self.encoder = nn.Linear(64, 2)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.full((1,), 8.0), 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z[:, :, None, None].expand(-1, 1, 8, 8), 0.3).to_event(3), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
'''


def images(*args):
    """Of the file that is written last."""
    ok("sample", *args, "--num", 400)
    with np.load(args[-1]) as arrays:
        return arrays["images"].astype(float)


@pytest.mark.parametrize("name", ["vae-dynamic", "vae-static"])
def test_the_mean_varies_less_than_a_draw_about_the_same_image(name, tmp_path):
    """Var(x) = Var(E[x | z]) + E[Var(x | z)]; rounded to 0 and 1, the mean of a coin would vary as much as the coin."""
    draw = images(trained(name), "--out", tmp_path / "draw.npz")
    mean = images(trained(name), "--mean", "--out", tmp_path / "mean.npz")
    assert 0 < mean.var(0).mean() < 0.4**2 * draw.var(0).mean()
    assert np.abs(draw.mean(0) - mean.mean(0)).mean() < 2 * draw.std(0).mean() / np.sqrt(400)


def test_z_comes_from_the_pairs_own_prior(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.py").write_text(PAIR)
    ok("train", "pair.py:Bright", "--data", "digits", "--steps", 1, "--out", "run", "--quiet")
    options = ("run", "--model", "pair.py:Bright")
    mean = images(*options, "--mean", "--out", tmp_path / "mean.npz").mean((1, 2))
    assert mean.mean() == pytest.approx(8, abs=0.15)
    assert mean.std() == pytest.approx(0.5, abs=0.15)


def test_an_autoencoder_has_no_prior_to_draw_codes_from(tmp_path):
    refused("sample", trained("autoencoder"), "--mean", "--out", tmp_path / "x.png", says="no prior")
    assert not (tmp_path / "x.png").exists()
