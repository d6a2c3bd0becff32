"""One factor of an image's density: masses that sum to one, draws that fit them, refusals."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from laws import check_equal, check_sampler
from oracles import logistic_masses
from torch.nn import functional as F

from probgen.distributions import Conditional, DiscretizedLogistic, GivenConditions
from probgen.distributions.conditionals import choose_conditional, pick
from probgen.errors import UserError

FAMILIES = [
    Conditional("bernoulli", 2),
    *(Conditional("categorical", levels) for levels in (2, 3, 17, 256)),
    *(Conditional("logistic-mixture", levels, mixtures) for levels, mixtures in [(2, 1), (3, 2), (17, 5), (256, 10)]),
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.name}-{f.levels}")


def some_numbers(family, *shape, size=2.0):
    return size * torch.randn(shape[0], family.size, *shape[1:], dtype=torch.float64)


def check_masses(family, numbers, tolerance=1e-9):
    """Σ_k p(x = k) = 1, whatever the network says."""
    total = family.probabilities(numbers).sum(0)
    assert (total - 1).abs().max() < tolerance, f"the masses sum to {total.tolist()}"


# --- masses


@every_family
@pytest.mark.parametrize("size", [0.0, 1.0, 10.0, 1000.0])
def test_masses_sum_to_one_however_extreme_the_numbers(family, size):
    check_masses(family, some_numbers(family, 5, 2, 3, size=size))
    check_masses(family, some_numbers(family, 5, 2, 3, size=size).float(), 1e-4)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from([2, 3, 17, 256]))
def test_a_mixture_of_one_is_scipys_logistic_with_its_tails(loc, raw_scale, levels):
    family = Conditional("logistic-mixture", levels, mixtures=1)
    numbers = torch.tensor([[0.7, loc, raw_scale]], dtype=torch.float64)
    _, centre, scale = family.mixture(numbers)
    check_equal(centre, (loc + 1) / 2 * (levels - 1))  # −1 is the lowest level and 1 the highest
    check_equal(family.probabilities(numbers)[:, 0], logistic_masses(centre.item(), scale.item(), levels))


def test_a_mixture_is_the_weighted_sum_of_its_logistics():
    family = Conditional("logistic-mixture", 9, mixtures=2)
    numbers = torch.tensor([[0.3, -0.4, -0.8, 0.9, -2.0, 0.5]], dtype=torch.float64)
    weights = torch.tensor([0.3, -0.4], dtype=torch.float64).softmax(0).tolist()
    _, loc, scale = family.mixture(numbers)
    parts = [logistic_masses(loc[0, m].item(), scale[0, m].item(), 9) for m in range(2)]
    check_equal(family.probabilities(numbers)[:, 0], weights[0] * parts[0] + weights[1] * parts[1])


def test_the_other_two_are_softmax_and_sigmoid():
    logits = torch.randn(4, 5, dtype=torch.float64)
    check_equal(Conditional("categorical", 5).probabilities(logits), logits.softmax(1).T)
    on = torch.randn(4, 1, dtype=torch.float64)
    check_equal(Conditional("bernoulli", 2).probabilities(on)[1], on[:, 0].sigmoid())


class NoTails(Conditional):
    """Broken: the outermost bins are as narrow as the others."""

    def log_prob(self, numbers, value):
        logits, loc, scale = self.mixture(numbers)
        wider = DiscretizedLogistic(loc + 1, scale, self.levels + 2, validate_args=False)
        return (logits.log_softmax(1) + wider.log_prob(value[:, None] + 1)).logsumexp(1)


@pytest.mark.parametrize("levels", [2, 3, 256])
def test_a_mixture_whose_edge_bins_are_dropped_is_rejected(levels):
    twin, numbers = NoTails("logistic-mixture", levels, 2), some_numbers(FAMILIES[-3], 4)
    check_masses(Conditional("logistic-mixture", levels, 2), numbers)
    with pytest.raises(AssertionError, match="masses sum"):
        check_masses(twin, numbers)


@every_family
def test_log_masses_and_their_gradients_are_finite_in_float32(family):
    numbers = (100 * torch.randn(50, family.size)).requires_grad_()
    for value in (0, family.levels // 2, family.levels - 1):
        log_mass = family.log_prob(numbers, torch.full((50,), float(value)))
        assert torch.isfinite(log_mass).all()
        (gradient,) = torch.autograd.grad(log_mass.sum(), numbers)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("raw_scale", [1e5, 1e20, 3e38])
def test_the_gradients_of_the_widest_logistic_are_finite(raw_scale):
    family = Conditional("logistic-mixture", 256, 1)
    for value in (0.0, 100.0, 255.0):
        numbers = torch.tensor([[0.0, 0.3, raw_scale]], requires_grad=True)
        log_mass = family.log_prob(numbers, torch.tensor([value]))
        (gradient,) = torch.autograd.grad(log_mass.sum(), numbers)
        assert torch.isfinite(log_mass).all()
        assert torch.isfinite(gradient).all()


# --- draws


@every_family
def test_draws_fit_the_masses(family):
    numbers = some_numbers(family, 1)
    draws = family.draw(numbers.expand(20_000, -1), torch.rand(20_000, family.noise_size, dtype=torch.float64))
    check_sampler(draws, family.probabilities(numbers)[:, 0])
    with pytest.raises(AssertionError):  # so the numbers matter
        check_sampler(draws, family.probabilities(some_numbers(family, 1))[:, 0])


class RoundsDown(Conditional):
    """Broken: half a level too low."""

    def draw(self, numbers, noise, temperature=1.0):
        _, loc, scale = self.mixture(numbers)
        return (loc + scale * noise[:, 1:].logit()).floor().clamp(0, self.levels - 1)[:, 0]


def test_draws_that_are_rounded_down_are_rejected():
    numbers = torch.tensor([[0.0, 0.1, -1.0]], dtype=torch.float64)
    noise = torch.rand(20_000, 2, dtype=torch.float64)
    family, twin = (cls("logistic-mixture", 9, 1) for cls in (Conditional, RoundsDown))
    check_sampler(family.draw(numbers.expand(20_000, -1), noise), family.probabilities(numbers)[:, 0])
    with pytest.raises(AssertionError, match="frequencies"):
        check_sampler(twin.draw(numbers.expand(20_000, -1), noise), twin.probabilities(numbers)[:, 0])


@pytest.mark.parametrize(
    "family",
    [Conditional("bernoulli", 2), Conditional("categorical", 7), Conditional("logistic-mixture", 7, 1)],
    ids=lambda f: f.name,
)
def test_a_draw_is_where_the_distribution_function_passes_the_noise(family):
    """The families that have an inverse; a mixture of several first draws its component."""
    numbers = some_numbers(family, 1)
    noise = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    below = family.probabilities(numbers)[:, 0].cumsum(0)
    expected = torch.searchsorted(below, noise, right=True).double()
    away_from_steps = (noise[:, None] - below).abs().min(1).values > 1e-9
    came = family.draw(numbers.expand(1000, -1), noise[:, None].expand(-1, family.noise_size))
    assert torch.equal(came[away_from_steps], expected[away_from_steps])
    assert (came.diff() >= 0).all()


def test_two_levels_drawn_as_bernoulli_or_as_categorical_are_the_same():
    on, noise = torch.randn(1000, 1, dtype=torch.float64), torch.rand(1000, 1, dtype=torch.float64)
    both = torch.cat([torch.zeros_like(on), on], 1)
    assert torch.equal(Conditional("bernoulli", 2).draw(on, noise), Conditional("categorical", 2).draw(both, noise))


@every_family
def test_draws_at_the_ends_of_the_noise_are_levels(family):
    for end in (0.0, 1 - 2**-24):
        drawn = family.draw(some_numbers(family, 100, size=30).float(), torch.full((100, family.noise_size), end))
        assert torch.isfinite(drawn).all()
        assert drawn.min() >= 0
        assert drawn.max() < family.levels


def rounds_short(logits, noise):
    """Broken: the sum of the probabilities may miss 1 by rounding."""
    return (logits.softmax(1).cumsum(1) <= noise).sum(1, keepdim=True).clamp_max(logits.shape[1] - 1)


def test_a_class_without_mass_is_never_picked():
    logits = torch.cat([torch.full((2000, 1), -200.0), torch.randn(2000, 254), torch.full((2000, 1), -200.0)], 1)
    for end in (0.0, 1 - 2**-24):
        came = pick(logits, torch.full((2000, 1), end))
        assert came.min() > 0
        assert came.max() < 255
    assert (rounds_short(logits, torch.full((2000, 1), 1 - 2**-24)) == 255).any()


# --- temperature


@every_family
def test_near_temperature_zero_all_draws_are_alike(family):
    numbers = some_numbers(family, 1, size=0.3).expand(5000, -1)
    noise = torch.rand(5000, family.noise_size, dtype=torch.float64)
    assert len(family.draw(numbers, noise, 1e-6).unique()) == 1
    assert len(family.draw(numbers, noise).unique()) > 1


def test_a_temperature_multiplies_scales():
    family, numbers = Conditional("logistic-mixture", 9, 1), torch.tensor([[0.0, 0.2, -1.0]], dtype=torch.float64)
    _, loc, scale = family.mixture(numbers)
    draws = family.draw(numbers.expand(20_000, -1), torch.rand(20_000, 2, dtype=torch.float64), 0.4)
    check_sampler(draws, logistic_masses(loc.item(), 0.4 * scale.item(), 9))
    with pytest.raises(AssertionError):
        check_sampler(draws, family.probabilities(numbers)[:, 0])


def test_a_temperature_divides_logits():
    family, numbers = Conditional("categorical", 5), torch.randn(1, 5, dtype=torch.float64)
    draws = family.draw(numbers.expand(20_000, -1), torch.rand(20_000, 1, dtype=torch.float64), 2.5)
    check_sampler(draws, (numbers[0] / 2.5).softmax(0))
    with pytest.raises(AssertionError):
        check_sampler(draws, numbers[0].softmax(0))


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-50])
def test_however_cold_a_draw_is_the_peak(temperature):
    noise = torch.tensor([[0.5, 0.5]])
    categorical, bernoulli = Conditional("categorical", 3), Conditional("bernoulli", 2)
    for shift in (0.0, -100.0):
        numbers = torch.tensor([[1.0, 2.0, 30.0]]) + shift
        assert categorical.draw(numbers, noise[:, :1], temperature=temperature) == 2
    assert bernoulli.draw(torch.tensor([[0.1], [-0.1]]), noise.T, temperature).tolist() == [1, 0]
    assert torch.isfinite(bernoulli.draw(torch.zeros(1, 1), noise[:, :1], temperature)).all()
    mixture = torch.tensor([[1.0, 2.0, -1.0, 0.25, 0.0, 0.0]])
    assert Conditional("logistic-mixture", 9, 2).draw(mixture, noise, temperature) == 5


@every_family
def test_numbers_that_are_nan_give_no_level(family):
    numbers = some_numbers(family, 4)
    numbers[1] = torch.nan
    drawn = family.draw(numbers, torch.rand(4, family.noise_size, dtype=torch.float64))
    assert drawn.isnan().tolist() == [False, True, False, False]


def test_a_weight_that_is_nan_gives_no_level_either():
    numbers = torch.tensor([[torch.nan, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert Conditional("logistic-mixture", 9, 2).draw(numbers, torch.rand(1, 2)).isnan().all()


# --- side by side


@every_family
def test_the_factors_side_by_side_are_one_distribution_of_the_same_masses(family):
    numbers, x = some_numbers(family, 4, 2, 3, 2), torch.randint(0, family.levels, (4, 2, 3, 2)).double()
    together = GivenConditions(numbers, family)
    assert (together.batch_shape, together.event_shape) == ((4,), (2, 3, 2))
    check_equal(together.log_prob(x), family.log_prob(numbers, x).sum((1, 2, 3)))


def test_side_by_side_even_levels_without_mass_have_a_score_and_a_gradient():
    family = Conditional("logistic-mixture", 256, 1)
    numbers = torch.tensor([0.0, -1.0, -9.0]).reshape(1, 3, 1, 1, 1).requires_grad_()  # all mass at level 0
    log_prob = GivenConditions(numbers, family).log_prob(torch.full((1, 1, 1, 1), 255.0))
    check_equal(log_prob, family.log_prob(numbers, torch.full((1, 1, 1, 1), 255.0)).sum(), 1e-4)
    (gradient,) = torch.autograd.grad(log_prob.sum(), numbers)
    assert torch.isfinite(gradient).all()


# --- the numbers that it takes


@every_family
def test_it_says_how_many_numbers_it_takes(family):
    expected = {"bernoulli": 1, "categorical": family.levels, "logistic-mixture": 3 * family.mixtures}[family.name]
    assert family.size == expected
    noise = torch.rand(2, family.noise_size, dtype=torch.float64)
    for wrong in (expected - 1, expected + 1):
        with pytest.raises(UserError, match=f"n={wrong} numbers for each pixel came, expected n={expected} of"):
            family.log_prob(torch.zeros(2, wrong).double(), torch.zeros(2).double())
        with pytest.raises(UserError, match="numbers for each pixel came"):
            family.draw(torch.zeros(2, wrong).double(), noise)


def test_too_many_logits_would_leave_mass_to_levels_that_do_not_exist():
    """What the refusal above prevents: a softmax over 4 classes as the masses of 3 levels."""
    assert F.softmax(torch.zeros(4), 0)[:3].sum() < 1


@pytest.mark.parametrize("levels", [1, 0, -3])
def test_fewer_than_two_levels_are_refused(levels):
    with pytest.raises(UserError, match=f"levels={levels} came, expected 2 or more"):
        Conditional("categorical", levels)


def test_a_family_that_there_is_not_is_refused():
    family = Conditional("categorical", 5)
    object.__setattr__(family, "name", "gauss")  # called so, it is against the annotation
    with pytest.raises(UserError, match="conditional=gauss came, expected one of bernoulli, categorical, logistic-mix"):
        family.__post_init__()


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_mixture_of_none_is_refused(wrong):
    with pytest.raises(UserError, match=f"mixtures={wrong} came, expected 1 or more"):
        Conditional("logistic-mixture", 5, wrong)


def test_a_bernoulli_of_grey_levels_is_refused():
    with pytest.raises(UserError, match=r"bernoulli came with 16 levels, .* set conditional=categorical"):
        Conditional("bernoulli", 16)


@pytest.mark.parametrize(
    ("levels", "name"),
    [(2, "bernoulli"), (3, "categorical"), (32, "categorical"), (33, "logistic-mixture"), (256, "logistic-mixture")],
)
def test_the_usual_family_depends_on_the_number_of_levels(levels, name):
    assert choose_conditional(None, levels) == Conditional(name, levels)
    assert choose_conditional("categorical", levels) == Conditional("categorical", levels)


def test_data_without_levels_have_no_such_density():
    with pytest.raises(UserError, match="real-valued data"):
        choose_conditional(None, None)
