"""Distances of two sets of features: the closed form, numbers by hand, and twins that must fail."""

import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from probgen.errors import UserError
from probgen.measures import frechet_distance, kernel_distance, precision_recall, two_sample_test
from probgen.measures.two_sample import halves

MEAN = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)


def normal(count: int, size: int = 3) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64)


def closed_form(mean: Tensor, covariance: Tensor) -> float:
    """d² of N(0, I) and N(mean, covariance): |μ|² + Σ (1 - √λ)², λ the eigenvalues of the covariance."""
    return float(mean.square().sum() + (1 - torch.linalg.eigvalsh(covariance).sqrt()).square().sum())


def diagonal_frechet(samples: Tensor, real: Tensor) -> float:
    """The broken twin: without the covariances between features."""
    spread = (samples.std(dim=0) - real.std(dim=0)).square().sum()
    return float((samples.mean(dim=0) - real.mean(dim=0)).square().sum() + spread)


def with_moments(points: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The points moved so that their own mean and covariance are exactly these."""
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(points.T.cov()), (points - points.mean(dim=0)).T, upper=False
    )
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def test_frechet_distance_of_known_moments_is_the_closed_form():
    identity = torch.eye(3, dtype=torch.float64)
    real = with_moments(normal(50), torch.zeros(3, dtype=torch.float64), identity)
    samples = with_moments(normal(80), MEAN, COVARIANCE)
    exact = closed_form(MEAN, COVARIANCE)
    assert frechet_distance(samples, real) == pytest.approx(exact, abs=1e-9)
    assert frechet_distance(real, samples) == pytest.approx(exact, abs=1e-9)
    assert frechet_distance(samples + 1e4, real + 1e4) == pytest.approx(exact, abs=1e-6)
    assert diagonal_frechet(samples, real) != pytest.approx(exact, abs=1e-2)


def test_frechet_distance_of_draws_is_the_closed_form_within_its_noise():
    root, exact = torch.linalg.cholesky(COVARIANCE), closed_form(MEAN, COVARIANCE)
    pairs = [(normal(4000) @ root.T + MEAN, normal(4000)) for _ in range(16)]
    for distance, holds in ((frechet_distance, True), (diagonal_frechet, False)):
        numbers = torch.tensor([distance(*pair) for pair in pairs], dtype=torch.float64)
        assert (abs(float(numbers.mean()) - exact) < 4 * float(numbers.std()) / math.sqrt(len(pairs))) is holds


def test_frechet_distance_of_a_set_to_itself_is_zero():
    points = torch.cat([normal(200), torch.zeros(200, 2, dtype=torch.float64)], dim=1)  # two features that never vary
    assert 0 <= frechet_distance(points, points) < 1e-6
    assert 0 <= frechet_distance(points.flip(0), points) < 1e-6
    assert frechet_distance(points + 0.1, points) == pytest.approx(0.05, abs=1e-6)


# --- the kernel's distance


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def biased(samples: Tensor, real: Tensor) -> float:
    """The broken twin: pairs of a point with itself are counted."""
    return float(kernel(samples, samples).mean() + kernel(real, real).mean() - 2 * kernel(samples, real).mean())


def test_kernel_distance_by_hand():
    """k(0,1) = 1, k(2,3) = 7³ = 343, and between the sets 1, 1, 27 and 64: 1 + 343 - 2·93/4."""
    samples, real = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    distance = kernel_distance(samples, real, subsets=1)
    assert distance.value == pytest.approx(297.5)
    assert distance.stderr is None
    assert biased(samples, real) != pytest.approx(297.5)


def test_kernel_distance_is_the_mean_over_disjoint_subsets():
    samples, real = normal(21), normal(20)
    parts = [kernel_distance(samples[rows], real[rows], subsets=1).value for rows in (slice(0, 10), slice(10, 20))]
    both = kernel_distance(samples, real, subsets=2)
    assert (both.subsets, both.subset_size) == (2, 10)
    assert both.value == pytest.approx(sum(parts) / 2)
    assert both.stderr == pytest.approx(abs(parts[0] - parts[1]) / 2)  # s/√2 of two numbers


def test_kernel_distance_of_equal_laws_is_zero_within_its_error():
    samples, real = normal(2000), normal(2000)
    distance = kernel_distance(samples, real)
    assert distance.stderr is not None
    assert abs(distance.value) < 4 * distance.stderr
    subsets = [(samples[i : i + 200], real[i : i + 200]) for i in range(0, 2000, 200)]
    assert sum(biased(*pair) for pair in subsets) / 10 > 4 * distance.stderr
    other = kernel_distance(samples + 0.5, real)
    assert other.stderr is not None
    assert other.value > 4 * other.stderr


def overlapping(samples: Tensor, real: Tensor) -> tuple[float, float]:
    """The broken twin: 100 subsets of half of the points each, taken for independent."""
    order = [torch.randperm(len(samples))[: len(samples) // 2] for _ in range(100)]
    values = torch.tensor([kernel_distance(samples[rows], real[rows], subsets=1).value for rows in order])
    return float(values.mean()), float(values.std()) / 10


def test_the_error_of_the_kernel_distance_is_honest():
    """z = value/stderr is Student's with 9 degrees of freedom: z² has a mean of 9/7."""
    distances = [kernel_distance(normal(60, 2), normal(60, 2)) for _ in range(60)]
    squares = torch.tensor([(d.value / d.stderr) ** 2 for d in distances])
    assert 0.5 < float(squares.mean()) < 2.5
    twins = [overlapping(normal(60, 2), normal(60, 2)) for _ in range(15)]
    assert float(torch.tensor([(value / stderr) ** 2 for value, stderr in twins]).mean()) > 5


# --- precision and recall


def by_definition(samples: Tensor, real: Tensor, neighbours: int) -> tuple[float, float]:
    """Equations 1 and 2 of Kynkäänniemi et al. (2019), point by point."""

    def share(points: Tensor, centers: Tensor) -> float:
        radii = [sorted(float((a - b).norm()) for b in centers)[neighbours] for a in centers]
        return sum(any(float((p - c).norm()) <= r for c, r in zip(centers, radii, strict=True)) for p in points) / len(
            points
        )

    return share(samples, real), share(real, samples)


def test_precision_and_recall_by_hand():
    """Radii, k = 1: 1 about each of 0, 1, 2, 3; 9.5 about 0.5, and 1 about 10, 11 and 12."""
    real, samples = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[0.5], [10.0], [11.0], [12.0]])
    found = precision_recall(samples, real, neighbours=1)
    assert (found.precision, found.recall) == (0.25, 1.0)
    turned = precision_recall(real, samples, neighbours=1)
    assert (turned.precision, turned.recall) == (1.0, 0.25)


