"""The sampler x = G(z): its program, what it refuses, labels, whole grey levels, its equation."""

import math

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate, check_sampler
from pyro import poutine
from scipy import stats
from torch import nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference import elbo_terms, equation, fit, iwae
from probgen.inference.adversarial.checks import check_sampler as check_first_run
from probgen.inference.checks import check_pair, sites_of
from probgen.inference.predict import sample, sample_means
from probgen.models.contracts import (
    USUAL_REGULARIZER,
    AdversarialObjective,
    ImplicitSampler,
    Kind,
    TractableDensity,
    kind_of,
)
from probgen.models.gan import GAN
from probgen.models.registry import build, check_options

IMAGES = ("mlp", (1, 8, 8)), ("dcgan", (1, 28, 28)), ("resnet", (3, 8, 8))


def images_of(network="mlp", shape=(1, 8, 8), levels=17, num_classes=None, **options):
    """A small sampler of images whose numbers reach both ends of the grey levels."""
    torch.manual_seed(0)
    pair = GAN(shape, levels, num_classes, network=network, hidden=(6, 4), latent_dim=3, **options)
    for parameter in pair.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return pair.double()


def plane(**options):
    torch.manual_seed(0)
    return GAN((2,), hidden=(6, 5), **options).double()


def with_classes():
    return images_of(num_classes=4, condition="label")


def trace_of(pair, *args):
    return poutine.trace(pair.model).get_trace(*args)


