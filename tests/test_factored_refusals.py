"""What FactoredImage refuses, and what it says: what came, what was expected."""

import pytest
import torch
from image_networks import BINARY, CONTEXTS, MIXTURE, THREE_LEVELS, build, density
from leaky_networks import TWINS, LinearNetwork
from torch import nn

from probgen.distributions import FactoredImage
from probgen.distributions.factored import check_broadcasts
from probgen.errors import UserError

SHAPE = (1, 2, 3)


def refused(what, make, *args, **options):
    """Called so, it raises UserError, with `what` in its message of one line."""
    with pytest.raises(UserError) as error:
        make(*args, **options)
    assert what in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


# --- networks


@pytest.mark.parametrize("twin", TWINS)
def test_a_network_that_is_not_causal_is_refused_with_the_pixel_that_leaks(twin):
    make, shape, what = TWINS[twin]
    refused(f"{what}", FactoredImage, make(), BINARY, shape)
    assert FactoredImage(make(), BINARY, shape, check_network=False).event_shape == shape  # for those who know


def test_under_a_context_it_is_refused_too():
    network = build("pixelcnn", SHAPE, context_shape=(2,))
    network.first.mask[..., -1, 1] = 1
    refused("row 0, column 0 depends on itself", FactoredImage, network, BINARY, SHAPE, torch.randn(3, 2).double())


def test_a_network_is_looked_at_once_for_each_size_of_image():
    calls = []
    network = build("pixelcnn", SHAPE)
    network.register_forward_hook(lambda *_: calls.append(1))
    FactoredImage(network, BINARY, SHAPE)
    first = len(calls)
    assert first > 0
    FactoredImage(network, BINARY, SHAPE)
    assert len(calls) == first
    FactoredImage(network, BINARY, (1, 3, 3))
    assert len(calls) > first


def test_a_leak_behind_a_last_layer_of_zeros_is_found_as_soon_as_it_shows():
    weight = torch.randn(6, 6).double()
    network = LinearNetwork(0 * weight, SHAPE)
    assert FactoredImage(network, BINARY, SHAPE).log_prob(torch.zeros(SHAPE)) < 0
    network.weight.data = weight  # a step of training
    refused("not causal", FactoredImage, network, BINARY, SHAPE)


def test_the_check_leaves_the_random_state_alone():
    network = build("pixelcnn", SHAPE)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    FactoredImage(network, BINARY, SHAPE)
    assert torch.equal(torch.rand(3), expected)


class Flat(nn.Module):
    """Broken: one number for an image."""

    def forward(self, x, context=None):
        return x.flatten(1)


def test_a_network_that_gives_no_map_is_refused():
    refused("the network gave shape (6, 6)", FactoredImage, Flat(), BINARY, SHAPE)


@pytest.mark.parametrize("cached", [True, False])
def test_a_network_of_another_conditional_is_refused(cached):
    p = FactoredImage(build("pixelcnn", SHAPE, 2), THREE_LEVELS, SHAPE)
    expected = "n=2 numbers for each pixel came, expected n=3 of conditional=categorical with 3 levels"
    refused(expected, p.log_prob, torch.zeros(SHAPE))
    refused(expected, p.sample, cached=cached)


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 2, 3), ()], ids=str)
def test_an_image_has_channels_height_and_width(shape):
    expected = f"image_shape={shape} came, expected (channels, height, width)"
    refused(expected, FactoredImage, build("pixelcnn", SHAPE), BINARY, shape)


# --- contexts


@pytest.mark.parametrize("kind", ["vector", "map"])
def test_a_missing_context_is_refused(kind):
    context = CONTEXTS[kind](1, SHAPE)
    network = build("gated-pixelcnn", SHAPE, context_shape=context.shape[1:])
    shape = ", ".join(map(str, context.shape[1:]))
    refused(f"no context came, expected one of shape (*batch, {shape})", FactoredImage, network, BINARY, SHAPE)


@pytest.mark.parametrize("wrong", [(3,), (4, 3), (2, 2), (2, 3, 2), (5, 1, 2, 3), (3, 2, 3)], ids=str)
def test_a_context_of_another_shape_is_refused(wrong):
    network = build("gated-pixelcnn", SHAPE, context_shape=(2, 2, 3))
    expected = f"a context of shape {wrong} came, expected one of shape (*batch, 2, 2, 3)"
    refused(expected, FactoredImage, network, BINARY, SHAPE, torch.zeros(wrong).double())


def test_a_context_for_a_network_that_takes_none_is_refused():
    expected = "a context of shape (4, 2) came, expected none"
    refused(expected, FactoredImage, build("pixelcnn", SHAPE), BINARY, SHAPE, torch.zeros(4, 2).double())
    refused("a context of shape (2,) came", FactoredImage, Flat(), BINARY, SHAPE, torch.zeros(2))


# --- images


@pytest.mark.parametrize("wrong", [(1, 3, 2), (5, 1, 2, 4), (3, 2, 3), (5, 3, 2, 3), (1, 1, 6)], ids=str)
def test_images_of_another_shape_are_refused(wrong):
    p = density("pixelcnn", SHAPE)
    refused(f"images of shape {wrong} came, expected (*batch, 1, 2, 3)", p.log_prob, torch.zeros(wrong))
    refused(f"images of shape {wrong} came", p.log_prob_map, torch.zeros(wrong))


