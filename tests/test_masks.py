"""The masks of causal convolutions, by hand."""

import doctest
import itertools

import pytest
import torch

from probgen.layers import causal, masks
from probgen.layers.causal import CausalConv2d, shifted_down
from probgen.layers.masks import causal_mask, channel_mask, printed, spatial_mask

SIZES = list(itertools.product([1, 2, 3, 5, 7], repeat=2))


@pytest.mark.parametrize("module", [masks, causal], ids=["masks", "causal"])
def test_the_examples_in_the_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    assert doctest.testmod(masks).attempted >= 5


def test_the_masks_are_these():
    assert printed(causal_mask("A", 1, 1, 3, 3)[0, 0]) == "■ ■ ■\n■ · ·\n· · ·"
    assert printed(causal_mask("B", 1, 1, 3, 3)[0, 0]) == "■ ■ ■\n■ ■ ·\n· · ·"
    assert printed(causal_mask("A", 1, 1, 1, 5)[0, 0]) == "■ ■ · · ·"
    assert printed(causal_mask("B", 1, 1, 1, 5)[0, 0]) == "■ ■ ■ · ·"
    assert printed(causal_mask("A", 1, 1, 5, 1)[0, 0]) == "■\n■\n·\n·\n·"
    assert printed(causal_mask("A", 1, 1, 1, 1)[0, 0]) == "·"
    assert printed(causal_mask("B", 1, 1, 1, 1)[0, 0]) == "■"


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_tap_looks_where_raster_order_has_been(height, width):
    mask = spatial_mask(height, width)
    for i, j in itertools.product(range(height), range(width)):
        assert mask[i, j] == ((i, j) < (height // 2, width // 2))


def test_colours_of_the_same_pixel_are_in_the_order_red_green_blue():
    """Rows: what a feature is of; columns: what it looks at."""
    assert printed(channel_mask("A", 3, 3, 3)) == "· · ·\n■ · ·\n■ ■ ·"
    assert printed(channel_mask("B", 3, 3, 3)) == "■ · ·\n■ ■ ·\n■ ■ ■"


def test_features_are_interleaved_over_the_channels():
    """Feature f is of channel f mod 3, the last features too where their number is no multiple of 3."""
    assert printed(channel_mask("B", 4, 5, 3)) == "■ · · ■ ·\n■ ■ · ■ ■\n■ ■ ■ ■ ■\n■ · · ■ ·"
    assert printed(channel_mask("A", 4, 5, 2)) == "· · · · ·\n■ · ■ · ■\n· · · · ·\n■ · ■ · ■"


@pytest.mark.parametrize("kind", ["A", "B"])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (6, 3), (5, 4), (7, 9)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_entry_is_the_order_of_rows_columns_and_channels(kind, outputs, inputs, channels):
    mask = causal_mask(kind, outputs, inputs, 3, 5, channels)
    assert mask.shape == (outputs, inputs, 3, 5)
    for f, g, i, j in itertools.product(range(outputs), range(inputs), range(3), range(5)):
        place, own = (i, j, g % channels), (1, 2, f % channels)
        assert mask[f, g, i, j] == (place < own or (kind == "B" and place == own))


def test_mask_a_is_strict_and_mask_b_adds_the_own_channel_only():
    a, b = (causal_mask(kind, 6, 6, 3, 3, 3) for kind in ("A", "B"))
    difference = (b - a)[:, :, 1, 1]
    assert torch.equal(difference, torch.eye(3).repeat(2, 2))
    assert torch.equal((b - a).sum(), difference.sum())


def test_halves_of_the_features_are_whole_channels():
    """Gates are cut from the features by `chunk`: in both halves feature f is of the same channel."""
    mask = channel_mask("B", 12, 6, 3)
    first, second = mask.chunk(2)
    assert torch.equal(first, second)


def test_masks_can_be_printed_whatever_their_type():
    assert printed(spatial_mask(2, 3).bool()) == printed(spatial_mask(2, 3)) == "■ ■ ■\n■ · ·"


@pytest.mark.parametrize("kind", ["A", "B"])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 5), (3, 3), (5, 3)])
def test_a_layer_keeps_only_the_rows_that_may_look_and_is_the_same_convolution(kind, kernel):
    layer = CausalConv2d(4, 6, kernel, kind, channels=2)
    whole = torch.zeros(6, 4, *kernel)
    whole[:, :, : kernel[0] // 2 + 1] = layer.weight.detach()
    x = torch.randn(2, 4, 5, 6)
    weight = whole * causal_mask(kind, 6, 4, *kernel, 2)
    expected = torch.conv2d(x, weight, layer.bias, padding=(kernel[0] // 2, kernel[1] // 2))
    torch.testing.assert_close(layer(x), expected)


def test_a_masked_weight_that_was_set_by_hand_stays_masked():
    """The mask is part of the forward pass: no optimizer step can undo it."""
    layer = CausalConv2d(1, 1, (3, 3), "A")
    torch.nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = 1.0
    assert printed(layer(x)[0, 0].detach()) == "· · ·\n· · ■\n■ ■ ■"


def test_moved_down_a_row_holds_the_row_above_it():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    assert shifted_down(x)[0, 0].tolist() == [[0, 0], [1, 2], [3, 4]]
