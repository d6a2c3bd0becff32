"""The pictures: PNGs that decode, with every image where it belongs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from probgen import plots
from probgen.errors import UserError

PAPER, GAP, CELL = 255, 4, 64


def pixels_of(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def flat(value, channels=1, height=8, width=8):
    """One image of one grey level."""
    return torch.full((1, channels, height, width), float(value))


def test_two_images_side_by_side_pixel_by_pixel():
    """Levels 0 … 16: black, and 4/16 of white; 64 pixels each, 4 apart and around."""
    found = pixels_of(plots.grid(torch.cat([flat(0), flat(4)]), levels=17, columns=2))
    expected = np.full((CELL + 2 * GAP, 2 * CELL + 3 * GAP, 3), PAPER, np.uint8)
    expected[4:68, 4:68] = 0
    expected[4:68, 72:136] = 64
    np.testing.assert_array_equal(found, expected)


def test_the_order_is_row_by_row_and_an_empty_place_stays_paper():
    found = pixels_of(plots.grid(torch.cat([flat(0), flat(1), flat(2)]), levels=17))
    assert found.shape == (140, 140, 3)
    centres = [found[y, x, 0] for y in (36, 104) for x in (36, 104)]
    assert centres == [0, round(255 / 16), round(2 * 255 / 16), PAPER]


def test_an_image_stands_upright():
    """The first row of the tensor is on top, its first column on the left; each pixel an 8 × 8 square."""
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = pixels_of(plots.grid(image, levels=256))[4:68, 4:68, 0]
    np.testing.assert_array_equal(found, np.arange(64).reshape(8, 8).repeat(8, 0).repeat(8, 1))


def test_colours_and_a_shape_that_is_no_square():
    image = torch.zeros(1, 3, 2, 4)
    image[0, 0] = 255
    found = pixels_of(plots.grid(image, levels=256))
    assert found.shape == (32 + 8, 64 + 8, 3)
    assert (found[4:36, 4:68] == (255, 0, 0)).all()


def test_large_images_keep_their_size():
    assert pixels_of(plots.grid(torch.zeros(1, 1, 100, 90), levels=2)).shape == (108, 98, 3)


def test_means_between_and_beyond_the_levels_are_shown_clamped():
    found = plots.to_display(torch.tensor([-3.0, 0.5, 9.0]).reshape(3, 1, 1, 1), levels=2)
    assert found[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_two_channels_are_no_picture():
    with pytest.raises(UserError, match="2 channels came, a picture has 1 or 3"):
        plots.grid(torch.zeros(1, 2, 8, 8), levels=2)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20])
def test_a_reconstruction_is_under_its_original(count):
    above = torch.cat([flat(i) for i in range(count)])
    below = torch.cat([flat(100 + i) for i in range(count)])
    found = pixels_of(plots.pairs(above, below, levels=256))
    columns = min(10, count)
    assert found.shape[1] == columns * 68 + 4
    row_colours = [column_of_greys(found[:, 36 + 68 * c, 0]) for c in range(columns)]
    for place in range(count):
        block, column = divmod(place, columns)
        assert row_colours[column][2 * block : 2 * block + 2] == [place, 100 + place]


def column_of_greys(column):
    """The greys from top to bottom, without the paper and without repetition."""
    changes = [int(v) for i, v in enumerate(column) if i == 0 or v != column[i - 1]]
    return [v for v in changes if v != PAPER]


RECORDS = [
    {
        "split": split,
        "step": step,
        "elbo": -90.0 + step,
        "log_likelihood": -80.0 + step,
        "kl": 10.0,
        "loss": 90.0 - step,
    }
    for step in range(1, 30)
    for split in ("train", "valid")
]


@pytest.mark.parametrize(
    "records",
    [
        RECORDS,
        RECORDS[:1],
        RECORDS[1::2],
        [{"split": "train", "step": s, "loss": 1 / s} for s in range(1, 20)],
        [{"split": "train", "step": s, "loss": 1.0} for s in range(1, 20)],
    ],
    ids=["elbo", "one record", "validation only", "loss", "constant"],
)
def test_a_curve_is_drawn(records):
    found = pixels_of(plots.curve(records))
    assert found.min() < 100
    assert found.shape[0] > 200
    assert found.shape[1] > 300


def test_a_density_has_three_curves_and_an_error_one():
    three = pixels_of(plots.curve(RECORDS))
    one = pixels_of(plots.curve([{k: r[k] for k in ("split", "step", "loss")} for r in RECORDS]))
    assert three.shape[1] > 2 * one.shape[1]


def test_a_curve_depends_on_its_records_alone():
    assert plots.curve(RECORDS) == plots.curve(RECORDS)
    assert plots.curve(RECORDS) != plots.curve(RECORDS[:20])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9), (1, 28, 28)])
def test_a_traversal_is_drawn(shape):
    rows = [torch.rand(3, *shape) * 16 for _ in range(2)]
    found = pixels_of(plots.traversal(rows, ["z[0]\n1.00 nats", "z[1]\n0.50 nats"], [-3.0, 0.0, 3.0], levels=17))
    assert found.std() > 10
    assert min(found.shape[:2]) > 50


def test_points_are_drawn():
    samples, data = torch.randn(50, 2), torch.randn(80, 2) + 5
    alone, with_data = pixels_of(plots.points(samples)), pixels_of(plots.points(samples, data))
    assert alone.shape[2] == with_data.shape[2] == 3
    assert not np.array_equal(alone, with_data)
