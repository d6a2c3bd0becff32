"""The mutual information gap: counted by hand, the law of its bias, its error, and twins that must fail."""

import math

import numpy as np
import pytest
import torch
from laws import check_estimate
from scipy import stats
from torch import Tensor

from probgen.data import load_data
from probgen.errors import UserError
from probgen.measures import mutual_information_gap
from probgen.measures.disentanglement import CODE_BINS, FACTOR_BINS, MutualInformationGap

SIZE = 10
FIRST, SECOND = (grid.flatten() for grid in torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"))
GRID = {"first": FIRST, "second": SECOND}  # every pair of values once: independent, exactly
ROTATED = torch.stack([FIRST + SECOND, FIRST - SECOND], 1).double()


def over_factors(gap: MutualInformationGap) -> float:
    """The twin: of each latent, its best factor less its second best."""
    best, second = gap.information.topk(2, dim=1).values.T
    return float((best - second).mean())


def in_nats(gap: MutualInformationGap) -> float:
    """The twin: without the division by H(v_k)."""
    return float((gap.gaps * math.log(SIZE)).mean())


def without_second(gap: MutualInformationGap) -> float:
    """The twin: how much the best latent knows, whatever the others do."""
    return float(gap.information.max(0).values.mean())


def test_a_latent_for_each_factor_has_the_gap_1():
    """In any order, under any rising or falling map, with a third latent that knows nothing."""
    for codes in ([FIRST, SECOND, 0 * FIRST], [-(SECOND**3), 0 * FIRST, (FIRST / 3).exp()]):
        gap = mutual_information_gap(torch.stack(codes, 1).double(), GRID)
        assert gap.value == pytest.approx(1, abs=1e-12)
        assert gap.stderr == pytest.approx(0, abs=1e-12)
        assert sorted(gap.information.flatten().tolist()) == pytest.approx([0] * 4 + [1] * 2, abs=1e-12)
        assert in_nats(gap) != pytest.approx(1, abs=0.1)


def test_a_rotated_code_has_the_gap_0():
    """Each of z = v₁ ± v₂ knows H(v₁ + v₂) − H(v₂) nats of each factor: the sums' law is a triangle."""
    gap = mutual_information_gap(ROTATED, GRID)
    triangle = np.convolve(np.ones(SIZE), np.ones(SIZE)) / SIZE**2
    known = stats.entropy(triangle) / math.log(SIZE) - 1
    torch.testing.assert_close(gap.information, torch.full((2, 2), known, dtype=torch.float64))
    assert gap.value == pytest.approx(0, abs=1e-12)
    assert without_second(gap) == pytest.approx(known) != pytest.approx(0, abs=0.1)


def test_one_factor_on_two_latents_has_no_gap():
    """The best latent for a factor is compared with the second best for that factor."""
    gap = mutual_information_gap(torch.stack([FIRST, FIRST, SECOND], 1).double(), GRID)
    assert gap.gaps.tolist() == pytest.approx([0, 1], abs=1e-12)
    assert gap.value == pytest.approx(0.5, abs=1e-12)
    assert over_factors(gap) == pytest.approx(1, abs=1e-12)


def noise(count: int) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.randn(count, 3), {"real": torch.rand(count), "whole": torch.randint(0, 4, (count,))}


def test_independent_noise_knows_no_more_than_the_bias_that_is_named():
    gaps = [mutual_information_gap(*noise(1000)) for _ in range(100)]
    tables, bias = torch.stack([g.information for g in gaps]), gaps[0].bias
    entropy = torch.tensor([FACTOR_BINS, 4.0]).double().log()
    expected = (CODE_BINS - 1) * (torch.tensor([FACTOR_BINS, 4.0]) - 1) / 2000 / entropy
    # The whole numbers' own entropy is a little less than log 4.
    torch.testing.assert_close(bias, expected.double().expand(3, 2), rtol=1e-2, atol=0)
    # The next terms of the bias, of order 1/n², are some 3 % of it.
    check_estimate(tables / bias, np.ones((3, 2)), largest_error=0.1, num_errors=6)
    assert torch.stack([g.gaps for g in gaps]).max() < bias.max()
    for wrong in (tables - bias, tables / bias + 0.2):
        with pytest.raises(AssertionError, match="standard errors away"):
            check_estimate(wrong, np.ones((3, 2)), largest_error=0.1, num_errors=6)


CORRELATION = (0.9, 0.5)


def gaussian(count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """One factor, and two latents of different correlation with it."""
    v = torch.randn(count)
    codes = [rho * v + math.sqrt(1 - rho**2) * torch.randn(count) for rho in CORRELATION]
    return torch.stack(codes, 1), {"v": v}


def binned_information(rho: float) -> float:
    """I of a bivariate Gaussian in bins of equal mass, from its distribution function, over log FACTOR_BINS."""
    z, v = (stats.norm.ppf(np.arange(1, bins) / bins) for bins in (CODE_BINS, FACTOR_BINS))
    z, v = (np.concatenate([[-9], edges, [9]]) for edges in (z, v))
    law = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    below = law.cdf(np.stack(np.meshgrid(z, v, indexing="ij"), -1))
    masses = np.diff(np.diff(below, axis=0), axis=1).clip(1e-12)
    return float((masses * np.log(masses * CODE_BINS * FACTOR_BINS)).sum() / math.log(FACTOR_BINS))


def test_the_gap_of_gaussians_is_that_of_their_binned_law_and_its_error_is_honest():
    gaps = [mutual_information_gap(*gaussian(4000)) for _ in range(60)]
    strong, weak = (binned_information(rho) for rho in CORRELATION)
    assert strong < -0.5 * math.log(1 - 0.9**2) / math.log(FACTOR_BINS)  # bins lose information
    values = torch.tensor([[g.value] for g in gaps])
    check_estimate(values, np.array([strong - weak]), largest_error=0.02, num_errors=6)
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(values, np.array([strong]), largest_error=0.02, num_errors=6)
    ratio = float(values.std()) / np.mean([g.stderr for g in gaps])
    assert 0.7 < ratio < 1.3


def test_a_collapsed_latent_counts_as_long_as_its_draws_are_not_taken():
    """A mean code of size 10⁻⁶ says everything of its factor; a draw N(mean, 1) says nothing."""
    factors = load_data("sprites:2000").train.factors
    means = torch.stack([1e-6 * factors["x"], factors["y"]], 1)
    chosen = {name: factors[name] for name in ("x", "y")}
    on_means = mutual_information_gap(means, chosen)
    on_draws = mutual_information_gap(means + torch.tensor([1.0, 0.05]) * torch.randn_like(means), chosen)
    assert (on_means.gaps > 0.9).all()
    assert on_draws.gaps[0] < on_draws.bias.max() < 0.7 < on_draws.gaps[1]
    assert "1600 images" in on_draws.protocol


@pytest.mark.parametrize(
    ("codes", "factors", "says"),
    [
        (torch.zeros(100, 1), GRID, r"codes of shape \(100, 1\) came"),
        (torch.zeros(1, 2), GRID, r"codes of shape \(1, 2\) came"),
        (ROTATED, {}, "no factors came"),
        (ROTATED / 0, GRID, "nan or infinite"),
        (ROTATED, {"v": torch.arange(99)}, r"factor 'v' of shape \(99,\) came"),
        (ROTATED, {"v": torch.ones(100)}, "factor 'v' is the same for all 100"),
        (ROTATED, {"v": torch.full((100,), math.nan)}, "factor 'v' has nan"),
        (ROTATED.repeat(10, 1), {"v": torch.arange(-979.0, 21).clamp_min(0)}, "factor 'v' falls into one bin"),
    ],
)
def test_what_has_no_gap_is_refused(untyped, codes, factors, says):
    with pytest.raises(UserError, match=says):
        mutual_information_gap(codes, factors)
