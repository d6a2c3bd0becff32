"""What a pixel depends on, counted by hand, drawn as text."""

import pytest
import torch
from laws import check_equal

from probgen.inference.receptive_field import SHADES, field_of, receptive_field
from probgen.models import VAE, GatedPixelCNN, MultivariateGaussian, PixelCNN
from probgen.models.pixelrnn import DiagonalBiLSTM, RasterLSTM, RowLSTM

SIDE = 9  # the pixel is the middle one of the last row: (8, 4), and 76 come before it
SHAPE = (1, SIDE, SIDE)


def field(model, **options):
    pair = model(SHAPE, 2, features=4, **options).double()
    for parameter in pair.parameters():  # biases that keep units awake
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.1, 0.5)
    return field_of(pair)


def seen(offsets):
    """The map of the pixels at (rows above, columns to the right) of (8, 4)."""
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for above, right in offsets:
        if 0 <= 4 + right < SIDE and above < SIDE:
            expected[8 - above, 4 + right] = True
    return expected


def test_one_block_sees_eleven_pixels():
    """Mask A sees (−1, −1 … 1) and (0, −1); mask B carries that from its own five taps."""
    found = field(PixelCNN, blocks=1, first_kernel=3, kernel=3)
    offsets = [(2, right) for right in range(-2, 3)] + [(1, right) for right in range(-2, 2)] + [(0, -1), (0, -2)]
    assert torch.equal(found.strength > 0, seen(offsets))
    assert (found.row, found.column, found.num_seen, found.num_earlier) == (8, 4, 11, 76)


def test_however_deep_a_pixelcnn_is_blind_above_to_the_right():
    """A path climbs one row for each column that it goes to the right: 3 + 2 + 1 pixels are out of reach."""
    found = field(PixelCNN, blocks=9, first_kernel=3, kernel=3)
    offsets = [(above, right) for above in range(1, 9) for right in range(-4, min(above, 4) + 1)]
    assert torch.equal(found.strength > 0, seen([*offsets, *[(0, -right) for right in range(1, 5)]]))
    assert found.num_seen == 76 - 6
    assert [found.strength[row, 8] > 0 for row in (4, 5, 7)] == [True, False, False]


def test_a_gated_pixelcnn_sees_everything_as_soon_as_it_is_deep_enough():
    assert field(GatedPixelCNN, blocks=8, first_kernel=3, kernel=3).num_seen == 76
    shallow = field(GatedPixelCNN, blocks=0, first_kernel=3)
    assert torch.equal(
        shallow.strength > 0, seen([(above, right) for above in (1, 2) for right in (-1, 0, 1)] + [(0, -1)])
    )


@pytest.mark.parametrize(("model", "num"), [(DiagonalBiLSTM, 76), (RasterLSTM, 76)])
def test_recurrent_networks_see_everything_but_the_row_lstm(model, num):
    assert field(model).num_seen == num
    assert field(RowLSTM, layers=1, first_kernel=3).num_seen < num


@pytest.mark.parametrize("model", [PixelCNN, GatedPixelCNN, RowLSTM])
@pytest.mark.parametrize("options", [{}, {"num_classes": 3, "condition": "label"}], ids=str)
def test_a_field_is_a_map_of_what_comes_before(model, options):
    found = field(model, **options)
    assert found.strength.max() == 1
    assert (found.strength >= 0).all()
    assert not found.strength.flatten()[found.num_earlier :].any()
    text = str(found)
    lines = [line.split(" ") for line in text.splitlines()]
    assert [len(line) for line in lines] == [SIDE] * 8 + [5]
    assert text.count("◎") == 1
    assert lines[8][4] == "◎"
    places = [(i, j) for i in range(SIDE) for j in range(SIDE) if (i, j) < (8, 4)]
    assert all((lines[i][j] == SHADES[0]) == (found.strength[i, j] == 0) for i, j in places)
    assert sum(lines[i][j] != SHADES[0] for i, j in places) == found.num_seen
    told = found.to_json()
    assert told == {"row": 8, "column": 4, "seen": found.num_seen, "earlier": 76, "map": text.splitlines()}


def test_strength_is_the_size_of_the_gradient_and_shades_are_its_decades():
    weights = torch.tensor([[1.0, 0.05, -0.5], [0.005, 0.0, 0.0005]])

    def numbers(x):
        return (x * weights).sum((-3, -2, -1), keepdim=True)[:, None].expand(-1, 2, -1, 2, 3)

    found = receptive_field(numbers, torch.rand(4, 1, 2, 3), 1, 2)
    check_equal(found.strength, weights.abs(), 1e-6)
    assert str(found).splitlines() == ["█ ▓ █", "▒ · ◎"]
    assert (found.num_seen, found.num_earlier) == (4, 5)


def test_strength_is_the_mean_size_over_images_of_the_gradient_of_all_numbers():
    """Of two numbers, f and −f with f = Σ_j w_j x_j², weighted by random v: |v_1 − v_2| · 2 |w_j x_j| of each image."""
    weights, x = torch.tensor([[1.0, 0.5, -2.0], [0.3, 0.0, 0.0]]), torch.randn(4, 1, 2, 3)

    def numbers(x):
        f = (x.square() * weights).sum((-3, -2, -1))
        return torch.stack([f, -f], 1)[..., None, None, None].expand(-1, 2, 1, 2, 3)

    v = torch.randn(4, 2, 1, generator=torch.Generator().manual_seed(0))
    each = (v[:, 0] - v[:, 1])[..., None] * (x * weights).squeeze(1)
    found = receptive_field(numbers, x, 1, 2).strength
    check_equal(found, each.abs().mean(0) / each.abs().mean(0).max(), 1e-6)
    unweighted = (x * weights).squeeze(1).abs().mean(0)
    for twin in (each.abs().max(0).values, each.mean(0).abs(), each[0].abs(), unweighted):
        with pytest.raises(AssertionError):
            check_equal(found, twin / twin.max(), 1e-6)


def test_asking_draws_nothing_and_leaves_no_gradient():
    pair, state = PixelCNN(SHAPE, 2, features=2), torch.get_rng_state()
    assert str(field_of(pair)) == str(field_of(pair))
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_models_that_draw_no_pixels_have_none():
    class Mine(torch.nn.Module):
        numbers = 3

    for pair in (VAE(SHAPE, 2), VAE(SHAPE, 2, likelihood="pixelcnn"), MultivariateGaussian(SHAPE, 2), Mine()):
        assert field_of(pair) is None
