"""NUTS, the guide and the KL between them against posteriors that are known; every statistic sees a broken twin."""

import io
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_coverage
from oracles import ExactLinearGaussian, LinearGaussian, array, diagonal_gaussian_kl, linear_gaussian_posterior
from PIL import Image
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.inference import diagnostics, nuts
from probgen.inference.arviz_bridge import ess, netcdf, r_hat, to_arviz
from probgen.inference.diagnosis import Diagnosis
from probgen.inference.diagnostics import bounds, diagnose, guide_weights, marginals_of
from probgen.inference.estimates import Estimate
from probgen.models import Autoencoder, MultivariateGaussian, ProbabilisticPCA
from probgen.plots import figure_png
from probgen.plots import posterior as plots_posterior

SHORT = {"num_chains": 2, "num_samples": 150, "warmup": 100}
ONE = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)


def run(pair, x=ONE, **options) -> Diagnosis:
    return diagnose(pair.model, pair.guide, x, **(SHORT | options))


def check_mcmc(draws: Tensor, exact, *, largest_error: float, num_errors: float = 4.5) -> None:
    """The mean of dependent draws `chain draw …` lies within a few standard errors, by effective sample size."""
    error = array(draws.flatten(0, 1).std(0)) / np.sqrt(array(ess(draws, "mean")))
    assert np.max(error) <= largest_error, f"standard error {np.max(error):.2g}: no power"
    off = np.abs(array(draws.mean((0, 1))) - exact) / error
    assert np.max(off) < num_errors, f"{np.max(off):.1f} standard errors away"


def check_posterior_of(pair: LinearGaussian, draws: Tensor) -> None:
    """First and second moments of NUTS draws against p(z | x) in closed form."""
    mean, covariance = linear_gaussian_posterior(ONE, *pair.known())
    check_mcmc(draws, mean[0], largest_error=0.15)
    centred = draws - torch.tensor(mean[0])
    check_mcmc(centred[..., None] * centred[..., None, :], covariance, largest_error=0.2)


class Guided(LinearGaussian):
    """A Gaussian guide that stands where one wants it, in units of the posterior's standard deviations."""

    def __init__(self, shift: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        self.shift, self.spread = shift, spread

    def guide_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, covariance = linear_gaussian_posterior(x, *self.known())
        sd = torch.tensor(np.sqrt(np.diag(covariance)))
        return torch.tensor(mean) + self.shift * sd, self.spread * sd

    def guide(self, x: Tensor) -> None:
        mean, sd = self.guide_moments(x)
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(mean, sd).to_event(1))


@pytest.fixture(scope="module")
def linear() -> tuple[LinearGaussian, Diagnosis]:
    pair = LinearGaussian()
    return pair, run(pair)


# --- NUTS


def test_nuts_draws_have_the_moments_of_the_posterior(linear):
    pair, diagnosis = linear
    check_posterior_of(pair, diagnosis.posterior["z"])


def test_the_posterior_of_another_noise_is_rejected(linear):
    """The broken twin: the same draws against a model whose σ is 1.5 times as large."""
    twin = LinearGaussian()
    twin.sigma *= 1.5
    with pytest.raises(AssertionError, match="standard errors away"):
        check_posterior_of(twin, linear[1].posterior["z"])


