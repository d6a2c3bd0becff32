"""A likelihood for a sampler: noise on top of what it makes, against a density that is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal
from oracles import array, linear_gaussian_evidence
from pyro import poutine
from torch import nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference.annealing import ais
from probgen.inference.observation import GaussianObservation
from probgen.inference.traces import score
from probgen.models.gan import GAN

W = torch.tensor([[1.0, 0.5], [0.2, 2.0], [-0.4, 0.3]]).double()
B = torch.tensor([0.5, -1.0, 0.2]).double()


def linear():
    """x = W z + b: with noise on top it is probabilistic PCA, whose log p(x) is known."""
    pair = GAN((3,), latent_dim=2, hidden=(4,)).double()
    pair.generator = nn.Linear(2, 3).double()
    pair.generator.weight.data, pair.generator.bias.data = W.clone(), B.clone()
    return pair


def data(num, sigma):
    return torch.randn(num, 2).double() @ W.T + B + sigma * torch.randn(num, 3).double()


def check_annealed(result, exact):
    """Within its standard error of the exact number, image by image, and below it on average: a lower bound."""
    off, noise = result.estimate.per_image - torch.as_tensor(exact), result.estimate.noise
    assert noise.max() < 0.3, "no power"
    error = noise.square().mean().sqrt() / len(off) ** 0.5
    assert off.mean() < 4.5 * error, f"above the exact number by {off.mean():.3f}"
    assert off.mean() > -0.05 - 4.5 * error, f"below the exact number by {-off.mean():.3f}"
    assert (off.abs() < 5 * noise + 0.05).all(), f"away from the exact number by {off.abs().max():.3f}"


def test_annealing_finds_the_known_density_of_a_linear_generator():
    sigma = 0.8
    x = data(12, sigma)
    noisy = GaussianObservation(linear(), sigma, None)
    result = ais(noisy.model, x, num_chains=64, num_distributions=40, num_leapfrog=4)
    check_annealed(result, linear_gaussian_evidence(x, array(W), array(B), sigma))
    assert result.estimate.kind == "lower bound"
    for wrong in (0.5 * sigma, 2 * sigma):
        with pytest.raises(AssertionError, match="the exact number"):
            check_annealed(result, linear_gaussian_evidence(x, array(W), array(B), wrong))


def test_the_joint_density_is_the_prior_times_the_noise():
    x, z = data(4, 0.5), torch.randn(4, 2).double()
    found = score(GaussianObservation(linear(), 0.5, None).model, x, {"z": z})
    normal = torch.distributions.Normal
    check_equal(found["z"], normal(0.0, 1.0).log_prob(z).sum(1))
    check_equal(found["x"].detach(), normal(z @ W.T + B, 0.5).log_prob(x).sum(1))
    assert set(found) == {"z", "x"}


def test_what_the_sampler_calls_its_images_does_not_matter():
    class Renamed(GAN):
        def model(self, num, y=None):
            with pyro.plate("images", num):
                z = pyro.sample("code", self.prior())
                return pyro.sample("pixels", Implicit(self.made(z), 1, "none"))

    x, z = data(4, 0.5), torch.randn(4, 3).double()
    found = score(GaussianObservation(Renamed((3,), hidden=(4,)).double(), 0.5, None).model, x, {"code": z})
    assert set(found) == {"code", "x"}


@pytest.mark.parametrize("inner", [False, True])
def test_what_the_sampler_calls_its_plate_does_not_matter(inner):
    """Nor whether the parts of z are a plate of their own."""

    class Renamed(GAN):
        def model(self, num, y=None):
            with pyro.plate("batch", num, dim=-2 if inner else -1):
                if not inner:
                    return self.made(pyro.sample("z", self.prior()))
                with pyro.plate("parts", 3, dim=-1):
                    return self.made(pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0)))

    noisy = GaussianObservation(Renamed((3,), hidden=(4,)).double(), 0.5, None)
    x, z = data(3, 0.5), torch.randn(3, 3).double()
    found = score(noisy.model, x, {"z": z})
    check_equal(found["z"], torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1))
    made = noisy.sampler.made(z).detach()
    check_equal(found["x"].detach(), torch.distributions.Normal(made, 0.5).log_prob(x).sum(1))
    assert ais(noisy.model, x, num_chains=2, num_distributions=3).estimate.per_image.isfinite().all()


def test_a_sampler_whose_z_is_no_site_has_its_own_refusal():
    class Hidden(GAN):
        def model(self, num, y=None):
            return self.made(torch.randn(num, self.latent_dim))

    hidden, known = Hidden((3,), hidden=(4,)), linear()
    state = torch.get_rng_state()
    with pytest.raises(UserError, match=r"no site z: pyro\.sample it"):
        GaussianObservation(hidden, 0.5, None)
    GaussianObservation(known, 0.5, None)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("levels", [2, 17])
def test_grey_levels_are_brought_to_the_unit_interval(levels):
    pair = GAN((1, 2, 2), levels, latent_dim=2, hidden=(4,))
    noisy = GaussianObservation(pair, 0.1, levels)
    x = torch.randint(0, levels, (5, 1, 2, 2), dtype=torch.uint8)
    unit = noisy.unit(x)
    check_equal(unit, x.double() / (levels - 1), 1e-6)
    trace = poutine.trace(noisy.model).get_trace(unit)
    made = trace.nodes["x"]["fn"].base_dist.loc
    check_equal(made.detach(), (pair.generator(trace.nodes["z"]["value"]).detach() + 1) / 2, 1e-6)
    assert made.min() >= 0
    assert made.max() <= 1
    assert trace.nodes["x"]["fn"].base_dist.scale.unique().item() == pytest.approx(0.1)
    points = torch.randn(2, 3)
    assert torch.equal(GaussianObservation(linear(), 0.1, None).unit(points), points)


def test_a_sampler_with_classes_has_more_than_z_that_is_latent():
    with pytest.raises(UserError, match="it walks through z, not through y"):
        GaussianObservation(GAN((1, 2, 2), 5, 3, condition="label"), 0.1, 5)
