"""The two players' losses and the discriminator's penalties, against numbers worked out by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from laws import check_equal, check_estimate

from probgen.errors import UserError
from probgen.inference.adversarial.losses import (
    LOSSES,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Relativistic,
    Wasserstein,
    make_loss,
)
from probgen.inference.adversarial.penalties import (
    gradient_norm_squared,
    gradient_penalty,
    penalty,
    r1_penalty,
    r2_penalty,
)
from probgen.models.contracts import AdversarialObjective, LossName

LOG_3 = math.log(3)  # the logit of ¾
GAME = {"real": (LOG_3, 0.0), "fake": (-LOG_3, LOG_3)}  # D(x) = ¾, ½; D(G(z)) = ¼, ¾
SCORES = {"real": (0.5, 2.0), "fake": (-1.5, 0.25)}
SAME = {  # log ¾ = −0.28768…, log ½ = −0.69314…, log ¼ = −1.38629…
    **GAME,
    "value": -0.4904146265058631 - 0.8369882167858358,
    "discriminator": (1.3274028432916989, (-0.125, -0.25), (0.125, 0.375)),
}
SMOOTH = (1.4372640721585099, (-0.025, -0.15), (0.125, 0.375))
MARGIN = {**SCORES, "generator": (0.625, (-0.5, -0.5))}

CASES = {  # value; the discriminator's loss and its derivatives in real and fake; the generator's, and in fake
    Minimax(): {**SAME, "generator": (-0.8369882167858358, (-0.125, -0.375))},
    NonSaturating(): {**SAME, "generator": (0.8369882167858358, (-0.375, -0.125))},
    Minimax(0.2): {**SAME, "generator": (-0.8369882167858358, (-0.125, -0.375)), "discriminator": SMOOTH},
    NonSaturating(0.2): {**SAME, "generator": (0.8369882167858358, (-0.375, -0.125)), "discriminator": SMOOTH},
    LeastSquares(): {
        **SCORES,
        "value": -0.890625,
        "discriminator": (0.890625, (-0.25, 0.5), (-0.75, 0.125)),
        "generator": (1.703125, (-1.25, -0.375)),
    },
    LeastSquares(0.2): {
        **SCORES,
        "value": -0.890625,
        "discriminator": (0.960625, (-0.15, 0.6), (-0.75, 0.125)),
        "generator": (1.703125, (-1.25, -0.375)),
    },
    Hinge(): {**MARGIN, "value": -0.875, "discriminator": (0.875, (-0.5, 0.0), (0.0, 0.5))},
    Wasserstein(): {**MARGIN, "value": 1.875, "discriminator": (-1.875, (-0.5, -0.5), (0.5, 0.5))},
    Relativistic(): {
        "real": (LOG_3, 0.0),
        "fake": (0.0, 0.0),
        "value": -0.4904146265058631,
        "discriminator": (0.4904146265058631, (-0.125, -0.25), (0.125, 0.25)),
        "generator": (1.039720770839918, (-0.375, -0.25)),
    },
}
each_case = pytest.mark.parametrize(("loss", "case"), CASES.items(), ids=str)


def logits(numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


def check_loss(loss, case):
    """Values and derivatives are those of the case."""
    real, fake = logits(case["real"]), logits(case["fake"])
    check_equal(loss.value(real, fake), case["value"], 1e-12)
    number, *derivatives = case["discriminator"]
    came = loss.discriminator(real, fake)
    check_equal(came, number, 1e-12)
    for derivative, expected in zip(torch.autograd.grad(came, (real, fake)), derivatives, strict=True):
        check_equal(derivative, expected, 1e-12)
    number, derivative = case["generator"]
    came = loss.generator(fake, real)
    check_equal(came, number, 1e-12)
    check_equal(torch.autograd.grad(came, fake)[0], derivative, 1e-12)


@each_case
def test_values_and_derivatives_are_those_worked_out_by_hand(loss, case):
    check_loss(loss, case)


TWINS = {
    "players swapped": lambda loss: {"discriminator": lambda real, fake: loss.discriminator(fake, real)},
    "discriminator raises": lambda loss: {"discriminator": lambda real, fake: -loss.discriminator(real, fake)},
    "sum for mean": lambda loss: {"discriminator": lambda real, fake: 2 * loss.discriminator(real, fake)},
    "generator raises": lambda loss: {"generator": lambda fake, real: -loss.generator(fake, real)},
    "generator helps": lambda loss: {"generator": lambda fake, real: loss.discriminator(real, fake)},
    "value of the other": lambda loss: {"value": lambda real, fake: -loss.value(real, fake)},
}


@each_case
@pytest.mark.parametrize("twin", TWINS)
def test_a_game_played_wrong_is_rejected(loss, case, twin):
    parts = {name: getattr(loss, name) for name in ("value", "discriminator", "generator")} | TWINS[twin](loss)
    with pytest.raises(AssertionError):
        check_loss(SimpleNamespace(**parts), case)


def test_the_two_generators_of_one_game_are_told_apart():
    for loss, other in ((Minimax(), NonSaturating()), (NonSaturating(), Minimax())):
        with pytest.raises(AssertionError):
            check_loss(other, CASES[loss])


def test_smoothing_moves_the_best_discriminator_of_equal_images_from_a_half_to_two_fifths():
    for s, best in ((0.0, 0.5), (0.2, 0.4)):
        logit = torch.logit(logits([best])).detach().requires_grad_()
        check_equal(torch.autograd.grad(Minimax(s).discriminator(logit, logit), logit)[0], [0.0])


def check_stable(loss, dtype):
    """Finite, with finite derivatives, where the discriminator is as sure as can be, rightly or wrongly."""
    for real, fake in ((1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4)):
        for function in (loss.value, loss.discriminator, lambda real, fake: loss.generator(fake, real)):
            inputs = logits([real], dtype), logits([fake], dtype)
            number = function(*inputs)
            assert number.isfinite(), f"{number} at {real}, {fake}"
            for derivative in torch.autograd.grad(number, inputs, allow_unused=True):
                assert derivative is None or derivative.isfinite().all(), f"derivative {derivative} at {real}, {fake}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_a_sure_discriminator_breaks_no_loss(name, dtype):
    check_stable(make_loss(name), dtype)
    if name in ("minimax", "non-saturating", "least-squares"):
        check_stable(make_loss(name, 0.1), dtype)


def test_logarithms_of_probabilities_that_round_to_0_are_rejected():
    def value(real, fake):
        return real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()

    with pytest.raises(AssertionError):
        check_stable(SimpleNamespace(value=value, discriminator=value, generator=value), torch.float64)


def test_sure_and_right_costs_nothing_and_sure_and_wrong_what_the_logits_say():
    for loss, right, wrong in ((Minimax(), 0, 2e4), (Hinge(), 0, 2e4 + 2), (Relativistic(), 0, 2e4)):
        check_equal(loss.discriminator(logits([1e4]), logits([-1e4])), right)
        check_equal(loss.discriminator(logits([-1e4]), logits([1e4])), wrong)


def test_losses_go_by_the_names_of_the_contract():
    assert tuple(LOSSES) == get_args(LossName)
    assert AdversarialObjective().loss in LOSSES
    for name in LOSSES:
        loss = make_loss(name)
        assert loss.name == name
        assert loss == LOSSES[name]()
    assert [name for name in LOSSES if make_loss(name).needs_real] == ["relativistic"]
    assert [name for name in LOSSES if make_loss(name).is_probability] == ["minimax", "non-saturating"]
    assert make_loss("least-squares", 0.1) == LeastSquares(0.1)


@pytest.mark.parametrize(
    ("name", "smoothing", "says"),
    [
        ("non-saturated", 0.0, "unknown loss 'non-saturated': did you mean 'non-saturating'"),
        ("?", 0.0, "expected one of minimax, non-saturating"),
        ("minimax", 0.5, "label_smoothing=0.5 came, expected 0 or more and less than 0.5"),
        ("minimax", -0.1, "label_smoothing=-0.1 came"),
        ("minimax", math.nan, "label_smoothing=nan came"),
        ("wasserstein", 0.1, "label_smoothing=0.1 came with the loss 'wasserstein', which has no labels"),
        ("hinge", 0.1, "one of minimax, non-saturating, least-squares"),
        ("relativistic", 0.1, "no labels"),
    ],
)
def test_wrong_names_and_smoothing_are_refused(name, smoothing, says):
    with pytest.raises(UserError) as refusal:
        make_loss(name, smoothing)
    assert says in str(refusal.value)


def test_a_relativistic_generator_asks_for_real_images():
    with pytest.raises(UserError, match="no logits of real images came"):
        Relativistic().generator(torch.zeros(2))
    assert Minimax().generator(torch.zeros(2)) == pytest.approx(-math.log(2))


# --- penalties of D(x) = xᵀAx/2 + bᵀx, whose gradient is (A + Aᵀ)x/2 + b


class Quadratic:
    """D, and how often it was asked; with `packing`, the sum over the images of a pack."""

    def __init__(self, b, packing=1):
        self.A, self.b = logits([[2.0, 1.0], [1.0, 3.0]]), logits(b)
        self.packing, self.calls, self.seen = packing, 0, None

    def __call__(self, x):
        self.calls, self.seen = self.calls + 1, x.detach()
        each = torch.einsum("bi, ij, bj -> b", x, self.A, x) / 2 + x @ self.b
        return each.reshape(-1, self.packing).sum(1)


REAL = torch.tensor([[1.0, 2.0], [-1.0, 0.0]], dtype=torch.float64)  # gradients (5, 6), (−1, −2) with b = (1, −1)
FAKE = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)  # and (2, 2), (1, −1)
ONE = torch.tensor([[1.0, 2.0]], dtype=torch.float64)  # gradient (3, 4) with b = (−1, −3)


def check_r1(function, packing=1):
    """Σ ‖∇D‖² = 61 + 5 over the logits' number, and its derivatives in A and b."""
    judge, p = Quadratic((1.0, -1.0), packing), 2 // packing
    came = function(judge, REAL)
    check_equal(came, 66 / p, 1e-12)
    in_A, in_b = torch.autograd.grad(came, (judge.A, judge.b))
    check_equal(in_A, [[12 / p, 18 / p], [18 / p, 24 / p]], 1e-12)
    check_equal(in_b, [8 / p, 8 / p], 1e-12)