@pytest.fixture
def untyped(monkeypatch):
    """As users run it: annotations are checked in tests only."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# --- the program


@pytest.mark.parametrize(("network", "shape"), IMAGES)
def test_the_program_draws_z_and_makes_x_of_it(network, shape):
    pair = images_of(network, shape).eval()
    trace = trace_of(pair, 5)
    assert [name for name, node in trace.nodes.items() if node["type"] == "sample" and name != "images"] == ["z", "x"]
    z, x = trace.nodes["z"]["value"], trace.nodes["x"]["value"]
    assert (z.shape, x.shape) == ((5, 3), (5, *shape))
    check_equal(x.detach(), (pair.generator(z).detach() + 1) * 8)
    assert pair.model(7).shape == pair.model(torch.zeros(7, *shape)).shape == (7, *shape)
    again = poutine.condition(pair.model, data={"z": z})
    assert torch.equal(again(5), again(5))
    assert torch.equal(again(5), x)
    assert not torch.equal(pair.model(5), pair.model(5))


def test_z_is_standard_normal():
    z = trace_of(plane(), 4000).nodes["z"]["value"]
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize(("network", "shape"), IMAGES)
def test_the_gradient_of_an_image_reaches_z_and_every_weight(network, shape):
    pair = images_of(network, shape)
    z = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    poutine.condition(pair.model, data={"z": z})(4).square().sum().backward()
    assert (z.grad.abs().amax(1) > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in pair.generator.parameters())
    assert all(p.grad is None for p in pair.discriminator.parameters())


def test_no_number_is_a_density():
    """Whoever asks for one is told that there is none, and what to do instead."""
    pair, x = plane(), torch.zeros(3, 2).double()
    trace = trace_of(pair, 3)
    for ask in (
        lambda: pair.log_prob(x),
        lambda: pair.guide(x),
        lambda: trace.compute_log_prob(),
        lambda: trace.nodes["x"]["fn"].log_prob(x),
        lambda: elbo_terms(pair.model, pair.guide, x),
        lambda: iwae(pair.model, pair.guide, x),
    ):
        with pytest.raises(TypeError, match=r"x = G\(z\) is implicit.*probgen evaluate RUN.*such as vae"):
            ask()
    check_equal(trace.nodes["z"]["fn"].log_prob(torch.zeros(3, 2).double()), [-math.log(2 * math.pi)] * 3)


def test_its_place_in_the_taxonomy():
    pair = plane()
    assert kind_of(pair) is Kind.IMPLICIT
    assert isinstance(pair, ImplicitSampler)
    assert kind_of(GAN) is Kind.IMPLICIT
    assert isinstance(pair, TractableDensity)  # by its methods, which all raise: hence what it declares comes first
    assert sites_of(pair, torch.zeros(2, 2)) == {"z": "latent", "x": "implicit"}
    assert sites_of(with_classes(), torch.zeros(2, 1, 8, 8)) == {"y": "latent", "z": "latent", "x": "implicit"}


def test_its_equation():
    def lines(pair, x):
        return str(equation(pair.model, lambda _: None, x)).splitlines()

    told = lines(plane(), torch.zeros(3, 2))
    assert any("z ~ p(z)" in line for line in told)
    assert any("x = G(z)" in line for line in told)
    told = lines(with_classes(), torch.zeros(3, 1, 8, 8))
    assert any("y ~ p(y)" in line for line in told)
    assert any("x = G(z, y)" in line or "x = G(y, z)" in line for line in told)
    for line in lines(plane(), torch.zeros(3, 2)):
        assert "p(x | z)" not in line


# --- the distribution of what was made


def test_implicit_is_a_point_that_can_be_drawn():
    value = torch.randn(4, 2, requires_grad=True)
    made = Implicit(value, 1, "none")
    assert (made.batch_shape, made.event_shape) == ((4,), (2,))
    assert made().requires_grad
    assert torch.equal(made.sample(), value)
    assert torch.equal(made.rsample((3,)), value.expand(3, 4, 2))
    wide = made.expand((5, 4))
    assert (wide.batch_shape, wide().shape) == ((5, 4), (5, 4, 2))
    assert made.support.event_dim == 1
    with pytest.raises(TypeError, match="none"):
        wide.log_prob(value)


# --- samples


@pytest.mark.parametrize(("network", "shape"), IMAGES)
def test_samples_are_in_whole_grey_levels(network, shape):
    pair = images_of(network, shape)
    assert pair.training
    x = sample(pair, 30, shape)
    assert torch.equal(x, x.round())
    assert (x.min(), x.max()) >= (0, 1)
    assert x.max() <= 16
    assert len(x.unique()) > 5
    assert pair.training
    made = pair.model(5)  # what the discriminator sees
    assert not torch.equal(made, made.round())


def test_levels_reach_both_ends_and_no_further():
    """tanh ends at ±1, which are the levels 0 and 16."""
    pair = images_of()
    with torch.no_grad():
        pair.generator.body[-2].bias += torch.tensor([1e3, -1e3]).repeat(32)
    assert set(sample(pair, 3, (1, 8, 8)).unique().tolist()) == {0.0, 16.0}


def test_points_are_not_rounded():
    x = sample(plane(), 5, (2,))
    assert not torch.equal(x, x.round())


def linear(W, b):
    """A sampler whose generator is x = W z + b."""
    pair = plane()
    pair.generator = nn.Linear(2, 2).double()
    pair.generator.weight.data, pair.generator.bias.data = W, b
    return pair


W, B = torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double(), torch.tensor([3.0, -1.0]).double()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_are_those_of_the_pushforward_and_temperature_scales_z(temperature):
    """Of x = W z + b the law is known: N(b, t² W Wᵀ)."""
    x = sample(linear(W, B), 20_000, (2,), temperature=temperature)
    check_estimate(x, B, largest_error=0.04)
    centred = x - B
    expected = temperature**2 * (W @ W.T)
    check_estimate(centred[:, :, None] * centred[:, None], expected, largest_error=0.2)


def test_a_temperature_that_does_nothing_is_told_apart():
    x = sample(linear(W, B), 20_000, (2,), temperature=0.5)
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(((x - B) ** 2), (W @ W.T).diag(), largest_error=0.2)


def test_a_prior_that_is_no_gaussian_has_no_temperature():
    class Uniform(GAN):
        def prior(self):
            return dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)

    with pytest.raises(UserError, match="the prior of 'z' is a Uniform"):
        sample(Uniform((2,)), 3, (2,), temperature=0.5)
    assert sample(Uniform((2,)), 3, (2,)).shape == (3, 2)


def test_there_is_no_mean_of_x_given_z():
    with pytest.raises(UserError, match=r"E\[x \| z\] is x itself"):
        sample_means(plane(), 3, (2,))


# --- to what the discriminator sees, and back


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_are_seen_from_minus_one_to_one(levels):
    pair = GAN((1, 2, 2), levels, hidden=(4,))
    x = torch.randint(0, levels, (50, 1, 2, 2), dtype=torch.uint8)
    seen = pair.seen(x)
    assert seen.dtype == torch.float32
    check_equal(seen, 2 * x.double() / (levels - 1) - 1, 1e-6)
    check_equal((seen + 1) * (levels - 1) / 2, x, 1e-4)


def test_what_is_made_is_seen_as_the_generator_made_it():
    """`made` and `seen` undo each other: the discriminator judges tanh's own numbers."""
    pair, z = images_of(), torch.randn(5, 3).double()
    check_equal(pair.seen(pair.made(z)).detach(), pair.generator(z).detach())
    points = torch.randn(5, 2).double()
    assert torch.equal(plane().seen(points), points)


