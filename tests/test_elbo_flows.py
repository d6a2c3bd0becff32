"""Flows in the guide, whose Jacobian is part of log q; and densities that lost a part, which the laws reject."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate
from oracles import ExactLinearGaussian, LinearGaussian, gaussian_log_density, linear_gaussian_posterior
from pyro.distributions import transforms

from probgen.inference import elbo_terms, iwae
from probgen.inference.evidence import log_weights


class AffineFlow(LinearGaussian):
    """z = m(x) + L ε: the posterior, written as a flow."""

    def guide(self, x):
        mean, covariance = linear_gaussian_posterior(x, *self.known())
        flow = transforms.LowerCholeskyAffine(torch.tensor(mean), torch.tensor(np.linalg.cholesky(covariance)))
        base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))


class Positive:
    """z = exp u, u ~ N(0, 1), x ~ N(log z, s²): the posterior of z is log-normal, with `exp` as the guide's flow."""

    s = 0.6

    def __init__(self, flow=transforms.ExpTransform):
        self.flow = flow

    def model(self, x):
        with pyro.plate("images", len(x)):
            prior = dist.TransformedDistribution(dist.Normal(torch.zeros(1).double(), 1.0), [transforms.ExpTransform()])
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(z.log(), self.s).to_event(1), obs=x)

    def guide(self, x):
        variance = 1 / (1 + self.s**-2)
        posterior = dist.Normal(x * variance / self.s**2, math.sqrt(variance))
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.TransformedDistribution(posterior, [self.flow()]).to_event(1))

    def evidence(self, x):
        return gaussian_log_density(x, [0.0], [[1 + self.s**2]])


class ExpWithoutJacobian(transforms.ExpTransform):
    """The broken twin."""

    def log_abs_det_jacobian(self, x, y):
        return torch.zeros_like(x)


class Planar(LinearGaussian):
    """A planar flow on top of a wide Gaussian: a guide that is wrong, of a shape that has no closed form."""

    def __init__(self):
        super().__init__()
        self.flow = transforms.Planar(2).double()

    def guide(self, x):
        base = dist.Normal(0.2 * x[..., :2], 1.2).to_event(1)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


POINTS = torch.linspace(-2, 2, 5).double()[:, None]


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize(("pair", "x"), [(AffineFlow(), LinearGaussian().data(5)), (Positive(), POINTS)])
def test_a_flow_that_is_the_posterior_gives_the_evidence_for_every_draw(pair, x, num_particles):
    check_equal(elbo_terms(pair.model, pair.guide, x, num_particles, kl="sampled").elbo, pair.evidence(x))
    check_equal(iwae(pair.model, pair.guide, x, num_particles).per_image, pair.evidence(x))


def test_flows_that_share_their_last_step_have_the_kl_of_their_bases():
    pair = Positive()
    (term,) = elbo_terms(pair.model, pair.guide, POINTS).latent
    mean, variance = POINTS[:, 0] / (1 + pair.s**2), pair.s**2 / (1 + pair.s**2)
    assert term.method == "closed-form"
    check_equal(term.kl, 0.5 * (variance + mean**2 - 1 - math.log(variance)))


def test_a_flow_without_its_jacobian_is_rejected():
    broken = Positive(ExpWithoutJacobian)
    with pytest.raises(AssertionError):
        check_equal(elbo_terms(broken.model, broken.guide, POINTS, kl="sampled").elbo, broken.evidence(POINTS))


def test_weights_of_a_planar_flow_average_to_the_probability():
    pair = Planar()
    x = pair.data(3)
    weights = log_weights(pair.model, pair.guide, x, 20_000).exp()
    check_estimate(weights / torch.tensor(pair.evidence(x)).exp(), np.ones(3), largest_error=0.05)
    terms = elbo_terms(pair.model, pair.guide, x.repeat(400, 1))
    assert terms.latent[0].method == "sampled"
    gap = torch.tensor(pair.evidence(x)) - terms.elbo.reshape(400, 3).mean(0)
    assert (gap > 0).all()


class LostConstant(dist.Normal):
    """A Gaussian without its −½ log 2π."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.5 * math.log(2 * math.pi)


class Constantless(ExactLinearGaussian):
    """The broken twin of a model."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", LostConstant(z @ self.W.T + self.mu, self.sigma).to_event(1), obs=x)


def both_bounds(pair, x):
    yield elbo_terms(pair.model, pair.guide, x, kl="sampled").elbo
    yield iwae(pair.model, pair.guide, x, 7).per_image


def test_a_lost_constant_is_rejected():
    x = LinearGaussian().data(5)
    right, broken = ExactLinearGaussian(), Constantless()
    for bound in both_bounds(right, x):
        check_equal(bound, right.evidence(x))
    for bound in both_bounds(broken, x):
        with pytest.raises(AssertionError):
            check_equal(bound, broken.evidence(x))