def test_precision_and_recall_are_as_defined():
    samples, real = normal(30) + 0.7, normal(40)
    found = precision_recall(samples, real)
    assert (found.precision, found.recall) == by_definition(samples, real, 3)
    assert (found.precision, found.recall) != by_definition(samples, real, 2)


def test_collapse_costs_recall_and_spread_costs_precision():
    wide, narrow = normal(1500, 2), 0.01 * normal(1500, 2)
    collapsed, spread = precision_recall(narrow, wide), precision_recall(wide, narrow)
    assert (collapsed.precision, spread.recall) == (1.0, 1.0)
    assert collapsed.recall < 0.01
    assert spread.precision < 0.01
    alike = precision_recall(normal(1500, 2), wide)
    assert min(alike.precision, alike.recall) > 0.9


def test_twins_are_in_the_manifold_of_each_other():
    """Balls of radius 0: the rounding of squares must not put a point outside of itself."""
    points = (100 + normal(50, 64)).repeat_interleave(5, dim=0)
    found = precision_recall(points, points.flip(0))
    assert (found.precision, found.recall) == (1.0, 1.0)
    found = precision_recall(points + 1e-3, points)
    assert (found.precision, found.recall) == (0.0, 0.0)


# --- the classifier two-sample test


def test_equal_laws_cannot_be_told_apart():
    tests = [two_sample_test(normal(400), normal(400), seed=seed) for seed in range(20)]
    z = torch.tensor([(t.accuracy - 0.5) / t.null_stderr for t in tests])
    assert tests[0].null_stderr == 0.5 / math.sqrt(400)
    assert (tests[0].num_train, tests[0].num_test, tests[0].neighbours) == (400, 400, 20)
    assert float(z.abs().max()) < 4
    assert abs(float(z.mean())) < 4 / math.sqrt(20)
    assert min(t.p_value for t in tests) > 1e-4


def test_other_laws_can():
    test = two_sample_test(normal(400) + 5, normal(400))
    assert test.accuracy == 1.0
    assert test.p_value < 1e-80
    assert two_sample_test(normal(400) + 1, normal(400)).p_value < 1e-6


def test_what_trains_does_not_test(monkeypatch):
    for count in (100, 101):
        train, test = halves(count, seed=3)
        assert (len(train), len(test)) == (50, 50)
        assert len(set(train.tolist()) | set(test.tolist())) == 100
    # The broken twin tests on what trained: each point is its own neighbour, and equal laws seem to differ.
    samples, real = normal(4000), normal(4000)
    assert abs(two_sample_test(samples, real).accuracy - 0.5) < 4 * 0.5 / math.sqrt(4000)
    monkeypatch.setattr("probgen.measures.two_sample.halves", lambda count, seed: (halves(count, seed)[0],) * 2)
    assert two_sample_test(samples, real).accuracy - 0.5 > 4 * 0.5 / math.sqrt(4000)


def test_the_p_value_is_that_of_the_normal_law():
    from scipy.stats import norm

    test = two_sample_test(normal(400) + 0.2, normal(400))
    assert test.p_value == pytest.approx(norm.sf((test.accuracy - 0.5) / test.null_stderr))


# --- all of them


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall, two_sample_test])
def test_a_measure_gives_the_same_number_each_time_and_draws_nothing(measure):
    samples, real = normal(50), normal(50)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = measure(samples, real)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    torch.manual_seed(2)
    assert measure(samples, real) == first
    assert measure(samples.clone().requires_grad_(), real) == first


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall, two_sample_test])
def test_too_few_are_refused(measure):
    with pytest.raises(UserError, match="1 samples and 1 real ones came"):
        measure(normal(1), normal(1))


def test_no_warning_of_a_dependency_is_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_distance(normal(20), normal(20))
        frechet_distance(normal(20), normal(20))
