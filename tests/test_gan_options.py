"""The options of a GAN, and samplers of one's own: what is built, and what is refused before a step."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from small_samplers import images_of, plane, with_classes
from torch import nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference import fit
from probgen.inference.adversarial.checks import check_sampler as check_first_run
from probgen.inference.checks import check_pair, sites_of
from probgen.inference.predict import sample
from probgen.models.contracts import (
    USUAL_REGULARIZER,
    AdversarialObjective,
    Kind,
)
from probgen.models.gan import GAN
from probgen.models.registry import build, check_options

# --- options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("relativistic", "r1+r2", 0.1)),
        ({"loss": "wasserstein"}, ("wasserstein", "gradient-penalty", 10.0)),
        ({"loss": "hinge"}, ("hinge", "none", 0.0)),
        ({"loss": "hinge", "regularizer": "r1"}, ("hinge", "r1", 0.1)),
        ({"loss": "hinge", "regularizer": "gradient-penalty"}, ("hinge", "gradient-penalty", 10.0)),
        ({"regularizer": "none"}, ("relativistic", "none", 0.0)),
        ({"regularizer": "r1+r2", "gamma": 3.0}, ("relativistic", "r1+r2", 3.0)),
        ({"loss": "wasserstein", "gamma": 0.0}, ("wasserstein", "gradient-penalty", 0.0)),
    ],
)
def test_a_loss_has_its_usual_regularizer(options, expected):
    play = plane(**options).objective
    assert (play.loss, play.regularizer, play.gamma) == expected
    assert set(USUAL_REGULARIZER) == {"relativistic", "wasserstein"}


def test_the_objective_is_what_the_options_say():
    options = {"discriminator_steps": 2, "discriminator_lr": 3.0, "beta1": 0.1, "beta2": 0.2, "label_smoothing": 0.3}
    options |= {"instance_noise": 0.4, "packing": 5}
    expected = AdversarialObjective("minimax", "r2", 0.6, **options)
    assert plane(loss="minimax", regularizer="r2", gamma=0.6, **options).objective == expected


def norms_of(pair):
    kinds = {type(layer).__name__ for layer in pair.modules()}
    return (
        "spectral" if "ParametrizedLinear" in kinds else "batch" if kinds & {"BatchNorm1d", "BatchNorm2d"} else "none"
    )


@pytest.mark.parametrize(
    ("options", "generator", "discriminator"),
    [
        ({"loss": "hinge"}, "none", "none"),
        ({"loss": "hinge", "spectral_norm": True}, "none", "spectral"),
        ({"loss": "hinge", "discriminator_norm": "batch"}, "none", "batch"),
        ({"network": "dcgan", "loss": "hinge"}, "batch", "batch"),
        ({"network": "dcgan"}, "batch", "none"),  # the penalty is about single images
        ({"network": "dcgan", "loss": "hinge", "discriminator_norm": "none", "generator_norm": "none"}, "none", "none"),
        ({"network": "resnet"}, "none", "none"),
    ],
)
def test_norms(options, generator, discriminator):
    pair = GAN((1, 28, 28), 5, hidden=(4, 4), **options)
    assert (norms_of(pair.generator), norms_of(pair.discriminator)) == (generator, discriminator)


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((1, 8, 8), {"network": "dcgan"}, "network=dcgan came with images of 8×8 pixels"),
        ((2,), {"network": "dcgan"}, "network=dcgan came with data of shape"),
        ((2,), {"network": "resnet"}, "network=resnet came with data of shape"),
        ((2,), {"generator_norm": "batch"}, "generator_norm=batch came with network=mlp"),
        ((2,), {"discriminator_norm": "batch"}, "discriminator_norm=batch came with regularizer=r1"),
        ((1, 8, 8), {"network": "resnet", "loss": "hinge", "discriminator_norm": "batch"}, "network=resnet"),
        ((2,), {"spectral_norm": True, "discriminator_norm": "none"}, "spectral_norm=true came"),
        ((2,), {"loss": "hinge", "gamma": 0.5}, "gamma=0.5 came with loss=hinge and no regularizer"),
        ((2,), {"regularizer": "none", "gamma": 0.5}, "gamma=0.5 came"),
        ((2,), {"condition": "label"}, "condition=label came with data that have no labels"),
    ],
)
def test_options_that_do_not_go_together(shape, options, says):
    with pytest.raises(UserError, match=says):
        GAN(shape, 5 if len(shape) == 3 else None, hidden=(4, 4), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"network": "conv"}, "network=conv came, expected one of mlp, dcgan, resnet"),
        ({"loss": "hing"}, "loss=hing came, expected one of minimax, non-saturating, "),
        ({"regularizer": "r3"}, r"regularizer=r3 came, expected one of none, r1, r2, r1\+r2, gradient-penalty, usual$"),
        ({"activation": "elu"}, "activation=elu came, expected one of relu, "),
        ({"condition": "class"}, "condition=class came, expected one of none, label"),
        ({"generator_norm": "layer"}, "generator_norm=layer came, expected one of none, batch, usual"),
        (
            {"discriminator_norm": "layer"},
            "discriminator_norm=layer came, expected one of none, batch, spectral, usual",
        ),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_a_name_that_is_none_is_refused_when_it_is_made(options, says):
    with pytest.raises(UserError, match=says):
        GAN((2,), **options)


def test_packs_have_no_labels():
    with pytest.raises(UserError, match="packing=2 came with 3 classes"):
        GAN((1, 8, 8), 5, 3, condition="label", packing=2)


# --- a sampler of one's own


class Own(nn.Module):
    """The least that training asks for, with a mistake where a subclass makes one."""

    kind = Kind.IMPLICIT

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
        self.objective = AdversarialObjective(loss="hinge")

    def model(self, num):
        num = num if isinstance(num, int) else len(num)
        with pyro.plate("images", num):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", Implicit(self.generator(z), 1, "none"))

    def seen(self, x):
        return x.float()

    def judge(self, seen):
        return self.discriminator(seen).squeeze(1)


def test_a_sampler_of_ones_own_needs_no_labels_in_its_methods():
    """`model(num)` and `judge(seen)` take what they need."""
    pair = Own()
    history = fit(pair, torch.randn(20, 3), valid=torch.randn(5, 3), steps=4, batch_size=5, progress=False)
    assert history[-1].keys() >= {"value", "critic_real", "critic_fake"}
    assert sample(pair, 6, (3,)).shape == (6, 3)


class NoGenerator(Own):
    def __init__(self):
        super().__init__()
        del self.generator


class NoObjective(Own):
    def __init__(self):
        super().__init__()
        del self.objective


class OtherObjective(Own):
    def __init__(self):
        super().__init__()
        self.objective = {"loss": "hinge"}


class NoJudge(Own):
    judge = None


class OtherShape(Own):
    def model(self, num):
        return super().model(num)[:, :2]


class TooFew(Own):
    def model(self, num):
        return super().model(num)[1:]


class Nothing(Own):
    def model(self, num):
        super().model(num)


class WideLogits(Own):
    def judge(self, seen):
        return self.discriminator(seen)


class NoTensor(Own):
    def judge(self, seen):
        return 0.0


class OnlyNumbers(Own):
    """No mistake: a number of images is all that a program is told."""

    def model(self, num):
        with pyro.plate("images", num):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", Implicit(self.generator(z), 1, "none"))


class Shared(Own):
    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(2, 3)
        self.discriminator.shift = self.generator.bias


class Orphan(Own):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.fixed = nn.Parameter(torch.ones(()), requires_grad=False)  # learns nothing, and may


class BadPlate(Own):
    """Pyro's own draw of rows fails, whose distribution has no batch shape."""

    def model(self, num):
        with pyro.plate("images", num, subsample_size="all"):
            return self.generator(torch.randn(num, 2))


