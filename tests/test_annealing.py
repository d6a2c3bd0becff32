"""AIS and BDMC against evidence that is known, and against broken twins of themselves."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_estimate

from probgen.errors import UserError
from probgen.inference import ais, bdmc, exact
from probgen.inference import annealing as annealing_module
from probgen.inference import hmc as hmc_module
from probgen.inference.annealing import sigmoidal_schedule
from probgen.inference.hmc import hmc_transition
from probgen.models import VAE, Autoencoder, MultivariateGaussian, ProbabilisticPCA

DIM, LATENT = 5, 2


@pytest.fixture
def ppca():
    model = ProbabilisticPCA((DIM,), latent_dim=LATENT).double()
    model.W.data.normal_(std=0.7)
    model.log_sigma.data.fill_(math.log(0.5))
    return model


def weights_of_one_image(model, x, count, **options):
    """log w − log p(x) of many independent single chains for the same image."""
    result = ais(model.model, x.repeat(count, 1), num_chains=1, **options)
    return result.estimate.per_image - model.log_prob(x).detach()


def check_unbiased(log_ratio):
    check_estimate(log_ratio.exp(), 1.0, largest_error=0.15)


def test_ais_is_unbiased_for_the_evidence_itself(ppca):
    x = torch.full((1, DIM), 0.3, dtype=torch.float64)
    log_ratio = weights_of_one_image(ppca, x, 1500, num_distributions=40, num_leapfrog=3)
    assert 0.1 < log_ratio.std() < 2  # short enough to be noisy: the test has power
    check_unbiased(log_ratio)


def test_an_hmc_without_its_accept_step_is_rejected(ppca, monkeypatch):
    """The broken twin: every proposal taken, at a step size for which one in three should not be."""
    sure = lambda ratio: torch.full_like(ratio, 1e-30)  # noqa: E731  its logarithm lies below any log ratio met here
    monkeypatch.setattr(hmc_module.torch, "rand_like", sure)
    x = torch.randn(1, DIM, dtype=torch.float64)
    path = annealing_module.AnnealedPath(ppca.model, None, x.repeat(1500, 1))
    betas, steps = sigmoidal_schedule(40), torch.full((39, 1500), 0.8, dtype=torch.float64)
    log_weight, acceptance, _ = annealing_module.run_chains(path, path.start(), betas, steps, 3, lambda: None)
    assert acceptance.mean() < 0.9
    with pytest.raises(AssertionError):
        check_unbiased(log_weight - ppca.log_prob(x).detach())


def test_hmc_leaves_its_target_where_it_is():
    target = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
    state = [target.sample((4000,))]
    for _ in range(5):
        state, accepted = hmc_transition(lambda s: target.log_prob(s[0]).sum(1), state, torch.full((4000,), 0.5), 5)
    assert 0.3 < accepted.mean() < 0.99
    draws = state[0]
    check_estimate(draws, target.mean, largest_error=0.05)
    check_estimate((draws - target.mean).square(), target.variance, largest_error=0.2)


def test_longer_annealing_closes_in_on_the_evidence_from_below(ppca):
    x = torch.randn(40, DIM, dtype=torch.float64)
    truth = ppca.log_prob(x).detach()
    gaps = []
    for num_distributions in (5, 20, 60):
        result = ais(ppca.model, x, num_chains=4, num_distributions=num_distributions, num_leapfrog=4)
        assert result.estimate.kind == "lower bound"
        gaps.append(float((truth - result.estimate.per_image).mean()))
    assert gaps[0] > gaps[1] > abs(gaps[2])
    assert abs(gaps[2]) < 0.15


def test_from_the_exact_posterior_every_chain_gives_the_evidence(ppca):
    x = torch.randn(6, DIM, dtype=torch.float64)
    result = ais(ppca.model, x, guide=ppca.guide, num_chains=2, num_distributions=5, num_leapfrog=2)
    torch.testing.assert_close(result.estimate.per_image, ppca.log_prob(x).detach(), atol=1e-8, rtol=0)


def test_step_sizes_are_tuned_to_the_acceptance_aimed_at(ppca):
    x = torch.randn(20, DIM, dtype=torch.float64)
    result = ais(ppca.model, x, num_chains=4, num_distributions=60, num_leapfrog=3)
    assert 0.55 < result.acceptance.mean() < 0.85


def test_bidirectional_bounds_hold_the_evidence_between_them(ppca):
    like = torch.zeros(1, DIM, dtype=torch.float64)
    result = bdmc(ppca.model, 60, like, num_chains=4, num_distributions=60, num_leapfrog=4)
    truth = exact(ppca.log_prob, result.images).per_image
    below, above = truth - result.lower.per_image, result.upper.per_image - truth
    assert (result.lower.kind, result.upper.kind) == ("lower bound", "upper bound")
    for slack in (below, above):
        assert slack.mean() > -4 * slack.std() / math.sqrt(60)
        assert slack.mean() < 0.8
    torch.testing.assert_close(result.gap.per_image, below + above)


def test_the_reverse_chain_is_unbiased_for_the_inverse_of_the_evidence(ppca):
    like = torch.zeros(1, DIM, dtype=torch.float64)
    result = bdmc(ppca.model, 1000, like, num_chains=1, num_distributions=40, num_leapfrog=3)
    truth = exact(ppca.log_prob, result.images).per_image
    check_unbiased(truth - result.upper.per_image)


class Constrained(torch.nn.Module):
    """z ~ Gamma, x ~ Normal(z, 1): annealing must carry the Jacobian of its coordinates."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]), obs=x[:, 0])


def gamma_evidence(x):
    grid = torch.linspace(1e-4, 30, 60_000, dtype=torch.float64)
    joint = dist.Gamma(2.0, 1.0).log_prob(grid) + dist.Normal(grid, 1.0).log_prob(x)
    return (joint.exp() * (grid[1] - grid[0])).sum().log()


def test_constrained_latents_keep_their_jacobian():
    pair, x = Constrained(), torch.tensor([[2.5]], dtype=torch.float64)
    result = ais(pair.model, x.repeat(800, 1), num_chains=1, num_distributions=10, num_leapfrog=4)
    check_unbiased(result.estimate.per_image - gamma_evidence(x[0, 0]))


def test_the_schedule_rises_from_0_to_1_and_is_symmetric():
    betas = sigmoidal_schedule(51)
    assert (betas[0], betas[-1]) == (0, 1)
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51))


class Discrete(torch.nn.Module):
    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Discrete().model, "'z' is discrete"),
        (MultivariateGaussian((2,)).model, "no latent site"),
    ],
)
def test_what_cannot_be_annealed_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        ais(model, torch.zeros(2, 2), num_distributions=5)


def test_bdmc_refuses_a_likelihood_that_is_only_a_bound():
    vae = VAE((1, 2, 2), 3, latent_dim=2, hidden=(4,), likelihood="gaussian")
    with pytest.raises(UserError, match="DequantizedNormal scores a bound"):
        bdmc(vae.model, 3, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("options", [{"num_chains": 0}, {"num_distributions": 1}])
def test_settings_that_make_no_chain_are_refused(ppca, options):
    with pytest.raises(UserError, match="expected at least"):
        ais(ppca.model, torch.zeros(2, DIM, dtype=torch.float64), **options)


def test_the_autoencoder_has_no_evidence():
    pair = Autoencoder((1, 2, 2), 3, latent_dim=2, hidden=(4,))
    with pytest.raises(UserError, match="improper"):
        ais(pair.model, torch.zeros(2, 1, 2, 2), guide=pair.guide, num_distributions=5)
