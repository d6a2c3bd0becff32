"""What the minimax game measures, which gradients exist in it, and how much of the generator's is left."""

import json
import math

import numpy as np
import pytest
import torch
from laws import check_equal, check_estimate
from oracles import array
from scipy import integrate, stats
from torch import nn

from probgen.errors import UserError
from probgen.inference.adversarial.losses import LOSSES, Minimax, make_loss
from probgen.inference.adversarial.optimal import jensen_shannon, minimax_value, optimal_discriminator
from probgen.inference.adversarial.saturation import generator_gradients, generator_gradients_at
from probgen.plots import figure_png, saturation_figure

GRID = torch.linspace(-40, 40, 8001, dtype=torch.float64)


def gaussian(loc, scale):
    return torch.distributions.Normal(torch.tensor(loc, dtype=torch.float64), scale).log_prob(GRID)


def mixture(*parts):
    """Gaussians of equal weights."""
    return torch.logsumexp(torch.stack([gaussian(*part) for part in parts]), 0) - math.log(len(parts))


def uniform(low, high):
    """Its edges midway between two points, so that the points inside carry all the mass."""
    inside = (low + 0.005 < GRID) & (high + 0.005 > GRID)
    return torch.where(inside, -math.log(high - low), torch.full_like(GRID, -math.inf))


PAIRS = {
    "two Gaussians": (gaussian(0.0, 1.0), gaussian(1.0, 0.5)),
    "wide and narrow": (gaussian(0.0, 5.0), gaussian(0.0, 0.3)),
    "mixture and Gaussian": (mixture((-2.0, 0.5), (2.0, 0.5)), gaussian(0.0, 2.0)),
    "a mode missing": (mixture((-4.0, 0.5), (0.0, 0.5), (4.0, 0.5)), mixture((-4.0, 0.5), (4.0, 0.5))),
    "equal": (mixture((-1.0, 0.5), (3.0, 1.0)), mixture((3.0, 1.0), (-1.0, 0.5))),
    "disjoint": (gaussian(-20.0, 1.0), gaussian(20.0, 1.0)),
    "disjoint, zero between": (uniform(-2.0, -1.0), uniform(1.0, 3.0)),
    "overlapping by half": (uniform(0.0, 2.0), uniform(1.0, 3.0)),
}
KNOWN = {
    "equal": 0.0,
    "disjoint": math.log(2),
    "disjoint, zero between": math.log(2),
    "overlapping by half": math.log(2) / 2,
}
each_pair = pytest.mark.parametrize("name", PAIRS)


def check_theorem(log_p, log_q, logit):
    """V(D, q) = 2 · JSD − log 4."""
    expected = 2 * jensen_shannon(log_p, log_q, GRID) - math.log(4)
    check_equal(minimax_value(log_p, log_q, logit, GRID), expected, 1e-8)


@each_pair
def test_the_best_discriminator_measures_the_jensen_shannon_divergence(name):
    log_p, log_q = PAIRS[name]
    best = optimal_discriminator(log_p, log_q)
    assert not best.isnan().any()
    check_theorem(log_p, log_q, best)
    if name in KNOWN:
        check_equal(jensen_shannon(log_p, log_q, GRID), KNOWN[name], 1e-9)


@each_pair
def test_other_discriminators_do_not(name):
    log_p, log_q = PAIRS[name]
    best = optimal_discriminator(log_p, log_q)
    for twin in [best.clamp(-1, 1) / 2 + 0.1] + ([-best] if name != "equal" else []):
        with pytest.raises(AssertionError):
            check_theorem(log_p, log_q, twin)


def test_the_divergence_is_that_of_adaptive_quadrature():
    def integrand(x, first, second):
        middle = (first.pdf(x) + second.pdf(x)) / 2
        return first.pdf(x) * (first.logpdf(x) - np.log(middle)) / 2

    p, q = stats.norm(0.0, 1.0), stats.norm(1.0, 0.5)
    expected = sum(
        integrate.quad(integrand, -12, 12, args=pair, epsabs=1e-12, limit=200)[0] for pair in ((p, q), (q, p))
    )
    check_equal(jensen_shannon(*PAIRS["two Gaussians"], GRID), expected, 1e-9)


def check_best(log_p, log_q, logit):
    """No discriminator beside it has a larger value, and in no place does its logit want to move."""
    top = minimax_value(log_p, log_q, logit, GRID)
    for size in (0.1, -0.1, 1.0, -1.0, 3.0, -3.0):
        for _ in range(3):
            centre, width = 2 * torch.rand(()) - 1, 0.5 + torch.rand(())
            step = size * torch.exp(-(((GRID - centre) / width) ** 2))
            assert minimax_value(log_p, log_q, logit + step, GRID) < top, "a step away raised the value"
    logit = logit.clone().requires_grad_()
    (slope,) = torch.autograd.grad(minimax_value(log_p, log_q, logit, GRID), logit)
    check_equal(slope, torch.zeros_like(slope), 1e-12)


