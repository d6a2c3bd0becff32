"""Two estimators of one gradient: equal means, the exact one, and very different variances."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import ok, picture, refused, trained
from laws import check_estimate
from test_gaps import LinearGuide

from probgen.errors import UserError
from probgen.inference.gradients import GradientStudy, compare_gradients, gradient_study
from probgen.inference.traces import trace_pair
from probgen.models import ProbabilisticPCA

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests


def exact_elbo(model, guide, x):
    """E_q[log p(x, z)] + H(q) for z ~ N(A x, diag s²), in closed form and differentiable."""
    W, mu, variance = model.W.detach(), model.mu.detach(), math.exp(2 * model.log_sigma.item())
    mean, s2 = x @ guide.A.T, (2 * guide.log_s).exp()
    residual = x - mu - mean @ W.T
    likelihood = -0.5 * (residual.square().sum(1) + (W.square() @ s2).sum()) / variance
    likelihood = likelihood - 0.5 * x.shape[1] * math.log(2 * math.pi * variance)
    prior = -0.5 * (mean.square().sum(1) + s2.sum()) - math.log(2 * math.pi)
    entropy = guide.log_s.sum() + 1 + math.log(2 * math.pi)
    return (likelihood + prior + entropy).mean()


@pytest.fixture
def setting():
    model = ProbabilisticPCA((5,), latent_dim=2).double()
    model.W.data.normal_()
    guide, x = LinearGuide().double(), torch.randn(4, 5, dtype=torch.float64)
    parameters = [guide.A, guide.log_s]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(exact_elbo(model, guide, x), parameters)])
    return model, guide, x, parameters, gradient


@pytest.mark.parametrize("estimator", ["reparameterized", "score-function"])
def test_its_mean_is_the_exact_gradient(setting, estimator):
    model, guide, x, parameters, gradient = setting
    study = gradient_study(model.model, guide.guide, x, parameters, estimator, 800)
    check_estimate(study.draws, gradient, largest_error=float(gradient.norm()) / 4)


def test_reparameterization_has_a_small_part_of_the_variance(setting):
    model, guide, x, parameters, _ = setting
    variances = [
        gradient_study(model.model, guide.guide, x, parameters, estimator, 300).variance.mean()
        for estimator in ("reparameterized", "score-function")
    ]
    assert variances[1] > 10 * variances[0]


def test_a_path_that_is_cut_without_the_score_is_rejected(setting):
    """The broken twin: z a constant, and no ∇ log q term in its place."""
    model, guide, x, parameters, gradient = setting
    sites = [trace_pair(model.model, guide.guide, x, detach=True) for _ in range(300)]
    elbos = [(s[0].log_p - s[0].log_q + s[1].log_p).mean() for s in sites]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(elbo, parameters)]) for elbo in elbos]
    study = GradientStudy(torch.stack(rows))
    with pytest.raises(AssertionError):
        check_estimate(study.draws, gradient, largest_error=float(gradient.norm()) / 4)


def test_both_estimators_are_compared_in_the_same_coordinates(setting, monkeypatch):
    model, guide, x, parameters, gradient = setting
    monkeypatch.setattr("probgen.inference.gradients.MOST_COORDINATES", 6)
    comparison = compare_gradients(model.model, guide.guide, x, parameters, 500)
    assert comparison.num_parameters == 12
    for study in (comparison.reparameterized, comparison.score_function):
        check_estimate(study.draws, gradient[::2], largest_error=float(gradient.norm()) / 4)
    assert comparison.variance_ratio > 10
    assert 0.2 < comparison.disagreement < 2.5
    assert comparison.to_json()["coordinates"] == 6


def test_a_biased_estimator_shows_as_a_disagreement(setting):
    model, guide, x, parameters, _ = setting
    comparison = compare_gradients(model.model, guide.guide, x, parameters, 200)
    biased = GradientStudy(comparison.reparameterized.draws + 10 * comparison.score_function.stderr)
    assert replace(comparison, reparameterized=biased).disagreement > 5


def test_parameters_that_the_guide_does_not_use_are_left_out(setting):
    model, guide, x, parameters, _ = setting
    comparison = compare_gradients(model.model, guide.guide, x, [*model.parameters(), *parameters], 10)
    assert comparison.num_parameters == 12


class Discrete(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("images", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c[:, None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=self.logit))


def test_where_one_of_the_two_does_not_exist_it_is_said():
    pair = Discrete()
    with pytest.raises(UserError, match="'c': Bernoulli has no reparameterized draws"):
        compare_gradients(pair.model, pair.guide, torch.zeros(2, 3), list(pair.parameters()), 10)


def test_a_guide_without_parameters_has_no_gradient(setting):
    model, _, x, _, _ = setting

    def prior(x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))

    with pytest.raises(UserError, match="no parameters"):
        compare_gradients(model.model, prior, x, list(model.parameters()), 10)


def test_the_command_prints_and_draws_them(tmp_path):
    result = ok("gradients", trained("vae"), "--draws", 20, "--out", tmp_path / "g.png")
    for text in ("reparameterized", "score function", "times the other's", "20 draws"):
        assert text in result.stdout
    assert picture(tmp_path / "g.png").shape[1] > 800
    found = ok("gradients", trained("vae"), "--draws", 20, "--json").json
    assert found["estimators"].keys() == {"reparameterized", "score-function"}
    assert found["variance_ratio"] > 1


@pytest.mark.parametrize(
    ("run", "args", "says"),
    [
        ("vae", ("--draws", 9), "--draws 9 came"),
        ("vae", ("--num", 0), "--num 0 came"),
        ("vae", ("--out", "g.txt"), "ends in .png"),
        ("gaussian", (), "the guide has no parameters"),
        ("autoencoder", (), "there is no ELBO"),
    ],
)
def test_wrong_arguments_are_refused(run, args, says):
    refused("gradients", trained(run), *args, says=says)
