"""Densities on grey levels: masses, bounds, samplers."""

import math

import hypothesis.strategies as st
import numpy as np
import oracles
import pyro
import pytest
import torch
from hypothesis import given, settings
from laws import check_equal, check_sampler, check_sums_to_one
from pyro import poutine
from torch.nn import functional as F

from probgen.distributions import DequantizedMultivariateNormal, DequantizedNormal, DiscretizedLogistic

anywhere = st.floats(-1e4, 1e4)
any_scale = st.floats(-3, 3).map(lambda exponent: 10**exponent)
any_levels = st.sampled_from([2, 3, 17, 256])


def real(*numbers):
    return torch.tensor(numbers, dtype=torch.float64).squeeze()


def levels_of(distribution):
    return torch.arange(distribution.levels, dtype=distribution.loc.dtype)


class NoTails(DiscretizedLogistic):
    """Broken: the outermost bins are as narrow as the others."""

    def log_prob(self, value):
        return torch.log(
            torch.sigmoid((value + 0.5 - self.loc) / self.scale) - torch.sigmoid((value - 0.5 - self.loc) / self.scale)
        )


class WideBins(DiscretizedLogistic):
    """Broken: bins half as wide again as a level, as with half a bin mistaken."""

    def log_prob(self, value):
        above = torch.sigmoid((value + 0.75 - self.loc) / self.scale)
        below = torch.sigmoid((value - 0.75 - self.loc) / self.scale)
        above = torch.where(value == self.levels - 1, 1.0, above)
        return torch.log(above - torch.where(value == 0, 0.0, below))


class NoBinVariance(DequantizedNormal):
    """Broken: forgets the variance of the noise, 1/12, hence 1 / (24 σ²)."""

    def log_prob(self, value):
        return super().log_prob(value) + 1 / (24 * self.scale**2)


class UnclampedHalf(DiscretizedLogistic):
    """Broken sampler: rounds down instead of to the nearest level, half a level too low."""

    def sample(self, sample_shape=()):
        u = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype)
        return (self.loc + self.scale * torch.logit(u)).floor().clamp(0, self.levels - 1)


# --- the discretized logistic


@settings(max_examples=100, deadline=None)
@given(anywhere, any_scale, any_levels)
def test_logistic_masses_sum_to_one_and_are_scipys(loc, scale, levels):
    masses = DiscretizedLogistic(real(loc), real(scale), levels)
    check_sums_to_one(masses.log_prob, levels)
    check_equal(masses.log_prob(levels_of(masses)).exp(), oracles.logistic_masses(loc, scale, levels))


@pytest.mark.parametrize("twin", [NoTails, WideBins])
def test_a_logistic_with_wrong_bins_does_not_sum_to_one(twin):
    check_sums_to_one(DiscretizedLogistic(real(2.0), real(1.5), 8).log_prob, 8)
    with pytest.raises(AssertionError, match="masses sum"):
        check_sums_to_one(twin(real(2.0), real(1.5), 8).log_prob, 8)


@pytest.mark.parametrize(("loc", "scale"), [(-200.0, 0.5), (-1e4, 3.0), (-40.0, 0.01)])
def test_logistic_far_tail_is_its_asymptote(loc, scale):
    """Far above loc the survival function is e^−t, so that P(x) = e^−a (1 − e^−1/s), a the bin's lower edge."""
    density = DiscretizedLogistic(real(loc), real(scale), 256)
    inside = torch.arange(1, 255, dtype=torch.float64)
    expected = -(inside - 0.5 - loc) / scale + math.log1p(-math.exp(-1 / scale))
    check_equal(density.log_prob(inside), expected, 1e-12)
    check_equal(density.log_prob(real(255.0)), -(254.5 - loc) / scale, 1e-12)
    mirrored = DiscretizedLogistic(real(255 - loc), real(scale), 256)
    check_equal(mirrored.log_prob(255 - inside), expected, 1e-12)


@settings(max_examples=100, deadline=None)
@given(st.floats(-300, 600), any_scale)
def test_logistic_in_float32_is_that_in_float64(loc, scale):
    loc, scale = torch.tensor(loc, dtype=torch.float32), torch.tensor(scale, dtype=torch.float32)
    single = DiscretizedLogistic(loc, scale, 256)
    double = DiscretizedLogistic(loc.double(), scale.double(), 256)
    came = single.log_prob(levels_of(single))
    assert torch.isfinite(came).all()
    check_equal(came, double.log_prob(levels_of(double)), 2e-4)


