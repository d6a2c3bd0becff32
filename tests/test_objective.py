"""The training objective: its value, its gradient, and the site that went wrong."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate
from oracles import ExactLinearGaussian, LinearGaussian

from probgen.errors import UserError
from probgen.inference.objective import first_bad_site, step_objective
from probgen.models import VAE
from probgen.models.contracts import Objective


def with_objective(pair, *objective):
    pair.objective = Objective(*objective)
    return pair


def gradients(pair, loss):
    pair.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in pair.parameters()]


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_loss_is_minus_the_elbo_per_image_and_terms_are_its_parts(kl):
    pair = with_objective(LinearGaussian(), "elbo", kl, 1)
    images = pair.data(3)
    step = step_objective(pair)(images.repeat(3000, 1))
    log_likelihood, exact_kl = pair.terms(images)
    assert step.loss.item() == pytest.approx(-(log_likelihood - exact_kl).mean(), abs=0.1)
    assert step.terms["log_likelihood"].item() == pytest.approx(log_likelihood.mean(), abs=0.1)
    assert step.terms["kl"].item() == pytest.approx(exact_kl.mean(), abs=1e-9 if kl == "closed-form" else 0.1)
    check_equal(step.terms["elbo"], -step.loss)


@pytest.mark.parametrize("bound", ["elbo", "iwae"])
@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_under_the_posterior_every_objective_is_minus_the_evidence(bound, num_particles, broadcasts):
    pair = with_objective(ExactLinearGaussian(), bound, "sampled", num_particles)
    pair.broadcasts = broadcasts
    x = pair.data(5)
    check_equal(step_objective(pair)(x).loss, -pair.evidence(x).mean())


@pytest.mark.parametrize("num_particles", [1, 6])
def test_gradient_of_the_k_sample_bound_is_autograds_through_the_formula(num_particles):
    pair = with_objective(LinearGaussian(), "iwae", "sampled", num_particles)
    x = pair.data(4)
    pyro.set_rng_seed(5)
    ours = gradients(pair, step_objective(pair)(x).loss)

    pyro.set_rng_seed(5)
    normal = torch.distributions.Normal
    copies = x.repeat(num_particles, 1)
    guide = normal((copies @ pair.G.T + pair.g), pair.log_s.exp().expand(len(copies), 2))
    z = guide.rsample()
    log_joint = normal(0.0, 1.0).log_prob(z).sum(-1) + normal(z @ pair.W.T + pair.mu, 0.8).log_prob(copies).sum(-1)
    log_weight = (log_joint - guide.log_prob(z).sum(-1)).reshape(num_particles, 4)
    bound = torch.log(log_weight.exp().sum(0) / num_particles)
    for came, expected in zip(ours, gradients(pair, -bound.mean()), strict=True):
        check_equal(came, expected)


def test_gradient_of_one_sum_over_the_batch_is_another():
    """The twin: all images of a particle in one weight."""
    pair = LinearGaussian()
    x, z = pair.data(4), torch.randn(6, 4, 2).double()

    def log_weight():
        return dist.Normal(z @ pair.W.T + pair.mu, 0.8).to_event(1).log_prob(x)

    per_image = gradients(pair, -log_weight().logsumexp(0).mean())
    pooled = gradients(pair, -log_weight().sum(1).logsumexp(0) / 4)
    with pytest.raises(AssertionError):
        check_equal(pooled[0], per_image[0])


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_mean_gradient_is_that_of_the_closed_form_elbo(kl, num_particles):
    """∂/∂g of E_q[log p(x | z)] − KL, by central differences of the oracle."""
    pair = with_objective(LinearGaussian(), "elbo", kl, num_particles)
    images = pair.data(2)

    def exact(g):
        mean = oracles.array(images @ pair.G.T) + g
        log_likelihood, exact_kl = oracles.linear_gaussian_elbo(
            images, *pair.known(), mean, np.exp(oracles.array(pair.log_s))
        )
        return -(log_likelihood - exact_kl).mean()

    steps = 1e-5 * np.eye(2)
    expected = [(exact(pair.g.detach().numpy() + h) - exact(pair.g.detach().numpy() - h)) / 2e-5 for h in steps]
    objective, x = step_objective(pair), images.repeat(25, 1)
    draws = [gradients(pair, objective(x).loss)[3] for _ in range(40)]
    check_estimate(torch.stack(draws), expected, largest_error=0.1)


def test_discrete_latents_get_their_gradient_under_the_elbo_and_are_refused_under_iwae():
    """One binary latent: the expected gradient of the loss by enumeration."""

    class Switch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def model(self, x):
            with pyro.plate("images", len(x)):
                z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5).double()))
                pyro.sample("x", dist.Normal(2 * z[:, None] - 1, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("images", len(x)):
                pyro.sample("z", dist.Bernoulli(logits=self.logit))

    pair, x = Switch(), torch.tensor([[0.4]]).double()
    q = torch.sigmoid(pair.logit)
    log_joint = [math.log(0.5) + dist.Normal(mean, 1.0).log_prob(x).sum() for mean in (-1.0, 1.0)]
    elbo = (1 - q) * (log_joint[0] - torch.log(1 - q)) + q * (log_joint[1] - torch.log(q))
    (expected,) = gradients(pair, -elbo)
    objective, copies = step_objective(pair), x.repeat(100, 1)
    draws = [gradients(pair, objective(copies).loss)[0] for _ in range(200)]
    check_estimate(torch.stack(draws), expected, largest_error=0.02)
    with pytest.raises(UserError, match=r"'z'.*no reparameterized draws.*objective=elbo"):
        step_objective(with_objective(pair, "iwae", "sampled", 3))(copies)


def test_two_objectives_do_not_share_the_memory_of_pyros_elbo():
    first, second = (with_objective(LinearGaussian(), "elbo", "sampled", 2) for _ in range(2))
    nets = VAE((1, 2, 2), 2, latent_dim=2, hidden=(4,), num_particles=2)
    x = first.data(4)
    step_objective(first)(x)
    step_objective(nets)(torch.ones(4, 1, 2, 2))
    pyro.set_rng_seed(1)
    after_another = step_objective(second)(x).loss
    pyro.set_rng_seed(1)
    check_equal(after_another.detach(), step_objective(LinearGaussianTwice())(x).loss.detach())


class LinearGaussianTwice(LinearGaussian):
    objective = Objective("elbo", "sampled", 2)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize(
    ("broken", "expected"),
    [("g", "the value of site 'z' of the guide"), ("mu", "the log-probability of site 'x' of the model")],
)
def test_the_first_bad_site_is_named(broken, expected):
    pair = LinearGaussian()
    x = pair.data(3)
    getattr(pair, broken).data.fill_(math.nan)
    with pyro.validation_enabled(False):
        assert expected in first_bad_site(step_objective(pair)(x))
