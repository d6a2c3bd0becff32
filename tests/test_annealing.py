"""AIS and BDMC against evidence that is known, and against broken twins of themselves."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_brackets, check_estimate, check_rises

from probgen.errors import UserError
from probgen.inference import ais, bdmc, exact
from probgen.inference import annealing as annealing_module
from probgen.inference import hmc as hmc_module
from probgen.inference.annealed_path import AnnealedPath
from probgen.inference.hmc import hmc_transition
from probgen.inference.schedules import equal_lengths, sigmoidal_schedule
from probgen.models import VAE, Autoencoder, MultivariateGaussian, ProbabilisticPCA

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

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
    """E[w / p(x)] = 1. On a path from the prior w is at most the likelihood's maximum: no tail, the error is known."""
    check_estimate(log_ratio.exp(), 1.0, largest_error=0.05)


def test_ais_is_unbiased_for_the_evidence_itself(ppca):
    x = torch.full((1, DIM), 0.3, dtype=torch.float64)
    log_ratio = weights_of_one_image(ppca, x, 2000, num_distributions=40, num_leapfrog=3)
    assert 0.5 < log_ratio.std() < 3  # short enough to be noisy: the test has power
    check_unbiased(log_ratio)
    for wrong in (log_ratio + 0.25, log_ratio - 0.25):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_unbiased(wrong)


def test_an_hmc_without_its_accept_step_is_rejected(ppca, monkeypatch):
    """The broken twin: every proposal taken, at a step size for which one in three should not be."""
    sure = lambda ratio: torch.full_like(ratio, 1e-30)  # noqa: E731  its logarithm lies below any log ratio met here
    monkeypatch.setattr(hmc_module.torch, "rand_like", sure)
    x = torch.randn(1, DIM, dtype=torch.float64)
    path = AnnealedPath(ppca.model, None, x.repeat(1500, 1))
    betas, steps = sigmoidal_schedule(40), torch.full((39, 1500), 0.8, dtype=torch.float64)
    chains = annealing_module.run_chains(path, path.start(), betas, steps, 3)
    assert chains.acceptance.mean() < 0.9
    with pytest.raises(AssertionError, match="standard errors away"):
        check_unbiased(chains.log_weight - ppca.log_prob(x).detach())


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
    x = torch.randn(400, DIM, dtype=torch.float64)
    truth = ppca.log_prob(x).detach()
    gaps = []
    for num_distributions in (3, 8, 60):
        result = ais(ppca.model, x, num_chains=1, num_distributions=num_distributions, num_leapfrog=1)
        assert result.estimate.kind == "lower bound"
        gaps.append((result.estimate.per_image - truth)[:, None])
    check_rises(gaps, 0.0)
    assert gaps[-1].mean() > 0.2 * gaps[0].mean()


def test_from_the_exact_posterior_every_chain_gives_the_evidence(ppca):
    x = torch.randn(6, DIM, dtype=torch.float64)
    result = ais(ppca.model, x, guide=ppca.guide, num_chains=2, num_distributions=5, num_leapfrog=2)
    torch.testing.assert_close(result.estimate.per_image, ppca.log_prob(x).detach(), atol=1e-8, rtol=0)


def test_step_sizes_are_tuned_to_the_acceptance_aimed_at(ppca):
    x = torch.randn(20, DIM, dtype=torch.float64)
    result = ais(ppca.model, x, num_chains=4, num_distributions=60, num_leapfrog=3)
    assert 0.55 < result.acceptance.mean() < 0.85


def test_bidirectional_bounds_hold_the_evidence_between_them(ppca):
    """One leapfrog step: trajectories of several may come back to where they began, and a gap of 0.5 nats be left."""
    like = torch.zeros(1, DIM, dtype=torch.float64)
    result = bdmc(ppca.model, 300, like, num_chains=4, num_distributions=60, num_leapfrog=1)
    truth = exact(ppca.log_prob, result.images).per_image
    assert (result.lower.kind, result.upper.kind) == ("lower bound", "upper bound")
    check_brackets(result.lower.per_image, truth, result.upper.per_image, largest_gap=0.2)
    torch.testing.assert_close(result.gap.per_image, result.upper.per_image - result.lower.per_image)


def test_the_reverse_chain_is_unbiased_for_the_inverse_of_the_evidence(ppca):
    """At a noise of 1.5: 1 / w' has no largest value, and where σ is small beside W, not even a variance."""
    ppca.log_sigma.data.fill_(math.log(1.5))
    like = torch.zeros(1, DIM, dtype=torch.float64)
    result = bdmc(ppca.model, 2000, like, num_chains=1, num_distributions=10, num_leapfrog=2)
    log_ratio = exact(ppca.log_prob, result.images).per_image - result.upper.per_image
    check_unbiased(log_ratio)
    for wrong in (log_ratio + 0.25, log_ratio - 0.25):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_unbiased(wrong)


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


