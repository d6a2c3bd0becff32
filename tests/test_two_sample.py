"""The classifier two-sample test against its definition, and against the law of its accuracy."""

import math

import pytest
import torch
from scipy import stats

from probgen.measures import two_sample_test
from probgen.measures.two_sample import halves


def plane(num, shift=0.0):
    return torch.randn(num, 2, dtype=torch.float64) + shift


def by_definition(samples, real, trained_on=0, neighbours=5, swapped=False):
    """Each of the points that test goes to the majority of its nearest neighbours, point by point."""
    parts = halves(len(samples), 0)
    known, asked = parts[trained_on], parts[1 - trained_on]
    right = []
    for label, points in ((0, real), (1, samples)):
        for point in points[asked]:
            distances = torch.cat([(real[known] - point).norm(dim=1), (samples[known] - point).norm(dim=1)])
            votes = (distances.argsort()[:neighbours] >= len(known)).sum()
            right.append(int(votes > neighbours / 2) == (1 - label if swapped else label))
    return sum(right) / len(right)


def test_the_accuracy_is_as_defined():
    """13 of each train, hence ⌊√26⌋ = 5 neighbours; 13 others of each test."""
    samples, real = plane(26, 0.7), plane(26)
    test = two_sample_test(samples, real)
    assert (test.neighbours, test.num_train, test.num_test) == (5, 26, 26)
    assert test.accuracy == pytest.approx(by_definition(samples, real))
    assert test.null_stderr == pytest.approx(0.5 / math.sqrt(26))
    assert test.p_value == pytest.approx(stats.norm.sf((test.accuracy - 0.5) / test.null_stderr))
    for twin in ({"swapped": True}, {"neighbours": 1}, {"trained_on": 1}):
        assert test.accuracy != pytest.approx(by_definition(samples, real, **twin)), twin


def test_the_accuracy_of_equal_laws_has_the_law_that_is_told():
    """(t̂ − ½) / stderr has a mean of 0 and a mean square of 1."""
    tests = [two_sample_test(plane(100), plane(100), seed=seed) for seed in range(300)]
    z = torch.tensor([(test.accuracy - 0.5) / test.null_stderr for test in tests])
    assert abs(float(z.mean())) < 4 / math.sqrt(300)
    check_spread(z)
    for twin in (z / math.sqrt(2), z * math.sqrt(2)):  # the error of n/2, or of 2n points
        with pytest.raises(AssertionError):
            check_spread(twin)


def check_spread(z):
    """The mean of z² is 1 within four standard errors, √(2/n) each for a normal law."""
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / len(z))