def test_a_difference_of_sigmoids_would_fail_in_the_tail():
    """The twin of the two tests above: the formula as the paper prints it, in float32."""
    twin = NoTails(torch.tensor(0.0), torch.tensor(0.5), 256)
    with pytest.raises(AssertionError):
        check_equal(twin.log_prob(torch.tensor(100.0)), -99.5 / 0.5 + math.log1p(-math.exp(-2)), 2e-4)


def test_logistic_gradients_are_finite_everywhere():
    loc = torch.tensor([-1e4, 0.0, 100.0, 255.0, 1e4]).repeat_interleave(3).requires_grad_()
    scale = torch.tensor([1e-3, 1.0, 1e3]).repeat(5).requires_grad_()
    for level in (0.0, 1.0, 128.0, 255.0):
        DiscretizedLogistic(loc, scale, 256).log_prob(torch.tensor(level)).sum().backward()
    assert torch.isfinite(loc.grad).all()
    assert torch.isfinite(scale.grad).all()


@pytest.mark.parametrize(("loc", "scale"), [(3.3, 1.7), (-1.0, 2.0), (7.4, 0.3), (3.5, 50.0)])
def test_logistic_sampler_matches_its_masses(loc, scale):
    density = DiscretizedLogistic(real(loc), real(scale), 8)
    check_sampler(density.sample((20_000,)), density.log_prob(levels_of(density)).exp())


def test_a_sampler_half_a_level_off_is_rejected():
    density = UnclampedHalf(real(3.3), real(1.7), 8)
    with pytest.raises(AssertionError, match="frequencies"):
        check_sampler(density.sample((20_000,)), density.log_prob(levels_of(density)).exp())


# --- the dequantized Gaussian


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 40), st.floats(-1, 2).map(lambda e: 10**e), st.integers(0, 16))
def test_dequantized_normal_is_the_mean_over_the_noise(loc, scale, level):
    density = DequantizedNormal(real(loc), real(scale), 17)
    check_equal(density.log_prob(real(float(level))), oracles.dequantized_normal(level, loc, scale), 1e-8)


def test_forgetting_the_noise_variance_is_rejected():
    with pytest.raises(AssertionError):
        check_equal(
            NoBinVariance(real(3.0), real(2.0), 17).log_prob(real(5.0)), oracles.dequantized_normal(5, 3, 2), 1e-8
        )


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("loc", [-3.0, 0.5, 4.2, 12.0])
def test_dequantized_normal_lies_below_the_log_mass_of_every_bin(loc, scale):
    density = DequantizedNormal(real(loc), real(scale), 8)
    masses = oracles.log_normal_bin_masses(loc, scale, 8)
    below = masses - oracles.array(density.log_prob(levels_of(density)))
    assert below.min() > -1e-9
    if scale == 10.0:
        assert below.max() < 1e-3  # Jensen's gap is small where the density is flat
    assert np.exp(oracles.array(density.log_prob(levels_of(density)))).sum() < 1


def test_the_centre_of_the_bin_alone_is_no_lower_bound():
    """A density at one point can exceed any probability: the twin is above the mass of its own bin."""
    twin = NoBinVariance(real(4.5), real(0.05), 8)
    assert twin.log_prob(real(4.0)) > oracles.log_normal_bin_masses(4.5, 0.05, 8)[4]


@pytest.mark.parametrize(("loc", "scale"), [(3.3, 1.7), (-1.0, 2.0), (7.9, 0.4)])
def test_dequantized_normal_sampler_matches_the_bins(loc, scale):
    draws = DequantizedNormal(real(loc), real(scale), 8).sample((20_000,))
    check_sampler(draws, oracles.normal_masses(loc, scale, 8))
    with pytest.raises(AssertionError):
        check_sampler(draws, oracles.normal_masses(loc + 0.5, scale, 8))


def test_dequantized_normal_mean_is_in_levels():
    """With the mass inside the range, the drawn levels average E[floor(y)] ≈ loc − ½."""
    density = DequantizedNormal(real(100.3), real(5.0), 256)
    draws = density.sample((40_000,))
    assert abs(draws.mean() - density.mean) < 4.5 * draws.std() / 200


# --- the dequantized multivariate Gaussian