def test_the_adaptive_schedule_puts_the_steps_where_the_path_is_long():
    """Var(log ratio) = 1 / β²: the length from a to b is log(b / a), so that equal lengths are equal ratios of β."""
    betas = torch.linspace(0.01, 1, 400, dtype=torch.float64)
    ratios = torch.randn(399, 500, 3, dtype=torch.float64) / betas[:-1, None, None]
    steps = equal_lengths(betas, ratios).log().diff()
    assert steps.std() / steps.mean() < 0.1
    assert betas.log().diff().std() > betas.log().diff().mean()


@pytest.mark.parametrize("reverse", [False, True])
def test_with_equal_variances_the_adaptive_schedule_is_linear(reverse):
    betas = sigmoidal_schedule(30).flip(0) if reverse else sigmoidal_schedule(30)
    found = equal_lengths(betas, torch.tensor([-1.0, 1.0]).expand(29, 2)[:, :, None])
    torch.testing.assert_close(found, torch.linspace(*betas[[0, -1]].tolist(), 30))


def test_a_peaked_posterior_is_reached_in_few_steps_if_they_are_well_spread(ppca):
    """Noise of 0.1: nearly all of the path lies at small β, where the sigmoid takes few steps."""
    ppca.log_sigma.data.fill_(math.log(0.1))
    with torch.no_grad():
        x = torch.randn(20, LATENT, dtype=torch.float64) @ ppca.W.T + 0.1 * torch.randn(20, DIM, dtype=torch.float64)
    truth, gaps = ppca.log_prob(x).detach(), {}
    for schedule in ("sigmoidal", "adaptive"):
        result = ais(ppca.model, x, num_chains=2, num_distributions=60, num_leapfrog=4, schedule=schedule)
        gaps[schedule] = float((truth - result.estimate.per_image).mean())
    assert gaps["adaptive"] < 0.7 * gaps["sigmoidal"]


def test_an_adaptive_run_is_unbiased_for_the_evidence_itself(ppca):
    x = torch.full((1, DIM), 0.3, dtype=torch.float64)
    check_unbiased(weights_of_one_image(ppca, x, 1000, num_distributions=40, num_leapfrog=3, schedule="adaptive"))


@pytest.mark.parametrize("schedule", ["linear", lambda n: torch.linspace(0, 2, n), lambda n: torch.zeros(n)])
def test_a_schedule_that_leads_elsewhere_is_refused(ppca, schedule):
    with pytest.raises(UserError, match="schedule"):
        ais(ppca.model, torch.zeros(2, DIM, dtype=torch.float64), num_distributions=5, schedule=schedule)


class ImplicitDecoder(torch.nn.Module):
    """x = G(z) seen through N(x; G(z), σ²): how Wu et al. (2017) give a generator a likelihood."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            image = pyro.deterministic("image", torch.cat([z.sin(), z.tanh(), z], -1), event_dim=1)
            pyro.sample("x", dist.Normal(image, 0.3).to_event(1), obs=x)


def test_a_generator_seen_through_a_gaussian_has_the_evidence_of_quadrature():
    x = torch.tensor([[0.5, 0.4, 0.6]], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    image = torch.cat([grid.sin(), grid.tanh(), grid], -1)
    joint = dist.Normal(0.0, 1.0).log_prob(grid[:, 0]) + dist.Normal(image, 0.3).log_prob(x).sum(1)
    truth = (joint.logsumexp(0) + math.log(16 / 20_000)).item()
    result = ais(ImplicitDecoder().model, x.repeat(800, 1), num_chains=1, num_distributions=30, num_leapfrog=4)
    check_unbiased(result.estimate.per_image - truth)


def test_estimates_carry_the_error_of_their_chains(ppca):
    x = torch.randn(1, DIM, dtype=torch.float64)
    result = ais(ppca.model, x.repeat(200, 1), num_chains=8, num_distributions=30, num_leapfrog=3)
    spread = result.estimate.per_image.std()
    assert 0.7 < float(result.estimate.noise.mean() / spread) < 1.3
    gap = bdmc(ppca.model, 5, x, num_chains=8, num_distributions=20, num_leapfrog=2).gap
    assert gap.noise.isnan().all()  # one posterior draw for all backward chains


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


class Nested(torch.nn.Module):
    """u ~ U(0, 1), v ~ U(0, u): the support of v moves with u."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            u = pyro.sample("u", dist.Uniform(0.0, 1.0))
            v = pyro.sample("v", dist.Uniform(0.0, u))
            pyro.sample("x", dist.Normal(v, 1.0), obs=x[:, 0])


class PixelsOutside(torch.nn.Module):
    def model(self, x):
        with pyro.plate("pixels", x.shape[1], dim=-2), pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


@pytest.mark.parametrize(
    ("model", "message"),
    [(Nested().model, "support of site 'v' depends on another"), (PixelsOutside().model, "images' plate outermost")],
)
def test_latents_that_it_would_anneal_wrongly_are_refused(model, message):
    with pytest.raises(UserError, match=message):
        ais(model, torch.zeros(3, 2), num_distributions=5)
