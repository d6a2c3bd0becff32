"""Images drawn, reconstructed and decoded, for our pairs and a user's."""

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate, check_sampler
from oracles import LinearGaussian
from torch import nn

from probgen.errors import UserError
from probgen.inference.predict import code_of, decode, mean_of, reconstruct, sample
from probgen.models import VAE, MultivariateGaussian, ProbabilisticPCA


class Users:
    """A plain pair with other names: latent `code`, pixels `pixels`, the latter last."""

    def __init__(self, prior=None, pixels=None):
        self.prior = prior or dist.Normal(torch.tensor([3.0]).double(), 2.0).to_event(1)
        self.pixels = pixels or (lambda code: dist.Normal(code.expand(len(code), 2), 1e-6).to_event(1))

    def model(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("brightness", dist.Normal(torch.tensor(0.0).double(), 1.0), obs=x.flatten(1).mean(1))
            code = pyro.sample("code", self.prior)
            pyro.sample("pixels", self.pixels(code), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("code", dist.Normal(x.flatten(1)[:, :1], 0.1).to_event(1))


LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]]).double()  # two pixels of three levels


def categorical_pixels(code):
    return dist.Categorical(logits=LOGITS + code[:, :, None]).to_event(1)


# --- sampling


def test_a_users_pair_draws_its_last_site_of_an_images_size():
    draws = sample(Users(), 10_000, (2,))
    assert draws.shape == (10_000, 2)
    check_estimate(draws, [3.0, 3.0], largest_error=0.03)
    check_equal(draws[:, 0], draws[:, 1], 1e-4)


def test_a_pair_draws_from_its_marginal_density():
    pair = LinearGaussian()
    draws = sample(pair, 20_000, (3,))
    mean, covariance = oracles.array(pair.mu), oracles.array(pair.W @ pair.W.T) + 0.64 * np.eye(3)
    check_estimate(draws, mean, largest_error=0.03)
    centred = oracles.array(draws) - mean
    check_estimate(centred[:, :, None] * centred[:, None, :], covariance, largest_error=0.1)


def test_draws_do_not_depend_on_the_blank_images():
    """The twin of an observed site that was left observed: all draws would be zero."""
    assert (sample(Users(), 5, (2,)).abs() > 1e-3).all()


def test_categorical_pixels_are_drawn_with_their_probabilities():
    draws = sample(Users(pixels=categorical_pixels), 10_000, (2,))
    for pixel in range(2):
        check_sampler(draws[:, pixel], oracles.array(LOGITS[pixel].softmax(-1)))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(torch.tensor([3.0]).double(), 2.0).to_event(1),
        dist.MultivariateNormal(torch.tensor([3.0]).double(), 4 * torch.eye(1).double()),
    ],
)
def test_temperature_scales_the_spread_about_the_mean(prior, temperature):
    pyro.set_rng_seed(1)
    plain = sample(Users(prior), 2000, (2,))
    pyro.set_rng_seed(1)
    tempered = sample(Users(prior), 2000, (2,), temperature=temperature)
    check_equal(tempered, 3 + temperature * (plain - 3), 1e-4)


def test_temperature_scales_the_latents_of_our_models():
    model = ProbabilisticPCA((3,), latent_dim=1).double()
    with torch.no_grad():
        model.W.fill_(2.0)
        model.log_sigma.fill_(-12.0)
    stds = [sample(model, 20_000, (3,), temperature=t).std(0).mean().item() for t in (1.0, 0.5)]
    assert stds == pytest.approx([2.0, 1.0], rel=0.03)
    gaussian = MultivariateGaussian((3,)).double()
    assert sample(gaussian, 20_000, (3,), temperature=0.5).std().item() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Laplace(torch.zeros(1).double(), 1.0).to_event(1),
        dist.Bernoulli(torch.full((1,), 0.5).double()).to_event(1),
    ],
)
def test_temperature_is_refused_for_a_prior_that_is_no_gaussian(prior):
    name = type(prior.base_dist).__name__
    with pytest.raises(UserError, match=rf"temperature=0.5 came, but the prior of 'code' is a {name}"):
        sample(Users(prior), 5, (2,), temperature=0.5)
    assert sample(Users(prior), 5, (2,)).shape == (5, 2)


def test_a_pairs_own_sampler_comes_first():
    class Own(Users):
        def sample(self, num, temperature=1.0):
            return torch.full((num, 2), temperature)

    assert sample(Own(), 3, (2,)).tolist() == [[1.0, 1.0]] * 3
    assert sample(Own(), 3, (2,), temperature=0.5).tolist() == [[0.5, 0.5]] * 3


def test_a_pair_without_an_image_site_is_refused():
    with pytest.raises(UserError, match=r"no observed site of 3 images of shape \(7,\): name it 'x'"):
        sample(Users(), 3, (7,))


