"""Pixels drawn several at once: which ones, in what order, and the same images as one by one."""

import pytest
import torch
from image_networks import BINARY, CONTEXTS, MIXTURE, THREE_LEVELS, density
from laws import check_draws_fit, check_same_draws

from probgen.distributions.ancestral import walk
from probgen.layers.causal import RowMemory
from probgen.layers.cursor import Cursor, Wave
from probgen.layers.pixelcnn import PixelCNNNetwork
from probgen.layers.wave import WaveImage, WaveMemory

SIZES = [(5, 7), (7, 5), (1, 6), (6, 6), (3, 9)]
COLOUR = (2, 6, 7)


def steps_of(height, width, lag):
    """The step of each pixel, `h w`; every pixel must have one, and one only."""
    found, wave = torch.full((1, height, width), -1), Wave(height, width, 1, lag)
    for _ in wave:
        assert (wave.take(found[:, None]) == -1).all()
        wave.put(found, torch.full((wave.num_pixels,), wave.step))
        assert found[0, wave.row, wave.column] == wave.step
    return found[0]


def check_order(height, width, lag, aside):
    """What a kernel that reaches `aside` columns to both sides sees, rows above and to the left, has come before."""
    steps = steps_of(height, width, lag)
    assert (steps >= 0).all()
    for i in range(height):
        for j in range(width):
            seen = [steps[:i, max(0, j - aside) : j + aside + 1].flatten(), steps[i, max(0, j - aside) : j]]
            assert (torch.cat(seen) < steps[i, j]).all(), f"pixel ({i}, {j}) would look at one that is not there"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("lag", [1, 2, 4])
def test_every_pixel_comes_once_and_after_what_it_sees(size, lag):
    check_order(*size, lag, aside=lag - 1)


def test_a_lag_that_is_too_short_is_rejected():
    with pytest.raises(AssertionError, match="would look at one that is not there"):
        check_order(5, 7, 2, aside=2)


def test_it_takes_as_many_steps_as_it_says():
    wave = Wave(28, 28, 3, 4)
    assert sum(1 for _ in wave) == 3 * (28 + 4 * 27)


def test_values_are_taken_and_put_in_the_same_order():
    image, other = torch.arange(2 * 4 * 5.0).reshape(2, 4, 5), torch.zeros(2, 4, 5)
    wave = Wave(4, 5, 1, 2)
    for _ in wave:
        values = wave.take(image[:, None])
        assert values.shape == (2 * wave.num_pixels, 1)
        wave.put(other, values[:, 0])
    assert torch.equal(image, other)


# --- the sampler


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("conditional", [THREE_LEVELS, MIXTURE], ids=["three", "mixture"])
@pytest.mark.parametrize(("first_kernel", "kernel"), [(3, 3), (7, 3), (3, 5), (5, 1)])
def test_waves_draw_what_whole_passes_draw(kind, conditional, first_kernel, kernel):
    context = CONTEXTS[kind](2, COLOUR)
    p = density("pixelcnn", COLOUR, conditional, context, first_kernel=first_kernel, kernel=kernel)
    assert isinstance(walk(p.network, COLOUR, in_waves=True), Wave)
    check_same_draws(p)


def test_waves_draw_from_the_density():
    p = density("pixelcnn", (1, 2, 4), BINARY, first_kernel=3)
    check_draws_fit(p, p.sample((5000,)))


def test_a_wave_too_close_behind_the_last_is_rejected(monkeypatch):
    p = density("pixelcnn", (1, 6, 7), THREE_LEVELS, first_kernel=5)
    assert p.network.wave_lag == 3
    monkeypatch.setattr(PixelCNNNetwork, "wave_lag", 2)
    with pytest.raises(AssertionError, match=r"differ at \(channel, row, column\) .*\[0, 1, "):
        check_same_draws(p)


def test_a_memory_that_keeps_what_has_left_the_image_is_rejected(monkeypatch):
    monkeypatch.setattr(WaveMemory, "clear", lambda self, wave: None)
    with pytest.raises(AssertionError, match=r"differ at \(channel, row, column\)"):
        check_same_draws(density("pixelcnn", (1, 6, 7), THREE_LEVELS, first_kernel=3))


def test_a_wave_that_sees_no_image_is_rejected(monkeypatch):
    blind = WaveImage.step
    monkeypatch.setattr(WaveImage, "step", lambda self, image, wave: blind(self, torch.zeros_like(image), wave))
    with pytest.raises(AssertionError, match=r"differ at \(channel, row, column\)"):
        check_same_draws(density("pixelcnn", (1, 6, 7), THREE_LEVELS, first_kernel=3))


def test_a_network_without_a_lag_or_a_narrow_image_goes_pixel_by_pixel():
    wide, narrow = (1, 4, 8), (1, 8, 4)
    for name, shape in (("gated-pixelcnn", wide), ("row-lstm", wide), ("pixelcnn", narrow)):
        cursor = walk(density(name, shape, first_kernel=7).network, shape, in_waves=True)
        assert type(cursor) is Cursor


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
def test_progress_tells_the_pixels_that_are_done(name):
    told = []
    density(name, COLOUR, first_kernel=3).sample((3,), progress=told.append)
    assert told == sorted(set(told))
    assert told[-1] == 6 * 7
    assert len(told) == (7 + 2 * 5 if name == "pixelcnn" else 6 * 7)


def test_watched_or_not_the_images_are_the_same():
    p, drawn = density("pixelcnn", COLOUR, THREE_LEVELS, first_kernel=3), []
    for watch in (None, lambda image: None):
        torch.manual_seed(5)
        drawn.append(p.sample((20,), watch=watch))
    assert torch.equal(*drawn), "other images where they are watched"


def test_a_memory_of_rows_that_forgets_them_is_rejected(monkeypatch):
    monkeypatch.setattr(RowMemory, "begin_row", lambda self: self.sums.copy_(self.layer.bias.expand_as(self.sums)))
    with pytest.raises(AssertionError, match="other images where they are watched"):
        test_watched_or_not_the_images_are_the_same()


def test_in_a_completion_what_is_known_stays():
    p = density("pixelcnn", COLOUR, THREE_LEVELS, first_kernel=3)
    given, mask = p.sample((20,)), torch.rand(20, *COLOUR) < 0.5
    check_same_draws(p, given=given, mask=mask)
    assert torch.equal(p.sample((20,), given=given, mask=mask)[mask], given[mask])
    assert torch.equal(p.sample((20,), given=given, mask=torch.ones(COLOUR).bool()), given)


@pytest.mark.parametrize("mask_shape", [(1, 7), (6, 1), (1, 1), COLOUR, (20, *COLOUR)], ids=str)
def test_a_completion_of_tensors_that_lie_in_another_order(mask_shape):
    """Views that repeat or transpose their memory, of which a wave's places are no view."""
    p = density("pixelcnn", COLOUR, THREE_LEVELS, first_kernel=3)
    given, mask = p.sample((20,)).mT.contiguous().mT, (torch.rand(mask_shape) < 0.5).mT.contiguous().mT
    check_same_draws(p, given=given, mask=mask)
    stays = mask.expand_as(given)
    assert torch.equal(p.sample((20,), given=given, mask=mask)[stays], given[stays])
