"""The sampler x = G(z): its program, what it refuses, labels, whole grey levels, its equation."""

import math

import pyro.distributions as dist
import pytest
import torch
from laws import check_equal, check_estimate, check_sampler
from pyro import poutine
from scipy import stats
from small_samplers import IMAGES, images_of, plane, trace_of, with_classes
from torch import nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference import elbo_terms, equation, iwae
from probgen.inference.checks import sites_of
from probgen.inference.predict import sample, sample_means
from probgen.models.contracts import (
    ImplicitSampler,
    Kind,
    TractableDensity,
    kind_of,
)
from probgen.models.gan import GAN

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