# --- reconstruction


def test_reconstruction_is_the_mean_image_of_the_mean_code():
    pair = LinearGaussian()
    x = pair.data(5)
    code = x @ pair.G.T + pair.g
    check_equal(reconstruct(pair, x), (code @ pair.W.T + pair.mu).detach())


def test_reconstruction_under_the_posterior_is_the_projection_of_pca():
    x = LinearGaussian().data(60)
    model = ProbabilisticPCA((3,), latent_dim=2).double().maximum_likelihood(x)
    known = model.W.detach(), model.mu.detach(), model.log_sigma.exp().item()
    mean, _ = oracles.linear_gaussian_posterior(x, *known)
    check_equal(reconstruct(model, x), mean @ oracles.array(model.W).T + oracles.array(model.mu))


def test_reconstruction_draws_nothing():
    vae = VAE((1, 2, 2), 2, latent_dim=2, hidden=(4,)).double()
    x = torch.randint(0, 2, (5, 1, 2, 2), dtype=torch.uint8)
    assert torch.equal(reconstruct(vae, x), reconstruct(vae, x))
    z = vae.encoder(2.0 * x.double() - 1)[:, :2]
    check_equal(reconstruct(vae, x), torch.sigmoid(vae.decoder(z)[:, 0]).detach())


def test_a_users_reconstruction_is_the_mean_of_its_pixels():
    x = torch.tensor([[0.3, 0.1], [1.2, 0.0]]).double()
    check_equal(reconstruct(Users(), x), x[:, :1].expand(2, 2))


def test_mean_of_categorical_pixels_is_the_mean_level():
    codes = {"code": torch.tensor([[0.0], [5.0]]).double()}
    expected = oracles.array(LOGITS.softmax(-1)) @ [0, 1, 2]
    check_equal(decode(Users(pixels=categorical_pixels), codes, 2, (2,)), [expected, expected])


def test_without_a_code_there_is_no_reconstruction():
    with pytest.raises(UserError, match="MultivariateGaussian has no latent code"):
        reconstruct(MultivariateGaussian((3,)), torch.zeros(2, 3))


# --- decoding


@pytest.mark.parametrize(
    ("likelihood", "levels"), [("bernoulli", 2), ("categorical", 5), ("discretized-logistic", 5), ("gaussian", 5)]
)
def test_decoded_images_are_the_means_of_the_likelihood_in_levels(likelihood, levels):
    vae = VAE((1, 2, 2), levels, latent_dim=2, hidden=(4,), likelihood=likelihood).double()
    z = torch.randn(6, 2).double()
    came = decode(vae, {"z": z}, 6, (1, 2, 2))
    parameters = vae.decoder(z).detach()
    expected = {
        "bernoulli": lambda: torch.sigmoid(parameters[:, 0]),
        "categorical": lambda: (parameters.softmax(1) * torch.arange(5.0).reshape(1, 5, 1, 1, 1)).sum(1),
        "discretized-logistic": lambda: ((parameters[:, 0] + 1) * 2).clamp(0, 4),
        "gaussian": lambda: (parameters[:, 0] + 1) * 2,
    }
    check_equal(came, expected[likelihood]())


def test_modes_and_dropout_are_evaluations_and_left_as_they_were():
    class Dropping(LinearGaussian):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def guide(self, x):
            super().guide(self.drop(x))

    pair = Dropping()
    x = pair.data(5)
    assert torch.equal(reconstruct(pair, x), reconstruct(pair, x))
    assert pair.training
    assert pair.drop.training


def test_a_distribution_without_a_formula_for_its_mean_gives_the_average_of_draws():
    flow = dist.TransformedDistribution(dist.Normal(torch.zeros(500).double(), 0.3), [dist.transforms.ExpTransform()])
    found = mean_of(flow, flow.sample())
    check_estimate(found, np.exp(0.3**2 / 2), largest_error=0.01)
    assert found.std() < 0.2 * flow.sample().std()


@pytest.mark.parametrize(
    ("fn", "centre"),
    [
        (dist.Normal(torch.tensor([1.0, 2.0]), 3.0).to_event(1), [1.0, 2.0]),
        (dist.Bernoulli(torch.tensor([0.2, 0.9])).to_event(1), [0.0, 1.0]),
        (dist.Categorical(torch.tensor([[0.4, 0.2, 0.4], [0.1, 0.2, 0.7]])), [0.0, 2.0]),
    ],
)
def test_the_centre_of_a_code_is_a_value_that_it_can_have(fn, centre):
    value = fn.sample()
    assert code_of(fn, value).tolist() == centre
    assert code_of(fn, value).dtype == value.dtype
