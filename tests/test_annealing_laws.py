"""What chains along a path obey in either direction, whatever their length: laws with bounded statistics."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_brackets, check_estimate
from oracles import LinearGaussian, array

from probgen.errors import UserError
from probgen.inference import bdmc
from probgen.inference import hmc as hmc_module
from probgen.inference.annealed_path import AnnealedPath
from probgen.inference.annealing import run_chains
from probgen.inference.schedules import sigmoidal_schedule

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

COUNT, DISTRIBUTIONS, STEP = 4000, 12, 0.5


def log_ratios(pair, start, *, backwards):
    """log w − log p(x) of chains for one image, at one step size everywhere, from given z or from the prior."""
    x = pair.data(1)
    path = AnnealedPath(pair.model, None, x.repeat(COUNT, 1))
    betas = sigmoidal_schedule(DISTRIBUTIONS)
    sizes = torch.full((DISTRIBUTIONS - 1, COUNT), STEP, dtype=x.dtype)
    state = path.start() if start is None else path.unconstrained({"z": start})
    with pyro.validation_enabled(False):
        chains = run_chains(path, state, betas.flip(0) if backwards else betas, sizes, 2)
    return (-1 if backwards else 1) * array(chains.log_weight) - pair.evidence(x)


def posterior_draws(pair):
    mean, covariance = oracles.linear_gaussian_posterior(pair.data(1), *pair.known())
    return torch.tensor(np.random.default_rng(0).multivariate_normal(mean[0], covariance, COUNT))


def check_reversal(forwards, backwards):
    """p_backwards(w) / p_forwards(w) = w / p(x), hence E_f[w / (w + p(x))] = E_b[p(x) / (w + p(x))] (Crooks 1999).

    Between 0 and 1, so that the errors can be trusted where those of w and 1 / w cannot.
    """
    accepted = 1 / (1 + np.exp(-forwards)), 1 / (1 + np.exp(backwards))
    check_estimate(accepted[0] - accepted[1], 0.0, largest_error=0.01)


@pytest.mark.parametrize("size", [(3, 2), (8, 2), (8, 5)])
def test_chains_backwards_are_the_chains_forwards_reversed(size):
    pair = LinearGaussian(*size)
    forwards = log_ratios(pair, None, backwards=False)
    backwards = log_ratios(pair, posterior_draws(pair), backwards=True)
    assert backwards.mean() - forwards.mean() > 0.15  # short enough for the two to differ
    check_reversal(forwards, backwards)


def test_chains_from_elsewhere_or_without_an_accept_step_are_not_reversible(monkeypatch):
    """The twins: from a posterior too wide by a third; weights with the other sign; every proposal taken."""
    pair = LinearGaussian(8, 5)
    draws = posterior_draws(pair)
    forwards = log_ratios(pair, None, backwards=False)
    elsewhere = log_ratios(pair, draws.mean(0) + 1.3 * (draws - draws.mean(0)), backwards=True)
    right = log_ratios(pair, draws, backwards=True)
    monkeypatch.setattr(hmc_module.torch, "rand_like", lambda ratio: torch.full_like(ratio, 1e-30))
    taken = log_ratios(pair, None, backwards=False), log_ratios(pair, draws, backwards=True)
    for wrong in ((forwards, elsewhere), (forwards, -right), taken):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_reversal(*wrong)


class TwoModes:
    """z ~ N(0, 1), x a coin whose odds rise at a narrow place and at a wide one: each mode wants its own step size."""

    @staticmethod
    def chance(z):
        """P(x = 1 | z); P(x = 0 | z) is its mirror image, so that either side of the coin has the evidence ½."""

        def bump(centre, width):
            return torch.exp(-0.5 * ((z - centre) / width) ** 2)

        return 0.5 + 0.49 * (bump(-0.5, 0.03) - bump(0.5, 0.03)) + 0.4 * (bump(1.5, 0.5) - bump(-1.5, 0.5))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Bernoulli(self.chance(z)), obs=x[:, 0])


def test_the_reverse_chain_is_unbiased_where_the_step_size_depends_on_the_mode(monkeypatch):
    """E[1 / w'] = 1 / p(x) needs step sizes that are independent of where the chain begins."""
    monkeypatch.setattr("probgen.inference.annealing.CHUNK", 10**6)
    like = torch.zeros(1, 1, dtype=torch.float64)
    result = bdmc(TwoModes().model, 50_000, like, num_chains=1, num_distributions=10, num_leapfrog=3)
    check_estimate(np.exp(math.log(0.5) - array(result.upper.per_image)), 1.0, largest_error=0.002)
    check_estimate(np.exp(array(result.lower.per_image) - math.log(0.5)), 1.0, largest_error=0.002)


@pytest.mark.parametrize("num_leapfrog", [1, 2, 4])
def test_more_leapfrog_steps_do_not_keep_the_ends_apart(num_leapfrog):
    """A step size tuned to one acceptance has the same angle on every Gaussian's orbits; after half a turn, or a
    whole one, a chain has not moved from its ellipse, at any β. Exact draws in place of HMC leave gaps of 0.05."""
    pair = LinearGaussian(5, 2)
    pair.W.data = torch.tensor([[-0.4, 0.1], [-0.6, 0.8], [-0.7, 0.1], [-0.4, 0.3], [-0.6, -1.1]]).double()
    pair.sigma = 0.5
    result = bdmc(pair.model, 150, pair.data(1), num_chains=4, num_distributions=40, num_leapfrog=num_leapfrog)
    truth = pair.evidence(result.images)
    check_brackets(result.lower.per_image, truth, result.upper.per_image, largest_gap=0.4)


class Observes(LinearGaussian):
    """A model that observes something else than x itself."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            mean = z @ self.W.T + self.mu
            if self.what == "twice":
                pyro.sample("y", dist.Normal(mean.sum(-1), 1.0), obs=x.sum(-1))
            if self.what == "a part":
                pyro.sample("x", dist.Normal(mean[..., :2], 1.0).to_event(1), obs=x[..., :2])
            else:
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x / (10 if self.what == "scaled" else 1))


@pytest.mark.parametrize(
    ("what", "message"),
    [("twice", r"\['x', 'y'\], expected one site"), ("a part", "not the images"), ("scaled", "a function of x")],
)
def test_images_that_cannot_be_simulated_are_refused(what, message):
    pair = Observes(what)
    with pytest.raises(UserError, match=message):
        bdmc(pair.model, 3, pair.data(1), num_chains=1, num_distributions=2)


def test_what_observes_x_itself_is_taken():
    pair = Observes("itself")
    assert len(bdmc(pair.model, 3, pair.data(1), num_chains=1, num_distributions=2).gap) == 3