TRIL = torch.tensor([[1.3, 0.0], [0.7, 0.6]], dtype=torch.float64)


@pytest.mark.parametrize("level", [(0, 0), (3, 1), (16, 5)])
def test_multivariate_is_the_mean_over_the_noise(level):
    density = DequantizedMultivariateNormal(real(2.2, 4.1), TRIL, 17)
    expected = oracles.dequantized_multivariate_normal(level, [2.2, 4.1], TRIL @ TRIL.T)
    check_equal(density.log_prob(real(*map(float, level))), expected)


def test_diagonal_multivariate_is_a_sum_of_pixels():
    loc, scale, x = real(1.0, 5.0, 9.0), real(0.5, 2.0, 7.0), torch.randint(0, 17, (10, 3)).double()
    density = DequantizedMultivariateNormal(loc, scale.diag(), 17)
    check_equal(density.log_prob(x), DequantizedNormal(loc, scale, 17).log_prob(x).sum(-1))


def test_multivariate_sampler_has_the_bins_of_each_pixel_and_their_correlation():
    density = DequantizedMultivariateNormal(real(2.2, 4.1), TRIL, 8)
    draws = density.sample((20_000,))
    scales = (TRIL @ TRIL.T).diag().sqrt()
    for pixel, loc in enumerate((2.2, 4.1)):
        check_sampler(draws[:, pixel], oracles.normal_masses(loc, float(scales[pixel]), 8))
    joint = torch.distributions.MultivariateNormal(real(2.2, 4.1), scale_tril=TRIL).sample((200_000,)).floor()
    joint = joint.clamp(0, 7)
    assert abs(torch.corrcoef(draws.T)[0, 1] - torch.corrcoef(joint.T)[0, 1]) < 4.5 / math.sqrt(20_000)


# --- as torch and Pyro use them

FAMILIES = {
    "logistic": lambda loc, scale: DiscretizedLogistic(loc, scale, 8).to_event(1),
    "normal": lambda loc, scale: DequantizedNormal(loc, scale, 8).to_event(1),
    "multivariate": lambda loc, scale: DequantizedMultivariateNormal(loc, torch.diag_embed(scale), 8),
}
family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


@family
def test_batches_and_expansion_score_as_each_alone(make):
    loc, scale, x = (
        torch.randn(4, 3).double() + 3,
        torch.rand(4, 3).double() + 0.5,
        torch.randint(0, 8, (4, 3)).double(),
    )
    density = make(loc, scale)
    assert (density.batch_shape, density.event_shape) == ((4,), (3,))
    alone = torch.stack([make(loc[i], scale[i]).log_prob(x[i]) for i in range(4)])
    check_equal(density.log_prob(x), alone)
    wide = density.expand((5, 4))
    assert (wide.batch_shape, wide.event_shape, wide.sample((2,)).shape) == ((5, 4), (3,), (2, 5, 4, 3))
    check_equal(wide.log_prob(x), alone.expand(5, 4))


@family
def test_in_a_plate_pyro_scores_and_draws(make):
    loc, scale, x = torch.full((3,), 3.0), torch.full((3,), 2.0), torch.randint(0, 8, (4, 3)).float()

    def program(obs):
        with pyro.plate("images", 4):
            return pyro.sample("x", make(loc, scale), obs=obs)

    trace = poutine.trace(program).get_trace(x)
    trace.compute_log_prob()
    check_equal(trace.nodes["x"]["log_prob"], make(loc, scale).log_prob(x), 1e-5)
    draws = program(None)
    assert draws.shape == (4, 3)
    assert not torch.equal(draws[0], draws[1])  # the plate's entries are independent draws
    assert torch.equal(draws, draws.round().clamp(0, 7))


@pytest.mark.parametrize("cls", [DiscretizedLogistic, DequantizedNormal])
@pytest.mark.parametrize("value", [-1.0, 8.0, 2.5])
def test_validation_refuses_what_is_no_level(cls, value):
    with pytest.raises(ValueError, match="support"):
        cls(torch.tensor(3.0), torch.tensor(1.0), 8, validate_args=True).log_prob(torch.tensor(value))


def test_logistic_masses_agree_with_a_categorical_of_the_same_masses():
    density = DiscretizedLogistic(real(3.3), real(1.7), 8)
    logits = density.log_prob(levels_of(density))
    check_equal(F.log_softmax(logits, 0), logits)