def test_features_are_the_last_hidden_layer():
    pair = images_of()
    x = torch.randint(0, 17, (5, 1, 8, 8), dtype=torch.uint8)
    features = pair.features(x)
    assert features.shape == (5, 4)
    assert not features.requires_grad
    last = pair.discriminator.last
    check_equal(features @ last.weight[0] + last.bias, pair.judge(pair.seen(x)).detach())


# --- labels


def test_labels_are_uniform_unless_they_are_given():
    pair = with_classes()
    drawn = trace_of(pair, 4000).nodes["y"]["value"]
    check_sampler(drawn, [0.25] * 4)
    with pytest.raises(AssertionError):
        check_sampler(drawn.clamp(max=2), [0.25] * 4)
    given = trace_of(pair, 3, torch.tensor([0, 3, 1]))
    assert "y" not in given.nodes
    z = given.nodes["z"]["value"]
    check_equal(given.nodes["x"]["value"].detach(), pair.made(z, torch.tensor([0, 3, 1])).detach())


def test_a_label_is_respected():
    pair = with_classes()
    drawn = []
    for label in (1, 1, 2):
        torch.manual_seed(5)
        drawn.append(sample(pair, 6, (1, 8, 8), label=label))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    torch.manual_seed(5)
    z = torch.normal(torch.zeros(6, 3).double(), torch.ones(6, 3).double())
    expected = pair.made(z, torch.ones(6, dtype=torch.int64)).detach()
    check_equal(drawn[0], expected.round().clamp(0, 16))


def test_temperature_leaves_labels_alone():
    pair = with_classes()
    assert sample(pair, 6, (1, 8, 8), temperature=0.5).shape == (6, 1, 8, 8)
    cold = sample(pair, 50, (1, 8, 8), temperature=1e-9, label=1)
    assert (cold == cold[:1]).all()
    assert len(sample(pair, 200, (1, 8, 8), temperature=1e-9).unique(dim=0)) == 4  # one image of each class


@pytest.mark.parametrize("label", [-1, 4, 100])
def test_a_label_that_is_none_is_refused(label):
    with pytest.raises(UserError, match=f"label {label} came, expected a whole number, 0 to 3"):
        sample(with_classes(), 2, (1, 8, 8), label=label)
    with pytest.raises(UserError, match="a label came, but this model was trained without"):
        sample(images_of(), 2, (1, 8, 8), label=1)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.tensor([0, 4, 1]), "labels from 0 to 4 came, expected a whole number, 0 to 3, for each image"),
        (torch.tensor([0, -1, 1]), "labels from -1 to 1 came, expected a whole number, 0 to 3"),
        (torch.tensor([0.0, 1.0, 2.0]), "labels of dtype torch.float32 came, expected a tensor of torch.int64"),
        (torch.tensor([True, False, True]), "labels of dtype torch.bool came"),
        ([0, 1, 2], "labels of type list came"),
        (torch.tensor([0, 1]), r"labels of shape \(2,\) came, expected \(3,\)"),
        (torch.tensor([[0], [1], [2]]), r"labels of shape \(3, 1\) came, expected \(3,\)"),
        (torch.tensor(0), r"labels of shape \(\) came, expected \(3,\)"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_labels_that_are_none_are_refused_by_both_players(y, says):
    pair = with_classes()
    for ask in (lambda: pair.model(3, y), lambda: pair.judge(torch.zeros(3, 1, 8, 8).double(), y)):
        with pytest.raises(UserError, match=says) as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1
    assert pair.judge(torch.zeros(3, 1, 8, 8).double(), torch.tensor([3, 0, 1])).shape == (3,)


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
    (Infinite, "Infinite fails on a batch .* test_gan.py line .*scale"),
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
    (BadPlate, "BadPlate fails on a batch .* test_gan.py line"),
    (Raises, "Raises fails on a batch .* test_gan.py line .*KeyError"),
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