class Cut(Own):
    def model(self, num):
        return super().model(num).detach()


class Unseen(Own):
    def seen(self, x):
        return x.detach()


class Blind(Own):
    def judge(self, seen):
        return seen.sum(1)


class Raises(Own):
    def judge(self, seen):
        raise KeyError("no such layer")


class ShallowEvent(Own):
    def model(self, num):
        num = num if isinstance(num, int) else len(num)
        with pyro.plate("images", num):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
            return self.generator(z)


def with_objective(**numbers):
    """An objective written by hand, whose types nobody looks at."""

    class Written(Own):
        def __init__(self):
            super().__init__()
            for name, value in numbers.items():
                object.__setattr__(self.objective, name, value)

    return Written


class Infinite(Own):
    def model(self, num):
        with pyro.plate("images", num if isinstance(num, int) else len(num)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), -1.0).to_event(1))
            return self.generator(z)


WRONG = [
    (with_objective(loss="hing"), "loss='hing' came, expected one of minimax, "),
    (with_objective(regularizer="r3"), "regularizer='r3' came, expected one of none, r1, "),
    (with_objective(packing=0), "packing=0 came, expected 1 or more"),
    (with_objective(discriminator_steps=0), "discriminator_steps=0 came"),
    (with_objective(beta2=1.0), "beta2=1 came"),
    (Infinite, "Infinite fails on a batch .* test_gan_options.py line .*scale"),
    (NoGenerator, "'generator' is no torch.nn.Module"),
    (NoObjective, "'objective' is no .*AdversarialObjective"),
    (OtherObjective, "'objective' is no .*AdversarialObjective"),
    (NoJudge, "no method 'judge'"),
    (OtherShape, r"the generator makes images of shape \(2,\), the data are of shape \(3,\)"),
    (TooFew, r"gives \d images, expected \d"),
    (Nothing, "gives NoneType, expected the images"),
    (WideLogits, r"the discriminator gives \(2, 1\) for 2 images, expected \(2,\), one logit for each image"),
    (NoTensor, "the discriminator gives float"),
    (Shared, r"Shared: the parameter 'generator.\w+' is 'discriminator.\w+' too"),
    (Orphan, "Orphan: the parameter 'scale' is neither player's and would never be trained: give it to the generator"),
    (Cut, "no gradient in the generator's parameters"),
    (Unseen, "no gradient in the generator's parameters"),
    (Blind, "no gradient in the discriminator's parameters"),
    (BadPlate, "BadPlate fails on a batch .* test_gan_options.py line"),
    (Raises, "Raises fails on a batch .* test_gan_options.py line .*KeyError"),
    (ShallowEvent, r"ShallowEvent fails on a batch .*'z'|ShallowEvent fails on a batch .*Shape mismatch"),
]