def reused(judge, images):
    images = images.clone().requires_grad_()
    return gradient_norm_squared(judge(images), images)


@pytest.mark.parametrize("packing", [1, 2])
@pytest.mark.parametrize("function", [r1_penalty, r2_penalty, reused])
def test_r1_is_the_mean_squared_norm_of_the_gradient(function, packing):
    check_r1(function, packing)


def gradient_of(judge, images, create_graph=True):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(judge(images).sum(), images, create_graph=create_graph)[0]


@pytest.mark.parametrize(
    ("twin", "error"),
    [
        (lambda judge, x: gradient_of(judge, x).norm(dim=1).mean(), AssertionError),  # no square
        (lambda judge, x: gradient_of(judge, x).square().mean(), AssertionError),  # the mean over pixels, too
        (lambda judge, x: gradient_of(judge, x).square().sum(), AssertionError),  # no mean over images
        (lambda judge, x: gradient_of(lambda x: judge(x) / 2, x).square().sum(), AssertionError),  # of the mean logit
        (lambda judge, x: gradient_of(lambda x: judge(x).sigmoid(), x).square().sum() / 2, AssertionError),
        (lambda judge, x: gradient_of(judge, x, False).square().sum(1).mean(), RuntimeError),  # constant for the judge
    ],
)
def test_other_penalties_are_not_r1(twin, error):
    with pytest.raises(error):
        check_r1(twin)


