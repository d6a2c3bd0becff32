"""What a conditional sees: no pixel that is itself or later, and which of the earlier ones."""

import itertools
import math

import pytest
import torch
from image_networks import BLIND_SPOT, CONTEXTS, NETWORKS, NO_BLIND_SPOT, build
from laws import check_causal_gradients, check_reach, check_reaches_all, named
from leaky_networks import TWINS, LinearNetwork, masked
from torch import nn

from probgen.distributions import Conditional, FactoredImage, check_causal
from probgen.errors import UserError
from probgen.layers.masks import spatial_mask

every_network = pytest.mark.parametrize("name", NETWORKS)
SHAPES = [(1, 1, 1), (1, 1, 5), (1, 5, 1), (1, 4, 5), (2, 3, 3), (3, 2, 4), (3, 1, 1)]
EXAMPLE = torch.zeros((), dtype=torch.float64)


@every_network
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_conditional_depends_on_earlier_pixels_only(name, shape, depth):
    network = build(name, shape, 2, depth=depth)
    check_causal_gradients(network, shape)
    check_causal(network, shape, EXAMPLE)


@every_network
@pytest.mark.parametrize("kind", ["vector", "map"])
def test_under_a_context_too(name, kind):
    context = CONTEXTS[kind](1, (2, 3, 4))
    check_causal_gradients(build(name, (2, 3, 4), context_shape=context.shape[1:]), (2, 3, 4), context)


@pytest.mark.parametrize(("first_kernel", "kernel"), [(1, 1), (1, 3), (3, 1), (5, 3), (3, 5), (7, 3)])
@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "row-lstm"])
def test_whatever_the_kernels(name, first_kernel, kernel):
    check_causal_gradients(build(name, (2, 4, 5), first_kernel=first_kernel, kernel=kernel), (2, 4, 5))


# --- which of the earlier ones


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 2, 7), (3, 3, 3), (2, 1, 4), (2, 4, 1)], ids=str)
@pytest.mark.parametrize("name", NO_BLIND_SPOT)
def test_without_a_blind_spot_every_earlier_pixel_and_channel_is_seen(name, shape):
    check_reaches_all(build(name, shape, depth=max(shape) - 1, features=6), shape)


@pytest.mark.parametrize("name", ["diagonal-bilstm", "raster-lstm"])
def test_one_recurrent_layer_sees_everything(name):
    check_reaches_all(build(name, (2, 4, 5), depth=1), (2, 4, 5))


def test_a_gated_network_of_too_few_layers_misses_what_is_far():
    with pytest.raises(AssertionError, match=r"\(0, 3, 0\), \(0, 0, 0\)\]: the first misses the second"):
        check_reaches_all(build("gated-pixelcnn", (1, 3, 5), depth=1, features=6), (1, 3, 5))


@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("name", BLIND_SPOT)
def test_the_blind_spot_is_a_cone_to_the_right_above_however_deep(name, shape):
    """A 3×3 kernel goes one column to the right for each row that it goes up, and no layer further."""
    places = [named(i, shape) for i in range(math.prod(shape))]
    seen = [[s < t and s[1] - t[1] <= t[0] - s[0] for s in places] for t in places]
    check_reach(build(name, shape, depth=6, features=6), shape, torch.tensor(seen))
    with pytest.raises(AssertionError, match="misses"):
        check_reaches_all(build(name, shape, depth=6, features=6), shape)


@pytest.mark.parametrize(("first_kernel", "kernel"), [(3, 1), (3, 3), (5, 3), (3, 5), (7, 3)])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_masked_convolutions_reach_as_far_as_their_taps_add_up(first_kernel, kernel, depth):
    network = build("pixelcnn", (1, 5, 6), depth=depth, features=16, first_kernel=first_kernel, kernel=kernel)
    reached = steps(first_kernel)
    for _ in range(depth):  # around each convolution goes a path of its own
        reached = reached | {(a + i, b + j) for a, b in reached for i, j in steps(kernel)}
    places = [named(i, (1, 5, 6)) for i in range(30)]
    check_reach(
        network, (1, 5, 6), torch.tensor([[(k - i, m - j) in reached for k, m, _ in places] for i, j, _ in places])
    )