@pytest.mark.parametrize("name", ["two Gaussians", "mixture and Gaussian", "a mode missing", "equal"])
def test_any_other_discriminator_has_a_smaller_value(name):
    log_p, log_q = PAIRS[name]
    best = optimal_discriminator(log_p, log_q)
    check_best(log_p, log_q, best)
    for twin in (best + 0.2, 0.8 * best + 0.05, optimal_discriminator(log_q, log_p) - 0.1):
        with pytest.raises(AssertionError):
            check_best(log_p, log_q, twin)


def test_a_discriminator_that_rules_out_what_happens_is_infinitely_wrong():
    log_p, log_q = PAIRS["disjoint, zero between"]
    assert minimax_value(log_p, log_q, -optimal_discriminator(log_p, log_q), GRID) == -math.inf


def test_a_grid_that_misses_mass_is_refused():
    log_p, log_q = PAIRS["two Gaussians"]
    right = slice(4000, None)
    with pytest.raises(UserError, match=r"mass of 0\.5 on the grid came.*4001 points from .* to 40"):
        jensen_shannon(log_p[right], log_q[right], GRID[right])
    with pytest.raises(UserError, match="mass"):
        minimax_value(log_p[::300], log_q[::300], log_p[::300], GRID[::300])


# --- a discriminator that has learned: for two Gaussians the best logit is θ · (1, x, x²)

P, Q = (0.5, 1.0), (-0.5, 1.5)
BEST = [
    math.log(1.5) - 0.5**2 / 2 + 0.5**2 / (2 * 1.5**2),
    0.5 + 0.5 / 1.5**2,
    -1 / 2 + 1 / (2 * 1.5**2),
]


def test_the_best_logit_of_two_gaussians_is_quadratic():
    squares = torch.stack([torch.ones_like(GRID), GRID, GRID**2], 1) @ torch.tensor(BEST, dtype=torch.float64)
    check_equal(optimal_discriminator(gaussian(*P), gaussian(*Q)), squares)


def features(loc, scale, num):
    x = loc + scale * torch.randn(num, dtype=torch.float64)
    return torch.stack([torch.ones_like(x), x, x**2], 1)


def learned(real, fake, loss):
    """θ that lowers the loss of logits real · θ and fake · θ."""
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(real @ theta, fake @ theta)
        value.backward()
        return value

    optimizer.step(closure)
    return theta.detach()


def check_learned(thetas):
    """The mean of many is the best one, and the value of each on new samples is 2 · JSD − log 4."""
    check_estimate(thetas, BEST, largest_error=0.02)
    real, fake = features(*P, 40_000) @ thetas[0], features(*Q, 40_000) @ thetas[0]
    values = torch.stack([Minimax().value(*pair) for pair in zip(real.split(100), fake.split(100), strict=True)])
    check_estimate(values, 2 * jensen_shannon(gaussian(*P), gaussian(*Q), GRID) - math.log(4), largest_error=0.01)


def test_a_discriminator_learns_the_ratio_of_the_densities():
    check_learned(
        torch.stack([learned(features(*P, 4000), features(*Q, 4000), Minimax().discriminator) for _ in range(30)])
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda real, fake: Minimax().discriminator(fake, real),  # the sign swapped
        Minimax(smoothing=0.1).discriminator,
        make_loss("least-squares").discriminator,
    ],
)
def test_one_of_another_game_does_not(loss):
    with pytest.raises(AssertionError):
        check_learned(torch.stack([learned(features(*P, 4000), features(*Q, 4000), loss) for _ in range(30)]))


# --- which gradients exist


class Game:
    """Two small networks, 20 draws of z and 20 real points."""

    def __init__(self):
        self.generator = nn.Linear(2, 3).double()
        self.discriminator = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
        self.z, self.x = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)

    def fake(self):
        return self.discriminator(self.generator(self.z))

    def real(self, shift=0.0):
        return self.discriminator(self.x + shift)

    def has_gradient(self, number, player):
        """Whether the number depends on a player's parameters, in a way that a step would see."""
        gradients = torch.autograd.grad(number, list(player.parameters()), allow_unused=True, retain_graph=True)
        return any(g is not None and bool((g != 0).any()) for g in gradients)


def test_the_generator_is_told_nothing_by_the_first_term():
    """E log D(x) teaches the discriminator alone; E log(1 − D(G(z))) both players."""
    game = Game()
    first, second = torch.sigmoid(game.real()).log().mean(), torch.sigmoid(-game.fake()).log().mean()
    check_equal(Minimax().value(game.real(), game.fake()), first + second)
    assert not game.has_gradient(first, game.generator)
    assert game.has_gradient(first, game.discriminator)
    assert game.has_gradient(second, game.generator)
    assert game.has_gradient(second, game.discriminator)


def check_uncoupled(game, loss):
    """What the generator is told does not depend on which images are real."""
    told = []
    for shift in (0.0, 1.0):
        cost = loss.generator(game.fake(), game.real(shift))
        told += [torch.cat([g.flatten() for g in torch.autograd.grad(cost, list(game.generator.parameters()))])]
    check_equal(told[0], told[1], 1e-14)
    real = game.real().detach().requires_grad_()
    assert torch.autograd.grad(loss.generator(game.fake(), real), real, allow_unused=True)[0] is None