class Coin(nn.Module):
    """z ~ Beta(2, 3), each pixel ~ Bernoulli(z): the posterior is a Beta, and known to the guide."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Beta(torch.tensor(2.0).double(), 3.0))
            pyro.sample("x", dist.Bernoulli(z[..., None].expand(x.shape)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Beta(2 + x.sum(-1), 3 + (1 - x).sum(-1)))


def test_a_latent_on_an_interval():
    """Beta(6, 4) has mean 0.6 and variance 0.24 / 11."""
    diagnosis = run(Coin(), torch.tensor([[1.0, 1, 1, 0, 1]], dtype=torch.float64))
    draws = diagnosis.posterior["z"]
    assert draws.shape == diagnosis.guide["z"].shape == (2, 150)
    assert 0 < draws.min() < draws.max() < 1
    check_mcmc(draws, 0.6, largest_error=0.02)
    check_mcmc((draws - 0.6) ** 2, 0.24 / 11, largest_error=0.004)
    assert abs(diagnosis.kl.value) < 1e-9
    assert [m.name for m in diagnosis.marginals] == ["z"]


class Plated(nn.Module):
    """Two sites, one of them in a plate outside the images': z_i ~ N(0, 1), s ~ N(0, 1), x ~ N(Σ z + s, 1)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x), dim=-1):
            with pyro.plate("inner", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            s = pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal((z.sum(0) + s)[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x), dim=-1):
            with pyro.plate("inner", 3, dim=-2):
                pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("s", dist.Normal(torch.zeros(()).double(), 1.0))


def test_plates_inside_the_image():
    """x ~ N(0, 5) and each latent has covariance 1 with it: p(z_i | x) = N(x / 5, 1 − 1/5)."""
    diagnosis = run(Plated(), torch.tensor([[3.0]], dtype=torch.float64), num_particles=5000)
    assert [m.name for m in diagnosis.marginals] == ["z[0]", "z[1]", "z[2]", "s"]
    draws = torch.cat([diagnosis.posterior["z"], diagnosis.posterior["s"][..., None]], -1)
    check_mcmc(draws, 0.6, largest_error=0.15)
    check_mcmc((draws - 0.6) ** 2, 0.8, largest_error=0.2)
    # KL(N(0, I) ‖ N(m, C)) with C⁻¹ = I + 1 1ᵀ, |C| = 1/5, m = 0.6 · 1
    exact = 0.5 * ((4 + 4) - 4 + 0.36 * (4 + 16) + math.log(1 / 5))
    assert diagnosis.kl.value < exact + 4.5 * diagnosis.kl.stderr
    assert diagnosis.elbo.value == pytest.approx(
        -0.5 * math.log(2 * math.pi) - 0.5 * (9 + 4), abs=4.5 * diagnosis.elbo.stderr
    )


class Folded(nn.Module):
    """z ~ N(0, 1), x ~ N(z², 0.1²): two modes, ±√x, of which the guide knows one."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] ** 2, 0.1).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0].sqrt(), 0.05))


def test_chains_that_do_not_meet_are_told():
    """From the prior they end in both modes; from the guide they cannot know of the other."""
    x = torch.tensor([[1.5]], dtype=torch.float64)
    apart, together = (run(Folded(), x, start=start, num_chains=4, num_samples=50) for start in ("prior", "guide"))
    assert apart.marginals[0].r_hat > 1.1
    assert not apart.converged
    assert "has not converged: R̂ of z" in apart.warnings()[0]
    assert together.marginals[0].r_hat < 1.1
    assert (together.posterior["z"] > 0).all()


@pytest.fixture
def standing_still(monkeypatch):
    """NUTS that never moves."""

    def sample(self, params):
        self._t += 1
        return params

    monkeypatch.setattr(nuts.NUTS, "sample", sample)


class Sharp(Coin):
    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Beta(torch.tensor(2000.0).double(), 8000.0))


@pytest.mark.usefixtures("standing_still")
def test_chains_start_at_draws_of_the_guide():
    draws = run(Sharp(), torch.ones(1, 3, dtype=torch.float64)).posterior["z"]
    assert (draws - 0.2).abs().max() < 0.03
    assert len(draws.unique()) == 2


@pytest.mark.usefixtures("standing_still")
def test_a_chain_that_stands_still_is_told():
    diagnosis = run(LinearGaussian())
    assert diagnosis.marginals[0].r_hat > 1.1
    assert not diagnosis.converged
    json.dumps(diagnosis.to_json(), allow_nan=False)


def test_same_seed_same_draws_and_the_generators_are_left_alone():
    pair = LinearGaussian()
    short = {"num_chains": 1, "num_samples": 5, "warmup": 5}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (run(pair, seed=seed, **short) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    more = run(pair, seed=1, **(short | {"num_chains": 2}))
    assert torch.equal(first.posterior["z"], again.posterior["z"])
    assert first.kl == again.kl
    assert torch.equal(first.posterior["z"], more.posterior["z"][:1])
    assert not torch.equal(more.posterior["z"][0], more.posterior["z"][1])
    assert not torch.equal(first.posterior["z"], other.posterior["z"])
    assert first.kl != other.kl


def test_the_pair_is_left_in_its_mode():
    pair = ProbabilisticPCA((3,), latent_dim=1)
    pair.train()
    run(pair, ONE.float(), num_chains=1, num_samples=4, warmup=2)
    assert pair.training


# --- the guide


def test_the_exact_posterior_as_guide_loses_nothing():
    pair = ExactLinearGaussian()
    diagnosis = run(pair)
    assert abs(diagnosis.kl.value) < 1e-9
    assert diagnosis.pareto_k == -math.inf
    assert diagnosis.trusted
    assert diagnosis.evidence.value == pytest.approx(pair.evidence(ONE)[0])
    assert all(abs(m.shift) < 0.4 and 0.7 < m.spread < 1.4 and m.mismatch < 0.1 for m in diagnosis.marginals)
    assert not any("Pareto" in warning for warning in diagnosis.warnings())


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 0.5), (1.5, 1.0)])
def test_a_guide_that_is_too_narrow_or_beside_shows(shift, spread):
    """The broken twins of the last test."""
    diagnosis = run(Guided(shift, spread))
    for marginal in diagnosis.marginals:
        assert marginal.shift == pytest.approx(shift, abs=0.4)
        assert marginal.spread == pytest.approx(spread, rel=0.3)
        assert marginal.mismatch > 0.1
    assert diagnosis.kl.value > 0.1


def test_the_marginals_of_draws_whose_moments_are_known():
    draw = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])).sample
    posterior, guide = draw((4, 5000)), draw((4, 5000)) * 0.5
    for place, marginal in enumerate(marginals_of("z", posterior, guide)):
        mean, sd = [1.0, -2.0][place], [2.0, 0.5][place]
        assert marginal.name == f"z[{place}]"
        assert marginal.posterior_mean == pytest.approx(mean, abs=0.1)
        assert marginal.shift == pytest.approx(-0.5 * mean / sd, abs=0.05)
        assert marginal.spread == pytest.approx(0.5, abs=0.02)
        exact = diagonal_gaussian_kl(0.5 * mean, 0.5 * sd, mean, sd)
        assert marginal.mismatch == pytest.approx(float(exact), rel=0.1)
        assert marginal.r_hat < 1.01
        assert marginal.ess > 10_000


def test_a_site_of_many_axes_names_each_dimension():
    names = [m.name for m in marginals_of("w", torch.randn(2, 10, 2, 3), torch.randn(2, 10, 2, 3))]
    assert names == ["w[0,0]", "w[0,1]", "w[0,2]", "w[1,0]", "w[1,1]", "w[1,2]"]


# --- evidence, ELBO, KL


class Tractable(LinearGaussian):
    def log_prob(self, x: Tensor) -> Tensor:
        return torch.tensor(self.evidence(x))


def test_elbo_evidence_and_kl_in_closed_form(linear):
    pair, diagnosis = linear
    log_likelihood, kl = pair.terms(ONE)
    elbo, evidence = float(log_likelihood[0] - kl[0]), float(pair.evidence(ONE)[0])
    assert diagnosis.elbo.stderr < 0.2
    assert abs(diagnosis.elbo.value - elbo) < 4.5 * diagnosis.elbo.stderr
    assert (diagnosis.evidence.kind, diagnosis.kl.kind) == ("lower bound", "lower bound")
    assert diagnosis.evidence.value < evidence + 4.5 * diagnosis.evidence.stderr
    assert diagnosis.kl.value < evidence - elbo + 4.5 * diagnosis.kl.stderr
    assert diagnosis.kl.value == pytest.approx(diagnosis.evidence.value - diagnosis.elbo.value)


@pytest.mark.parametrize("pair", [Tractable(), LinearGaussian()], ids=["exact", "lower bound"])
def test_the_error_of_the_kl_covers_it(pair):
    """Of many estimates of the KL, 95 in 100 lie within 1.96 of their errors; halved errors would not do."""
    x = Tractable().data(1, seed=3)
    log_likelihood, kl = pair.terms(x)
    truth = float((pair.evidence(x) - log_likelihood + kl)[0])
    with pyro.validation_enabled(False):
        found = [bounds(pair.model, x, guide_weights(pair.model, pair.guide, x, 2000))[2] for _ in range(300)]
    assert {estimate.kind for estimate in found} == {"estimate" if isinstance(pair, Tractable) else "lower bound"}
    values, errors = [e.value for e in found], np.array([e.stderr for e in found])
    assert abs(np.mean(values) - truth) < 4.5 * np.std(values) / 300**0.5 + 0.01  # the bias of the bound: of order 1/K
    check_coverage(values, errors, np.mean(values))
    with pytest.raises(AssertionError):
        check_coverage(values, errors / 2, np.mean(values))


def test_exact_evidence_has_no_error_of_its_own():
    diagnosis = run(Tractable(), num_chains=1, num_samples=4, warmup=2)
    record = diagnosis.to_json()
    assert record["evidence"]["kind"] == "exact"
    assert record["evidence"]["value"] == pytest.approx(Tractable().evidence(ONE)[0])
    assert record["kl"]["kind"] == "estimate"
    assert record["kl"]["stderr"] == pytest.approx(record["elbo"]["stderr"])


def test_weights_of_a_heavy_tail_are_not_trusted():
    diagnosis = run(Guided(spread=0.25), num_chains=1, num_samples=4, warmup=2)
    assert diagnosis.pareto_k > diagnosis.pareto_k_threshold == pytest.approx(2 / 3)
    assert not diagnosis.trusted
    assert "the bound on log p(x) is loose" in diagnosis.warnings()[-1]


# --- what is refused


class Discrete(Coin):
    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z[..., None].expand(x.shape), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5))


class Point(LinearGaussian):
    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 2).double(), event_dim=1))


class Outside(Coin):
    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))


class Dependent(Coin):
    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            a = pyro.sample("a", dist.LogNormal(torch.zeros(()).double(), 1.0))
            b = pyro.sample("b", dist.Uniform(0.0, a))
            pyro.sample("x", dist.Normal(b[..., None].expand(x.shape), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            a = pyro.sample("a", dist.LogNormal(torch.zeros(()).double(), 1.0))
            pyro.sample("b", dist.Uniform(0.0, a))


class Improper(Coin):
    def model(self, x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
            pyro.sample("x", dist.Normal(z[..., None].expand(x.shape), 1.0).to_event(1), obs=x)


BITS = torch.ones(1, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("pair", "x", "says"),
    [
        (Discrete(), BITS, "'z' is discrete"),
        (Point(), BITS, "'z' is a point"),
        (Outside(), BITS, "not finite for"),
        (Dependent(), BITS, "support of site 'b' depends"),
        (Improper(), BITS, "improper prior"),
        (MultivariateGaussian((3,)), BITS.float(), "no latent site"),
        (Autoencoder((1, 4, 4), 2, latent_dim=2, hidden=(4,)), torch.ones(1, 1, 4, 4), "no posterior"),
        (Coin(), BITS.repeat(2, 1), "2 images came, expected one"),
        (Coin(), BITS[:0], "0 images came, expected one"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_pair_without_a_posterior_to_compare_is_refused(pair, x, says):
    with pytest.raises(UserError, match=says) as refusal:
        run(pair, x)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong", [{"num_chains": 0}, {"num_samples": 3}, {"warmup": -1}, {"num_particles": 24}, {"start": "map"}]
)
def test_numbers_that_tell_nothing_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(UserError, match=f"{name}={value!r} came, expected"):
        run(LinearGaussian(), **wrong)


# --- ArviZ, in either line


def test_r_hat_and_ess_of_chains_that_are_known():
    noise = torch.randn(4, 2000)
    series = [noise[:, 0]]
    for step in range(1, 2000):  # an autoregression: its draws are worth (1 − ρ) / (1 + ρ) independent ones
        series.append(0.8 * series[-1] + 0.6 * noise[:, step])
    draws = torch.stack([noise, torch.stack(series, 1), noise + 3.0 * torch.arange(4.0)[:, None]], -1)
    independent, slow, apart = r_hat(draws).tolist()
    assert independent < 1.01
    assert slow < 1.05
    assert apart > 1.1
    worth = ess(draws, "mean")
    assert worth[0] == pytest.approx(8000, rel=0.15)
    assert worth[1] == pytest.approx(8000 / 9, rel=0.25)
    assert worth[2] < 10
    assert r_hat(draws[:1]).isnan().all()
    assert r_hat(draws[..., 0]).shape == ()


def test_the_draws_as_arviz_has_them(linear):
    tree = linear[1].to_arviz()
    for group, draws in (("posterior", linear[1].posterior), ("guide", linear[1].guide)):
        variable = tree[group]["z"]
        assert variable.dims == ("chain", "draw", "z_dim_0")
        np.testing.assert_array_equal(variable.values, draws["z"].numpy())


def test_groups_with_and_without_draws():
    groups = {
        "posterior_predictive": {"x": np.zeros((2, 6, 5, 3))},
        "log_likelihood": {"x": np.zeros((2, 6, 5))},
        "observed_data": {"x": np.ones((5, 3))},
    }
    tree = to_arviz(groups, {"x": ["image", "pixel"]})
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "image", "pixel")
    assert tree["log_likelihood"]["x"].dims == ("chain", "draw", "image")
    assert tree["observed_data"]["x"].dims == ("image", "pixel")
    assert float(tree["observed_data"]["x"].sum()) == 15


def test_a_netcdf_file_where_a_library_writes_one(linear):
    written = netcdf(linear[1].to_arviz())
    assert written is None or written[:4] in (b"\x89HDF", b"CDF\x01")


# --- what is said and drawn


def made(num_dims: int, num_chains: int = 4, offset: float = 0.0, divergences: int = 0) -> Diagnosis:
    """A diagnosis of draws from Gaussians, without NUTS; `offset` sets chains apart."""
    posterior = torch.randn(num_chains, 500, num_dims) + offset * torch.arange(float(num_chains))[:, None, None]
    guide = torch.randn(num_chains, 500, num_dims) * 0.7 + 0.5
    number = Estimate.of(torch.tensor([-3.0]), "lower bound", 1000, torch.tensor([0.1]))
    rows = tuple(marginals_of("z", posterior, guide))
    return Diagnosis({"z": posterior}, {"z": guide}, rows, divergences, 0.9, number, number, number)


def test_what_speaks_against_the_numbers_is_said():
    assert len(made(2).warnings()) == 1  # the tail
    assert made(2).converged
    for diagnosis, says in (
        (made(2, offset=2.0), "has not converged"),
        (made(2, num_chains=1), "one chain"),
        (made(2, divergences=3), "3 of 2000 NUTS transitions diverged"),
        (made(2, offset=0.3), "independent ones, under 400"),
    ):
        assert any(says in warning for warning in diagnosis.warnings()), says
        assert not diagnosis.converged


@pytest.mark.parametrize("num_dims", [1, 2, 5, 20])
@pytest.mark.parametrize("draw", [plots_posterior.marginals, plots_posterior.pairs, plots_posterior.chains])
def test_each_figure_is_drawn(draw, num_dims):
    picture = figure_png(draw(made(num_dims)))
    with Image.open(io.BytesIO(picture)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 10
    assert min(pixels.shape[:2]) > 200


def test_the_figures_show_the_worst():
    diagnosis = made(20)
    shown = [axis.get_title().split(":")[0] for axis in plots_posterior.marginals(diagnosis).axes]
    assert shown == [m.name for m in diagnosis.worst[:16]]
    posterior = torch.randn(1000, 6)
    posterior[:, 4] = posterior[:, 1] + 0.1 * torch.randn(1000)
    assert plots_posterior.most_entangled(posterior.numpy(), torch.randn(1000, 6).numpy(), 2) == [1, 4]


def test_a_diagnosis_reads_as_json():
    record = json.loads(json.dumps(made(3, num_chains=1).to_json(), allow_nan=False))
    assert record["r_hat"] is None
    assert [m["name"] for m in record["marginals"]] == ["z[0]", "z[1]", "z[2]"]
    assert diagnostics.Diagnosis is Diagnosis