def steps(kernel):
    """How far (rows, columns) the taps before the centre look."""
    return {tuple(tap) for tap in (spatial_mask(kernel, kernel).nonzero() - kernel // 2).tolist()}


@every_network
def test_a_colour_sees_the_colours_before_it_at_its_own_pixel(name):
    expected = torch.tensor([[False, False, False], [True, False, False], [True, True, False]])
    check_reach(build(name, (3, 1, 1)), (3, 1, 1), expected)


# --- broken twins


def test_a_mask_a_in_every_convolution_loses_the_left_neighbour():
    """It is causal; but each layer steps over its own pixel: without a path around, two to the left comes first."""
    check_reach_of_left(masked(lambda name, kernel: "A" if name == "first" else "B"))
    twin = masked(lambda name, kernel: "A" if kernel > 1 else "B")
    for block in twin.layers:
        block.forward = lambda h, x, context, cursor, block=block: block.up(block.conv(block.down(h.relu())).relu())
    check_causal_gradients(twin, (1, 3, 4))
    with pytest.raises(AssertionError, match=r"\(0, 1, 0\), \(0, 0, 0\)\]: the first misses the second"):
        check_reach_of_left(twin)


def test_a_mask_a_everywhere_sees_nothing_at_all():
    twin = masked(lambda name, kernel: "A")
    check_causal_gradients(twin, (1, 3, 4))
    with pytest.raises(AssertionError, match="misses"):
        check_reach_of_left(twin)


def check_reach_of_left(network):
    check_reach(network, (1, 1, 2), torch.tensor([[False, False], [True, False]]))


@pytest.mark.parametrize("twin", TWINS)
def test_a_network_that_leaks_is_rejected_and_the_pixel_is_named(twin):
    make, shape, what = TWINS[twin]
    network = make()
    with pytest.raises(AssertionError, match="the first depends on the second"):
        check_causal_gradients(network, shape)
    with pytest.raises(UserError, match=what):
        check_causal(network, shape, EXAMPLE)


# --- the check itself


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 3, 3)], ids=str)
def test_every_single_leak_is_found_and_named(shape):
    size = math.prod(shape)
    weight = torch.randn(size, size).double().tril(-1)
    check_causal(LinearNetwork(weight, shape), shape, EXAMPLE)
    for place, seen in itertools.combinations_with_replacement(range(size), 2):
        leaky = weight.clone()
        leaky[place, seen] = 0.1
        with pytest.raises(UserError) as error:
            check_causal(LinearNetwork(leaky, shape), shape, EXAMPLE)
        what = "itself" if place == seen else place_in_words(seen, shape)
        assert f"the distribution of {place_in_words(place, shape)} depends on {what}; mask it" in str(error.value)


def place_in_words(place, shape):
    row, column, channel = named(place, shape)
    colour = f", channel {channel}" if shape[0] > 1 else ""
    return f"the pixel at row {row}, column {column}{colour}"


@pytest.mark.parametrize("of", [lambda x: x, torch.Tensor.detach], ids=["flat", "cut"])
def test_a_leak_that_has_no_gradient_is_found_too(of):
    with pytest.raises(UserError, match="row 0, column 0 depends on the pixel at row 0, column 2"):
        check_causal(lambda x: (100 * of(x)).round().flip(3)[:, None], (1, 2, 3), EXAMPLE)


def test_a_leak_is_found_in_an_image_too_large_to_try_every_pixel():
    network = build("pixelcnn", (1, 28, 28), depth=1)
    check_causal(network, (1, 28, 28), EXAMPLE, most_places=16)
    network.first.mask[..., -1, 1] = 1
    with pytest.raises(UserError, match="depends on itself"):
        check_causal(network, (1, 28, 28), EXAMPLE, most_places=16)


class Wrapped(nn.Module):
    """A causal network with something added."""

    def __init__(self, network, add):
        super().__init__()
        self.network, self.add = network, add

    def forward(self, x, context=None):
        return self.add(self.network(x), x)


def one_pixel_more(y, x):
    y[:, 0, 0, 13, 13] += 5 * x[:, 0, 13, 13]
    return y


def test_one_pixel_alone_that_sees_itself_is_found_wherever_it_is():
    network = build("pixelcnn", (1, 28, 28), depth=1)
    with pytest.raises(UserError, match="row 13, column 13 depends on itself"):
        FactoredImage(Wrapped(network, one_pixel_more), Conditional("bernoulli", 2), (1, 28, 28))
    FactoredImage(Wrapped(network, lambda y, x: y), Conditional("bernoulli", 2), (1, 28, 28))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_small_leak_is_found_beside_a_large_offset(offset):
    network = build("pixelcnn", (1, 4, 5)).float()
    with pytest.raises(UserError, match="depends on itself"):
        check_causal(lambda x: offset + 0.004 * x[:, None], (1, 4, 5))
    check_causal(lambda x: offset + 0.004 * network(x), (1, 4, 5))


@every_network
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rounding_is_no_leak(name, scale):
    network = build(name, (1, 9, 10), 2, depth=3, features=16).float()
    check_causal(lambda x: scale * network(x), (1, 9, 10))


def test_numbers_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"the network gave shape \(6, 1, 2, 3\) .* expected \(b, n, 1, 2, 3\)"):
        check_causal(lambda x: x, (1, 2, 3))
