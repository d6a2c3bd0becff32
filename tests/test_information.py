"""Likelihood, cross-entropy and KL: against sums over all outcomes, closed forms, and what they must obey."""

import math

import pytest
import torch
from laws import check_coverage, check_equal
from torch.distributions import Categorical, MultivariateNormal, Normal
from torch.distributions import kl_divergence as closed_form

from probgen.errors import UserError
from probgen.inference import cross_entropy, entropy, exact, kl_divergence
from probgen.inference.batches import BatchOrder
from probgen.inference.objective import step_objective
from probgen.models import MultivariateGaussian

P, Q = (Categorical(torch.tensor(p, dtype=torch.float64)) for p in ((0.7, 0.2, 0.1), (0.05, 0.5, 0.45)))
H_P, H_PQ = (-float(P.probs @ q.probs.log()) for q in (P, Q))


def check_covers(estimates, truth):
    """Intervals at their rate; those of `truth` a little off, or of the other sign, are not."""
    values, errors = [e.value for e in estimates], [e.stderr for e in estimates]
    check_coverage(values, errors, truth)
    for wrong in (-truth, truth + 3 * errors[0]):
        with pytest.raises(AssertionError, match="cover"):
            check_coverage(values, errors, wrong)
    assert {e.kind for e in estimates} == {"estimate"}


def test_the_cross_entropy_covers_the_sum_over_outcomes():
    check_covers([cross_entropy(P, Q, 300) for _ in range(300)], H_PQ)


def test_the_divergence_covers_cross_entropy_less_entropy_and_not_that_of_q_from_p():
    found = [kl_divergence(P, Q, 600) for _ in range(300)]
    check_covers(found, H_PQ - H_P)
    check_equal(H_PQ - H_P, closed_form(P, Q))
    turned = float(closed_form(Q, P))
    assert abs(turned - (H_PQ - H_P)) > 0.3  # not symmetric
    with pytest.raises(AssertionError, match="cover"):
        check_coverage([e.value for e in found], [e.stderr for e in found], turned)


def test_with_the_same_draws_it_is_one_less_the_other():
    numbers = []
    for measure in (lambda: cross_entropy(P, Q, 50), lambda: entropy(P, 50), lambda: kl_divergence(P, Q, 50)):
        torch.manual_seed(3)
        numbers.append(measure().value)
    check_equal(numbers[0] - numbers[1], numbers[2])


def test_of_equal_densities_it_is_nothing_and_between_gaussians_the_closed_form():
    p, q = (
        MultivariateNormal(torch.full((2,), mean).double(), scale * torch.eye(2).double())
        for mean, scale in ((0, 1), (1, 2))
    )
    assert kl_divergence(p, p, 10).value == 0
    found = [kl_divergence(p, q, 300) for _ in range(300)]
    check_covers(found, float(closed_form(p, q)))


def test_where_q_gives_no_mass_it_is_infinite():
    p, q = (density(torch.zeros(1), torch.eye(1)) for density in (MultivariateNormal, Nowhere))
    assert kl_divergence(p, q, 10).value == math.inf


class Nowhere(MultivariateNormal):
    """No density at all, anywhere that is drawn."""

    def log_prob(self, value):
        return torch.full((len(value),), -math.inf)


def test_minus_the_mean_log_likelihood_is_the_cross_entropy_of_the_data_and_the_fit_its_minimum():
    """H(p̂, p_θ) = −1/N log L(θ) ≥ H(p̂, p_θ*): of the Gaussian that has the data's moments it is the entropy."""
    x = torch.randn(40, 2).double() @ torch.tensor([[1.0, 0.5], [0.0, 0.3]]).double()
    fitted = MultivariateGaussian((2,)).double().maximum_likelihood(x)
    least = -exact(fitted.log_prob, x).value
    check_equal(least, fitted.density().entropy().detach())
    data = MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    other = MultivariateNormal(torch.ones(2).double(), 2 * torch.eye(2).double())
    check_equal(-exact(other.log_prob, x).value - least, closed_form(data, other))


def gradient(model, x):
    """∇ of the mean log-likelihood with respect to μ, from the loss of a training step."""
    (slope,) = torch.autograd.grad(-step_objective(model)(x).loss, [model.mu])
    return slope


def test_gradients_of_the_batches_of_an_epoch_average_to_that_of_the_log_likelihood():
    """1/N ∇_μ log L(θ) = Σ⁻¹ (x̄ − μ); no batch has it, their mean does."""
    x = torch.randn(60, 2).double() + 3
    model = MultivariateGaussian((2,)).double()
    model.log_diagonal.data = torch.tensor([0.3, -0.4]).double()
    expected = (x.mean(0) - model.mu.detach()) / (2 * model.log_diagonal.detach()).exp()
    order = BatchOrder(60, 20, seed=0)
    batches = torch.stack([gradient(model, x[order.rows(step)]) for step in range(3)])
    check_equal(batches.mean(0), expected)
    for twin in (batches[0], batches.sum(0), torch.stack([gradient(model, x[:20])] * 3).mean(0)):
        with pytest.raises(AssertionError):
            check_equal(twin, expected)


@pytest.mark.parametrize("measure", [cross_entropy, kl_divergence])
def test_what_has_no_error_is_refused(measure):
    with pytest.raises(UserError, match="num_samples=1 came, expected 2 or more"):
        measure(P, Q, 1)
    batch = Categorical(torch.ones(4, 3))
    for pair in ((batch, Q), (P, batch)):
        with pytest.raises(UserError, match=r"a batch of densities of shape \(4,\) came"):
            measure(*pair)
    with pytest.raises(UserError, match=r"over numbers of shape \(2,\) and \(\) came"):
        measure(MultivariateNormal(torch.zeros(2), torch.eye(2)), Normal(0.0, 1.0))
