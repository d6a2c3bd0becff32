"""Standard errors that mean what they say: 95 of 100 intervals of 1.96 of them hold the truth, for every estimator."""

import numpy as np
import oracles
import pytest
from laws import check_coverage
from oracles import LinearGaussian, array

from probgen.inference import ais, annealing, bdmc, elbo_terms, exact, iwae
from probgen.inference.estimates import Estimate
from probgen.models import MultivariateGaussian

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

REPEATS, IMAGES, PARTICLES = 400, 150, 5  # a log-density is skewed: with 60 images, 93 of 100 intervals hold it


def check_errors(values, errors, truth):
    """They cover at their rate; half of them and twice as much do not."""
    check_coverage(values, errors, truth)
    for wrong in (errors / 2, errors * 2):
        with pytest.raises(AssertionError, match="cover"):
            check_coverage(values, wrong, truth)


def check_estimates(per_image, truth):
    """Independent estimates, each of its own images: `value` and `stderr` of each against the mean of all images."""
    parts = [Estimate.of(part, "estimate", PARTICLES) for part in per_image.split(IMAGES)]
    values, errors = np.array([(e.value, e.stderr) for e in parts]).T
    check_errors(values, errors, truth)


@pytest.fixture(scope="module")
def pair():
    return LinearGaussian()


@pytest.fixture(scope="module")
def x(pair):
    """Other images for each repetition."""
    return pair.data(REPEATS * IMAGES)


def guide_of(pair, x):
    """Means and standard deviations of q(z | x)."""
    return array(x) @ array(pair.G).T + array(pair.g), np.exp(array(pair.log_s))


@pytest.fixture(scope="module")
def truth_images(pair):
    """So many that their own error is small beside that of each estimate."""
    return pair.data(300_000, seed=99)


def test_exact_numbers_cover_the_entropy(pair, x):
    model = MultivariateGaussian((3,)).double()
    mean, covariance = array(pair.mu), array(pair.W @ pair.W.T) + pair.sigma**2 * np.eye(3)
    tril = np.linalg.cholesky(covariance)
    for parameter, value in (
        (model.mu, mean),
        (model.log_diagonal, np.log(np.diag(tril))),
        (model.below_diagonal, tril),
    ):
        parameter.data.copy_(parameter.data.new_tensor(value))
    check_estimates(exact(model.log_prob, x).per_image, -oracles.linear_gaussian_entropy(pair.W, pair.sigma))


def test_elbos_of_several_particles_cover_their_closed_form(pair, x, truth_images):
    log_likelihood, kl = pair.terms(truth_images)
    check_estimates(elbo_terms(pair.model, pair.guide, x, PARTICLES).elbo, (log_likelihood - kl).mean())


def test_importance_weighted_bounds_cover_their_own_mean(pair, x, truth_images):
    truth = oracles.linear_gaussian_iwae(truth_images, *pair.known(), *guide_of(pair, truth_images), PARTICLES)
    check_estimates(iwae(pair.model, pair.guide, x, PARTICLES, diagnose=False).per_image, truth.mean())


@pytest.fixture
def at_once(monkeypatch):
    """All chains in one chunk: the time goes into passes, however small."""
    monkeypatch.setattr(annealing, "CHUNK", 10**6)


@pytest.mark.usefixtures("at_once")
def test_annealed_bounds_cover_their_own_mean(pair, x):
    """The truth is the mean of all, whose error is a twentieth of each one's."""
    bounds = ais(pair.model, x, num_chains=1, num_distributions=5, num_leapfrog=1).estimate.per_image
    check_estimates(bounds, float(bounds.mean()))


@pytest.mark.usefixtures("at_once")
def test_gaps_of_both_ends_cover_their_own_mean(pair, x):
    gaps = bdmc(pair.model, len(x), x[:1], num_chains=1, num_distributions=5, num_leapfrog=1).gap.per_image
    check_estimates(gaps, float(gaps.mean()))


def test_the_error_of_one_image_under_many_particles_covers_its_evidence(pair):
    """By the delta method; at 400 particles the bound's own distance from the evidence is small beside it."""
    wide = LinearGaussian()
    wide.log_s.data += 0.3  # a guide narrower than the posterior gives weights without a variance
    image = pair.data(1)
    bound = iwae(wide.model, wide.guide, image.repeat(REPEATS, 1), 400, diagnose=False)
    check_errors(bound.per_image, array(bound.noise), float(pair.evidence(image)[0]))


@pytest.mark.usefixtures("at_once")
def test_the_error_of_one_image_under_many_chains_covers_its_evidence(pair):
    image = pair.data(1)
    bound = ais(pair.model, image.repeat(REPEATS, 1), num_chains=100, num_distributions=10, num_leapfrog=2).estimate
    check_errors(bound.per_image, array(bound.noise), float(pair.evidence(image)[0]))
