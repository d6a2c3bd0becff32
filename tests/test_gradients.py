"""Two estimators of one gradient: equal means, the exact one, and very different variances."""

import math

import pytest
import torch
from laws import check_estimate
from test_gaps import LinearGuide

from probgen.inference.gradients import GradientStudy, gradient_study
from probgen.inference.traces import trace_pair
from probgen.models import ProbabilisticPCA


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
    study = gradient_study(model.model, guide.guide, x, parameters, estimator, 1200)
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