def check_gradient_penalty(function):
    """x̂ = ¼ (4, 8) + ¾ (0, 0) = (1, 2): (‖(3, 4)‖ − 1)² = 16, and its derivatives."""
    judge = Quadratic((-1.0, -3.0))
    came = function(judge, 4 * ONE, 0 * ONE, torch.tensor([0.25], dtype=torch.float64))
    check_equal(came, 16, 1e-12)
    in_A, in_b = torch.autograd.grad(came, (judge.A, judge.b))
    check_equal(in_A, [[4.8, 8.0], [8.0, 12.8]], 1e-12)
    check_equal(in_b, [4.8, 6.4], 1e-12)


def test_the_gradient_penalty_holds_the_slope_between_the_images_near_1():
    check_gradient_penalty(gradient_penalty)


@pytest.mark.parametrize(
    "twin",
    [
        lambda judge, real, fake, mix: gradient_penalty(judge, fake, real, mix),
        lambda judge, real, fake, mix: r1_penalty(judge, mix * real),  # no norm of 1
        lambda judge, real, fake, mix: (gradient_of(judge, mix * real).norm() - 1).abs(),
        lambda judge, real, fake, mix: gradient_penalty(judge, real, fake, 1 - mix),
    ],
)
def test_other_penalties_are_not_the_gradient_penalty(twin):
    with pytest.raises(AssertionError):
        check_gradient_penalty(twin)