@pytest.mark.parametrize(("pair", "says"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_with_it_is_told_in_one_line(pair, says):
    with pytest.raises(UserError, match=says) as caught:
        check_pair(pair(), torch.randn(3, 3))
    assert len(str(caught.value).splitlines()) == 1


def test_a_program_that_takes_a_number_only_is_welcome():
    pair = OnlyNumbers()
    check_pair(pair, torch.randn(3, 3))
    assert sites_of(pair, torch.zeros(2, 3)) == {"z": "latent", "x": "implicit"}
    fit(pair, torch.randn(20, 3), valid=torch.randn(5, 3), steps=4, batch_size=5, progress=False)
    assert sample(pair, 6, (3,)).shape == (6, 3)


def test_the_first_run_leaves_weights_modes_and_randomness_alone():
    pair = images_of("dcgan", (1, 28, 28))
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    state = torch.get_rng_state()
    check_first_run(pair, torch.zeros(3, 1, 28, 28))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert all(layer.training for layer in pair.modules())
    assert all(p.grad is None for p in pair.parameters())
    check_first_run(with_classes(), torch.zeros(1, 1, 8, 8))
    check_first_run(images_of(packing=3), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("name", ["regularizer", "generator_norm", "discriminator_norm"])
def test_none_on_the_command_line_is_a_choice(name):
    """`--set regularizer=none` asks for no regularizer, not for the usual one; a configuration may say null."""
    assert check_options(GAN, {name: "none"}) == {name: "none"}
    assert check_options(GAN, {name: "usual"}) == {name: "usual"}
    assert check_options(GAN, {name: None}) == {name: None}
    assert build(GAN, (2,), None, {"regularizer": "none"}).objective.regularizer == "none"
    for usual in ("usual", None):
        pair = build(GAN, (1, 28, 28), 5, {name: usual, "network": "dcgan", "loss": "hinge"})
        assert (norms_of(pair.generator), norms_of(pair.discriminator)) == ("batch", "batch")