@pytest.mark.parametrize("wrong", [(2, 3), (6,), ()], ids=str)
def test_images_without_their_channels_are_refused(wrong):
    refused(
        f"images of shape {wrong} came, expected (*batch, 1, 2, 3)",
        density("pixelcnn", SHAPE).batch_of,
        torch.zeros(wrong),
    )


def test_more_or_fewer_images_than_contexts_are_refused():
    p = density("pixelcnn", SHAPE, BINARY, torch.randn(4, 2).double())
    refused("images of shape (3, 1, 2, 3) came, expected (4, 1, 2, 3)", p.log_prob, torch.zeros(3, *SHAPE))


@pytest.mark.parametrize("wrong", [-1.0, 0.5, 3.0, 255.0, float("nan"), float("inf")])
def test_values_that_are_no_levels_are_refused(wrong):
    p = density("pixelcnn", SHAPE, THREE_LEVELS)
    x = torch.zeros(4, *SHAPE)
    x[2, 0, 1, 1] = wrong
    refused(f"a pixel of value {wrong:g} came, expected whole numbers 0 to 2", p.log_prob, x)


def test_without_validation_values_are_not_looked_at_but_shapes_are():
    network = build("pixelcnn", SHAPE)
    p = FactoredImage(network, BINARY, SHAPE, validate_args=False)
    assert torch.isfinite(p.log_prob(torch.full(SHAPE, 0.5)))
    refused("images of shape", p.log_prob, torch.zeros(1, 3, 2))
    assert torch.isfinite(p.expand((4,)).log_prob(torch.full(SHAPE, 0.5))).all()


# --- completions


@pytest.mark.parametrize("wrong", [(3, 2), (2, 2), (2, 2, 3), (4, 1, 2, 3), (5, 1, 1, 2, 3), (2, 4)], ids=str)
def test_a_mask_of_another_size_is_refused(wrong):
    p = density("pixelcnn", SHAPE)
    expected = f"mask of shape {wrong}, expected (1, 2, 3), or (5, 1, 2, 3) for each image"
    refused(expected, p.sample, (5,), given=torch.zeros(SHAPE), mask=torch.ones(wrong).bool())


@pytest.mark.parametrize("wrong", [(1, 3, 2), (4, 1, 2, 3), (3, 2, 3)], ids=str)
def test_known_images_of_another_shape_are_refused(wrong):
    p = density("pixelcnn", SHAPE)
    refused(f"given of shape {wrong}", p.sample, (5,), given=torch.zeros(wrong), mask=torch.ones(2, 3).bool())


def test_a_mask_that_is_a_row_only_is_refused():
    refused("mask of shape (3,)", check_broadcasts, "mask", torch.ones(3), torch.Size((5, *SHAPE)))


def test_a_completion_needs_images_and_a_mask():
    p = density("pixelcnn", SHAPE)
    refused("a completion needs both", p.sample, (5,), given=torch.zeros(SHAPE))
    refused("a completion needs both", p.sample, (5,), mask=torch.ones(2, 3).bool())


def test_a_mask_of_numbers_is_refused():
    p = density("pixelcnn", SHAPE)
    refused(
        "a mask of float32 came, expected booleans", p.known, torch.zeros(SHAPE), torch.ones(2, 3), torch.Size(SHAPE)
    )


def test_known_pixels_that_are_no_levels_are_refused_but_unknown_ones_are_not_looked_at():
    p = density("pixelcnn", SHAPE)
    given, mask = torch.zeros(SHAPE), torch.tensor([[True, True, False], [False] * 3])
    given[0, 1, 1] = 7.0
    assert p.sample((5,), given=given, mask=mask).max() <= 1
    given[0, 0, 1] = 0.5
    refused("a pixel of value 0.5 came, expected whole numbers 0 to 1", p.sample, (5,), given=given, mask=mask)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_temperature_is_above_zero(wrong):
    refused(f"temperature={wrong} came", density("pixelcnn", SHAPE).sample, (5,), temperature=wrong)


class NoNumber(nn.Module):
    """Broken: nan from the second row on, or infinite."""

    def __init__(self, size, what):
        super().__init__()
        self.size, self.what = size, what

    def forward(self, x, context=None):
        numbers = x.new_zeros(len(x), self.size, *x.shape[1:])
        numbers[..., 1:, :] = self.what
        return numbers


@pytest.mark.parametrize("conditional", [BINARY, THREE_LEVELS, MIXTURE], ids=lambda c: c.name)
def test_of_numbers_that_are_none_nothing_is_drawn(conditional):
    p = FactoredImage(NoNumber(conditional.size, float("nan")), conditional, SHAPE)
    refused("the network gave nan, or infinite numbers, for the pixel at row 1, column 0", p.sample, (5,))
    known = {"given": torch.zeros(SHAPE), "mask": torch.tensor([[False] * 3, [True] * 3])}
    assert torch.isfinite(p.sample((5,), **known)).all()  # nothing was drawn there


def test_of_an_infinite_logit_nothing_is_drawn():
    p = FactoredImage(NoNumber(3, float("inf")), THREE_LEVELS, SHAPE)
    refused("the network gave nan, or infinite numbers", p.sample, (5,))


@pytest.mark.parametrize("wrong", [0, -3])
def test_an_entropy_of_no_draws_is_refused(wrong):
    refused(f"num_samples={wrong} came, expected 1 or more", density("pixelcnn", SHAPE).entropy, wrong)