@pytest.mark.parametrize("name", LOSSES)
def test_only_a_relativistic_generator_looks_at_real_images(name):
    game, loss = Game(), make_loss(name)
    assert game.has_gradient(loss.generator(game.fake(), game.real()), game.generator)
    assert game.has_gradient(loss.discriminator(game.real(), game.fake()), game.discriminator)
    if loss.needs_real:
        with pytest.raises(AssertionError):
            check_uncoupled(game, loss)
    else:
        check_uncoupled(game, loss)


def test_the_players_share_a_value_in_the_first_game_and_in_wasserstein_s():
    """∂V/∂θ is the generator's gradient: what one lowers the other raises."""
    fake = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    for name in LOSSES:
        loss, real = make_loss(name), torch.randn(5, dtype=torch.float64)
        in_value = torch.autograd.grad(loss.value(real, fake), fake)[0]
        in_loss = torch.autograd.grad(loss.generator(fake, real), fake)[0]
        assert torch.allclose(in_value, in_loss) == (name in ("minimax", "wasserstein")), name


# --- what is left of the generator's gradient


def check_closed_forms(saturation):
    """−d, −(1 − d), s − 1, −1, −1 at the logit s, d = eˢ / (1 + eˢ)."""
    s = array(saturation.logits)
    small = np.exp(-np.abs(s))
    d, rest = np.where(s < 0, small, 1) / (1 + small), np.where(s < 0, 1, small) / (1 + small)
    forms = {
        "minimax": -d,
        "non-saturating": -rest,
        "least-squares": s - 1,
        "hinge": 0 * s - 1,
        "wasserstein": 0 * s - 1,
    }
    assert saturation.gradients.keys() == forms.keys()
    for name, form in forms.items():
        np.testing.assert_allclose(array(saturation.gradients[name]), form, rtol=1e-14, atol=0, err_msg=name)


def test_a_sure_discriminator_leaves_the_saturating_generator_nothing():
    saturation = generator_gradients()
    check_closed_forms(saturation)
    first = saturation.rows()[0]
    assert first["probability"] == pytest.approx(1e-6)
    assert first["minimax"] == pytest.approx(-1e-6)
    assert first["non-saturating"] == pytest.approx(-1.0, abs=2e-6)


def test_they_are_exact_however_sure_it_is():
    saturation = generator_gradients_at(
        torch.tensor([-1e4, -740.0, -690.0, -40.0, 0.0, 40.0, 690.0], dtype=torch.float64)
    )
    check_closed_forms(saturation)
    check_equal(saturation.gradients["minimax"][2] / 2.171738281389827e-300, -1.0, 1e-12)  # e^−690
    check_closed_forms(generator_gradients(torch.tensor([1e-300, 0.3, 1 - 1e-15], dtype=torch.float64)))


def test_gradients_of_the_other_loss_or_of_the_mean_are_rejected():
    saturation = generator_gradients(torch.tensor([1e-3, 0.5, 0.9], dtype=torch.float64))
    swapped = dict(
        zip(("non-saturating", "minimax"), map(saturation.gradients.get, ("minimax", "non-saturating")), strict=True)
    )
    for wrong in (swapped, {"minimax": saturation.gradients["minimax"] / 3}):
        gradients = saturation.gradients | wrong
        with pytest.raises(AssertionError):
            check_closed_forms(type(saturation)(saturation.logits, gradients))


def test_the_table_has_a_row_for_each_probability():
    record = json.loads(
        json.dumps(generator_gradients(torch.tensor([0.25, 0.5], dtype=torch.float64)).to_json(), allow_nan=False)
    )
    assert record["losses"] == ["minimax", "non-saturating", "least-squares", "hinge", "wasserstein"]
    assert [row["probability"] for row in record["rows"]] == pytest.approx([0.25, 0.5])
    assert [row["minimax"] for row in record["rows"]] == pytest.approx([-0.25, -0.5])
    assert record["rows"][0]["logit"] == pytest.approx(-math.log(3))


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.5, math.nan])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(UserError, match=f"probability of {wrong:g} came, expected more than 0 and less than 1"):
        generator_gradients(torch.tensor([0.5, wrong], dtype=torch.float64))


def test_the_picture_shows_both_curves_over_six_decades():
    figure = saturation_figure(generator_gradients(torch.tensor([0.5, 1e-6, 1e-3], dtype=torch.float64)))
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in axis.lines}
    assert len(lines) == 2
    for label, sizes in (("log(1 − D(G(z)))", [1e-6, 1e-3, 0.5]), ("−log D(G(z))", [1, 0.999, 0.5])):
        (line,) = (lines[name] for name in lines if name.endswith(label))
        np.testing.assert_allclose(line.get_xdata(), [1e-6, 1e-3, 0.5])
        np.testing.assert_allclose(line.get_ydata(), sizes, rtol=1e-5)
        (text,) = (t for t in axis.texts if t.get_text() == line.get_label())
        assert text.get_color() == line.get_color()
    assert figure_png(figure).startswith(b"\x89PNG")
