"""Bayes' rule against the table of all images and labels, and what a posterior must obey."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_sampler
from oracles import all_images
from torch import nn

from probgen.errors import UserError
from probgen.inference import class_log_joint, class_posterior
from probgen.models import GAN, VAE, MultivariateGaussian, PixelCNN

SHAPE, CLASSES = (1, 2, 2), 3
LOG_PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
IMAGES = all_images(2, SHAPE)


@pytest.fixture
def labelled():
    """A small p(x, y), with weights so large that the label matters."""
    model = PixelCNN(SHAPE, 2, CLASSES, features=4, blocks=2, first_kernel=3, condition="label").double()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) if parameter.dim() == 1 else 3 * parameter.data
    model.label_logits.data = LOG_PRIOR + 1.7
    return model


def table(model):
    """p(x, y) of every image and label, from p(y) and p(x | y)."""
    each = [model.distribution(y).log_prob(IMAGES).detach().exp() for y in range(CLASSES)]
    return torch.stack(each, 1) * LOG_PRIOR.exp()


def check_total_probability(log_posterior, evidence):
    """Σ_y p(y | x) = 1 for each image, and Σ_x p(x) p(y | x) = p(y), over all images."""
    check_equal(log_posterior.exp().sum(1), torch.ones(len(evidence)).double())
    check_equal(evidence @ log_posterior.exp(), LOG_PRIOR.exp())


def test_of_a_pair_with_labels_it_is_that_of_the_table(labelled):
    joint = table(labelled)
    assert (joint[:, 0] / joint[:, 0].sum() - joint[:, 1] / joint[:, 1].sum()).abs().max() > 0.01  # labels matter
    check_equal(class_log_joint(labelled, IMAGES).exp(), joint)
    check_equal(class_posterior(labelled, IMAGES).exp(), joint / joint.sum(1, keepdim=True))
    check_equal(class_log_joint(labelled, IMAGES).logsumexp(1), labelled.log_prob(IMAGES))


def test_of_one_density_for_each_class_it_is_the_same(labelled):
    each = [labelled.distribution(y) for y in range(CLASSES)]
    check_equal(class_posterior(each, IMAGES, LOG_PRIOR), class_posterior(labelled, IMAGES))


def test_it_obeys_the_law_of_total_probability_and_without_the_prior_it_does_not(labelled):
    evidence = table(labelled).sum(1)
    check_total_probability(class_posterior(labelled, IMAGES), evidence)
    without_prior = class_log_joint(labelled, IMAGES) - LOG_PRIOR
    over_images = class_log_joint(labelled, IMAGES).log_softmax(0)
    for twin in (without_prior.log_softmax(1), without_prior, over_images):
        with pytest.raises(AssertionError):
            check_total_probability(twin, evidence)


def test_labels_of_drawn_pairs_have_its_frequencies_and_not_those_of_the_prior(labelled):
    with pyro.plate("images", 20_000):
        y = pyro.sample("y", dist.Categorical(logits=labelled.label_logits.detach()))
    x = labelled.distribution(y).sample()
    commonest = int(table(labelled).sum(1).argmax())
    alike = y[(x == IMAGES[commonest]).flatten(1).all(1)]
    assert len(alike) > 1000
    check_sampler(alike, class_posterior(labelled, IMAGES[commonest : commonest + 1])[0].exp())
    with pytest.raises(AssertionError, match="frequencies"):
        check_sampler(alike, LOG_PRIOR.exp())


def gaussian(mean, sigma):
    model = MultivariateGaussian((2,)).double()
    model.mu.data = torch.tensor(mean, dtype=torch.float64)
    model.log_diagonal.data = torch.full((2,), math.log(sigma), dtype=torch.float64)
    return model


def test_of_gaussians_with_one_covariance_it_is_logistic_regression():
    """log p(1 | x) / p(0 | x) = (μ₁ − μ₀)ᵀΣ⁻¹x − (μ₁ᵀΣ⁻¹μ₁ − μ₀ᵀΣ⁻¹μ₀) / 2 + log p(1) / p(0): linear in x."""
    x, prior, sigma = torch.randn(50, 2).double(), torch.tensor([0.25, 0.75]).double(), 1.5
    mu = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    pair = [gaussian(m.tolist(), sigma) for m in mu]
    for one in pair:
        one.below_diagonal.data[1, 0] = 0.8

    def score_of(covariance):
        w, squares = covariance.inverse() @ (mu[1] - mu[0]), (mu @ covariance.inverse() * mu).sum(1)
        return x @ w - (squares[1] - squares[0]) / 2 + math.log(3)

    covariance = pair[0].scale_tril.detach() @ pair[0].scale_tril.detach().T
    score, came = score_of(covariance), class_posterior(pair, x, prior.log())
    check_equal(came[:, 1].exp(), score.sigmoid())
    with pytest.raises(AssertionError):
        check_equal(came[:, 1].exp(), score_of(covariance.diagonal().diag()).sigmoid())
    wider = class_posterior([gaussian(mu[0].tolist(), 1.0), gaussian(mu[1].tolist(), sigma)], x, prior.log())
    with pytest.raises(AssertionError):
        check_equal(wider[:, 1].exp(), score.sigmoid())


def test_images_in_chunks_and_as_bytes_give_the_same(labelled):
    many = IMAGES.repeat(40, 1, 1, 1)
    check_equal(class_posterior(labelled, many), class_posterior(labelled, IMAGES).repeat(40, 1))
    float32 = labelled.float()
    check_equal(class_posterior(float32, IMAGES.byte()), class_posterior(float32, IMAGES.float()))


def test_the_mode_is_left_as_it_was_and_there_is_no_gradient(labelled):
    labelled.train()
    assert not class_posterior(labelled, IMAGES).requires_grad
    assert labelled.training


class Latent(nn.Module):
    """p(x, z | y) p(y): a bound only."""

    takes_labels, num_classes = True, 2

    def model(self, x, y):
        with pyro.plate("images", len(x)):
            pyro.sample("y", dist.Bernoulli(0.5), obs=y.to(x))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    def guide(self, x, y):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x - y, 1.0))


class Summed(Latent):
    """A latent that is summed out: exact. p(x | y) = ½ N(x; y, 1) + ½ N(x; y + 3, 1)."""

    def model(self, x, y):
        with pyro.plate("images", len(x)):
            pyro.sample("y", dist.Bernoulli(0.25), obs=y.to(x))
            z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(3 * z + y, 1.0), obs=x)

    def guide(self, x, y):
        pass


def test_a_latent_that_is_summed_out_leaves_it_exact():
    x = torch.linspace(-2, 6, 9)
    each = [dist.Normal(mean, 1.0).log_prob(x).exp() for mean in (0.0, 3.0, 1.0, 4.0)]
    joint = torch.stack([0.75 * (each[0] + each[1]) / 2, 0.25 * (each[2] + each[3]) / 2], 1)
    check_equal(class_posterior(Summed(), x).exp(), joint / joint.sum(1, keepdim=True), 1e-5)


TWO = [gaussian([0.0, 0.0], 1.0)] * 2
POINTS = torch.zeros(3, 2).double()


def test_a_module_list_is_a_sequence():
    prior, pair = torch.tensor([0.25, 0.75]).log(), [gaussian([0.0, 1.0], 1.0), gaussian([2.0, 0.0], 1.5)]
    check_equal(class_posterior(torch.nn.ModuleList(pair), POINTS, prior), class_posterior(pair, POINTS, prior))


@pytest.mark.parametrize(
    ("classes", "x", "log_prior", "says"),
    [
        (TWO, POINTS, None, "densities came without log_prior"),
        (TWO, POINTS, LOG_PRIOR, r"log_prior of shape \(3,\) came, expected \(2,\)"),
        (TWO, POINTS, torch.tensor([0.5, 0.5]), "probabilities of sum 3.297, expected 1"),
        (TWO, POINTS, torch.tensor([math.nan, 0.0]), "probabilities of sum nan"),
        (TWO[:1], POINTS, torch.zeros(1), "1 densities came, expected two or more"),
        ([VAE((2,)), *TWO], POINTS, LOG_PRIOR, "class 0 is a VAE, expected a density"),
        (TWO, POINTS[:0], LOG_PRIOR[:2], "no images came"),
        ([dist.Normal(0.0, 1.0)] * 2, POINTS, torch.tensor([0.5, 0.5]).log(), r"class 0, a Normal, gave .* \(3, 2\)"),
        (TWO[0], POINTS, None, "MultivariateGaussian takes no labels: train with condition=label"),
        (GAN((2,), num_classes=2, condition="label"), POINTS, None, "GAN has no density of its classes"),
        (Latent(), POINTS[:, 0], None, "site 'z' of Latent is latent"),
    ],
)
def test_what_has_no_posterior_is_refused(classes, x, log_prior, says):
    with pytest.raises(UserError, match=says) as error:
        class_posterior(classes, x, log_prior)
    assert "\n" not in str(error.value)


def test_a_prior_beside_that_of_the_pair_is_refused(labelled):
    with pytest.raises(UserError, match=r"log_prior came with PixelCNN, which has a p\(y\) of its own"):
        class_posterior(labelled, IMAGES, LOG_PRIOR)
