"""The gaps of inference, on a linear-Gaussian model where both are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from probgen.inference import elbo_terms, exact
from probgen.inference.gaps import inference_gaps
from probgen.models import ProbabilisticPCA


class LinearGuide(nn.Module):
    """q(z | x) = N(A x, diag(s²)): a Gaussian that is not the best one."""

    def __init__(self):
        super().__init__()
        self.A, self.log_s = nn.Parameter(0.2 * torch.randn(2, 5)), nn.Parameter(torch.full((2,), -1.0))

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x @ self.A.T, self.log_s.exp()).to_event(1))


@pytest.fixture
def setting():
    model = ProbabilisticPCA((5,), latent_dim=2).double()
    model.W.data = torch.tensor([[1.0, 0.5], [0.8, -0.2], [0.3, 0.9], [-0.5, 0.4], [1.2, 1.0]], dtype=torch.float64)
    model.log_sigma.data.fill_(math.log(0.7))
    return model, LinearGuide().double(), torch.randn(6, 5, dtype=torch.float64)


def test_both_gaps_match_their_closed_forms(setting):
    model, own, x = setting
    gaps = inference_gaps(model.model, own.guide, x, exact(model.log_prob, x), steps=300, num_final=2000)
    precision = (model.W.T @ model.W / math.exp(2 * model.log_sigma.item()) + torch.eye(2)).detach()
    # The best factorized Gaussian has the posterior's mean and the precision's diagonal: its KL is this for every x.
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert approximation > 0.05
    assert abs(gaps.approximation.per_image.mean() - approximation) < 0.03
    elbo = elbo_terms(model.model, own.guide, x, 2000).elbo
    total = model.log_prob(x).detach() - elbo
    assert (total > 0.2).any()
    assert abs((gaps.approximation.per_image + gaps.amortization.per_image - total).mean()) < 0.2


def test_a_guide_that_is_the_posterior_has_no_amortization_gap(setting):
    model, _, x = setting
    model.W.data = torch.linalg.qr(model.W.data).Q  # orthogonal columns: the posterior factorizes
    gaps = inference_gaps(model.model, model.guide, x, exact(model.log_prob, x), steps=200, num_final=1000)
    assert abs(gaps.amortization.value) < 0.02
    assert abs(gaps.approximation.value) < 0.02


def test_gaps_are_estimates_with_errors_and_leave_the_model_alone(setting, monkeypatch):
    model, own, x = setting
    monkeypatch.setattr("probgen.inference.gaps.CHUNK", 128)  # two images at a time
    gaps = inference_gaps(model.model, own.guide, x, exact(model.log_prob, x), steps=300, num_final=60)
    assert (gaps.approximation.kind, gaps.amortization.kind) == ("estimate", "estimate")
    for estimate in (gaps.elbo, gaps.best_elbo, gaps.approximation, gaps.amortization):
        assert len(estimate) == 6
        assert (estimate.noise > 0).all()
    assert all(p.grad is None for p in [*model.parameters(), *own.parameters()])
    whole = gaps.approximation.per_image + gaps.amortization.per_image
    torch.testing.assert_close(whole, model.log_prob(x).detach() - gaps.elbo.per_image)


def test_a_guide_beyond_factorized_gaussians_has_a_negative_amortization_gap(setting):
    model, _, x = setting
    gaps = inference_gaps(model.model, model.guide, x, exact(model.log_prob, x), steps=300, num_final=500)
    assert gaps.amortization.value < -0.05
    assert abs(gaps.approximation.value + gaps.amortization.value) < 0.02