def test_a_pack_has_one_norm_and_one_place_between():
    """‖(3, 4, 3, 4)‖ = √50; and ε, read off images of ones and zeros, is the same for both images of a pack."""
    check_equal(
        gradient_penalty(Quadratic((-1.0, -3.0), 2), ONE.repeat(2, 1), ONE.repeat(2, 1), packing=2), 51 - 200**0.5
    )
    judge, ones = Quadratic((0.0, 0.0), 2), torch.ones(2000, 2, dtype=torch.float64)
    gradient_penalty(judge, ones, 0 * ones, packing=2)
    mix = judge.seen.reshape(1000, 4)
    assert (mix == mix[:, :1]).all()
    check_estimate(torch.stack([mix[:, 0], mix[:, 0].square()], 1), [1 / 2, 1 / 3], largest_error=0.01)
    torch.manual_seed(3)
    first = gradient_penalty(judge, ones, 0 * ones, packing=2)
    assert first != gradient_penalty(judge, ones, 0 * ones, packing=2)
    torch.manual_seed(3)
    assert first == gradient_penalty(judge, ones, 0 * ones, packing=2)


def test_a_judge_of_packs_is_not_taken_for_one_of_images():
    with pytest.raises(UserError, match="1 logits of 2 images came, expected one for each 1"):
        gradient_penalty(Quadratic((1.0, -1.0), 2), REAL, FAKE)


def test_a_discriminator_without_slope_has_a_finite_derivative():
    """‖g‖ has none at g = 0; the square root of a sum of squares gives nan there."""
    w = logits([0.0, 0.0])
    came = gradient_penalty(lambda x: x @ w, REAL, FAKE)
    check_equal(came, 1.0)
    check_equal(torch.autograd.grad(came, w)[0], [0.0, 0.0])
    naive = (gradient_of(lambda x: x @ w, REAL).square().sum(1).sqrt() - 1).square().mean()
    assert torch.autograd.grad(naive, w)[0].isnan().all()


@pytest.mark.parametrize(
    ("name", "expected", "passes"), [("none", 0.0, 0), ("r1", 66.0, 1), ("r2", 10.0, 1), ("r1+r2", 76.0, 2)]
)
def test_named_penalties_carry_their_weights_and_spare_a_pass(name, expected, passes):
    """γ = 4: 2 · 33 at real images, 2 · 5 at generated ones."""
    judge = Quadratic((1.0, -1.0))
    check_equal(penalty(name, judge, REAL, FAKE, 4.0), expected, 1e-12)
    assert judge.calls == passes
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    on_real, on_fake = judge(real), judge(fake)
    check_equal(penalty(name, judge, real, fake, 4.0, on_real, on_fake), expected, 1e-12)
    assert judge.calls == passes + 2


@pytest.mark.parametrize(("packing", "expected"), [(1, 64.0), (2, 4 * (51 - 200**0.5))])
def test_the_named_gradient_penalty_learns_of_packs_from_the_logits(packing, expected):
    judge, images = Quadratic((-1.0, -3.0), packing), ONE.repeat(2, 1)
    check_equal(penalty("gradient-penalty", judge, images, images, 4.0, judge(images), judge(images)), expected, 1e-12)


def test_an_unknown_penalty_is_refused():
    with pytest.raises(
        UserError, match=r"'gradient_penalty': did you mean 'gradient-penalty'\? expected one of none, r1"
    ):
        penalty("gradient_penalty", Quadratic((1.0, -1.0)), REAL, FAKE, 1.0)


@pytest.mark.parametrize("name", ["r1", "r2", "r1+r2", "gradient-penalty"])
def test_a_penalty_teaches_the_discriminator_alone(name):
    generator, judge = logits([1.0, 2.0]), Quadratic((1.0, -1.0))
    cost = penalty(name, judge, REAL, REAL * generator, 1.0)
    in_generator, in_judge = torch.autograd.grad(cost, (generator, judge.A), allow_unused=True)
    assert in_generator is None
    assert in_judge.abs().sum() > 0


def test_a_loss_is_a_value_like_any_other():
    assert replace(Minimax(), smoothing=0.1) == Minimax(0.1) != NonSaturating(0.1)
