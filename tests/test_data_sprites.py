"""Sprites: each factor does what its name says, and nothing else."""

import hashlib
import math

import pytest
import torch
from torch import Tensor

from probgen.data import FACTOR_RANGES, load_data, render_sprites
from probgen.data.glyphs import GLYPH_NAMES, glyph_segments
from probgen.errors import UserError


def factors(count: int = 10, **changes) -> dict[str, Tensor]:
    """One sprite of each glyph, in the middle of every range."""
    base = {"orientation": 0.1, "scale": 6.5, "x": 0.3, "y": -0.2, "stroke": 2.0} | changes
    return {"glyph": torch.arange(count) % len(GLYPH_NAMES)} | {
        name: torch.as_tensor(value).expand(count) for name, value in base.items()
    }


def ink(images: Tensor) -> Tensor:
    return images.double().sum(dim=(1, 2, 3)) / 255


def centroid(images: Tensor) -> Tensor:
    """Mean (x, y) of the ink, in pixels."""
    weights = images[:, 0].double()
    axis = torch.arange(28, dtype=torch.float64)
    return torch.stack([(weights.sum(1) * axis).sum(1), (weights.sum(2) * axis).sum(1)], 1) / ink(images)[:, None] / 255


def close(one: Tensor, other: Tensor, levels: int = 1) -> bool:
    """Equal but for the rounding of a level."""
    return int((one.int() - other.int()).abs().max()) <= levels


@pytest.mark.parametrize(("factor", "dimension"), [("x", 3), ("y", 2)])
def test_one_pixel_of_position_moves_the_picture_by_one_pixel(factor, dimension):
    here, there = (
        render_sprites(factors()),
        render_sprites(factors(**{factor: 1.3 if factor == "x" else 0.8})),
    )
    assert close(there, here.roll(1, dimension))
    assert not close(there, here.roll(2, dimension), levels=20)  # the law can fail
    moved = centroid(there) - centroid(here)
    expected = torch.tensor([1.0, 0.0] if factor == "x" else [0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(moved, expected.expand_as(moved), atol=1e-2)


def test_half_a_pixel_moves_the_centroid_by_half_a_pixel():
    moved = centroid(render_sprites(factors(x=0.8))) - centroid(render_sprites(factors()))
    assert torch.allclose(moved[:, 0], torch.tensor(0.5, dtype=torch.float64), atol=0.05)
    assert float(moved[:, 1].abs().max()) < 0.05


def test_the_ink_of_a_line_is_its_length_times_its_width():
    """The T's ink is the area of its two bars and three round ends, less the half square both cover."""

    def area(width: float) -> float:
        return (1.36 + 1.65) * 8 * width + 1.5 * math.pi / 4 * width**2 - width**2 / 2

    t = GLYPH_NAMES.index("T")
    for width in (1.2, 2.4):
        drawn = ink(render_sprites(factors(scale=8.0, stroke=width)))[t]
        assert float(drawn) == pytest.approx(area(width), rel=0.01)


def test_more_stroke_never_takes_ink_from_a_pixel():
    widths = [render_sprites(factors(stroke=width)) for width in (1.2, 1.7, 2.8)]
    assert bool((widths[0] <= widths[1]).all() and (widths[1] <= widths[2]).all())


def test_scale_stretches_about_the_centre():
    """The ink's distance from the centre (root mean square) grows with the scale; the stroke does not."""
    small, large = (render_sprites(factors(scale=scale, stroke=1.2, x=0.0, y=0.0)) for scale in (5.0, 8.0))
    spread = []
    for images in (small, large):
        axis = torch.arange(28, dtype=torch.float64) - 13.5
        squared = axis.square()[None] + axis.square()[:, None]
        spread.append(((images[:, 0] * squared).sum((1, 2)) / ink(images) / 255).sqrt())
    assert torch.allclose(spread[1] / spread[0], torch.tensor(1.6, dtype=torch.float64), rtol=0.06)


def test_orientation_turns_counter_clockwise_by_radians():
    upright, turned = (render_sprites(factors(orientation=angle, x=0.0, y=0.0)) for angle in (0.0, math.pi / 2))
    assert close(turned, upright.rot90(1, (2, 3)))
    assert not close(turned, upright.rot90(-1, (2, 3)), levels=20)


def test_same_factors_same_picture_and_different_glyphs_differ():
    images = render_sprites(factors())
    assert torch.equal(images, render_sprites(factors()))
    distance = torch.cdist(images.flatten(1).double(), images.flatten(1).double()) / 255
    assert float(distance.fill_diagonal_(math.inf).min()) > 3  # in units of a wholly changed pixel


def test_no_glyph_turned_looks_like_another_or_itself():
    """All glyphs in steps of 15° within ±45°: the nearest other glyph is still far away."""
    angles = torch.linspace(-math.pi / 4, math.pi / 4, 7)
    images = torch.stack([render_sprites(factors(orientation=angle, x=0.0, y=0.0)) for angle in angles])
    flat = images.permute(1, 0, 2, 3, 4).flatten(2).double() / 255  # glyph angle pixel
    distance = torch.cdist(flat.flatten(0, 1), flat.flatten(0, 1)).view(10, 7, 10, 7)
    for glyph in range(10):
        others = [other for other in range(10) if other != glyph]
        assert float(distance[glyph][:, others].min()) > 3
        ends = distance[glyph, 0, glyph, 6]  # -45° against +45°: orientation can be seen
        assert float(ends) > 3


def test_no_ink_is_lost_at_the_frame():
    """The far corners of all ranges, whole pixels from the middle: exactly as much ink as there."""
    corner = {name: high for name, (_, high) in FACTOR_RANGES.items()}
    for orientation in torch.linspace(-math.pi / 4, math.pi / 4, 5):
        middle = render_sprites(factors(**corner | {"orientation": orientation, "x": 0.0, "y": 0.0}))
        for x in FACTOR_RANGES["x"]:
            for y in FACTOR_RANGES["y"]:
                moved = render_sprites(factors(**corner | {"orientation": orientation, "x": x, "y": y}))
                assert torch.equal(ink(moved), ink(middle))
    outside = render_sprites(factors(**corner | {"x": 14.0}))
    assert bool((ink(outside) < ink(render_sprites(factors(**corner | {"x": 0.0})))).all())


def test_glyphs_lie_in_the_unit_circle():
    assert len(glyph_segments()) == len(GLYPH_NAMES)
    assert max(float(segments.norm(dim=-1).max()) for segments in glyph_segments()) <= 1


def test_the_data_set_is_what_its_factors_draw():
    data = load_data("sprites:300")
    assert (len(data.train), len(data.valid), len(data.test)) == (240, 30, 30)
    assert data.factor_names == ("glyph", "orientation", "scale", "x", "y", "stroke")
    for split in (data.train, data.valid, data.test):
        assert torch.equal(render_sprites(split.factors), split.images)
        assert torch.equal(split.labels, split.factors["glyph"])
    for name, (low, high) in FACTOR_RANGES.items():
        assert low <= float(data.train.factors[name].min()) <= float(data.train.factors[name].max()) <= high


def test_factors_are_uniform_and_independent():
    drawn = load_data("sprites:3000").train.factors
    low = torch.tensor([0.0, *(low for low, _ in FACTOR_RANGES.values())])
    width = torch.tensor([9.0, *(high - low for low, high in FACTOR_RANGES.values())])
    unit = (torch.stack([drawn[name].float() for name in drawn], 1) - low) / width
    assert float((unit.mean(0) - 0.5).abs().max()) < 4 * 0.32 / math.sqrt(len(unit))
    correlation = torch.corrcoef(unit.T).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 4 / math.sqrt(len(unit))


def test_image_i_does_not_depend_on_how_many_there_are():
    short, long = load_data("sprites:40"), load_data("sprites:100")
    assert torch.equal(short.train.images, long.train.images[:32])
    assert torch.equal(short.test.images, long.train.images[36:40])


def test_the_sprites_are_recorded():
    # Reported numbers hold for these very images: a change of glyphs, ranges or rendering must be on purpose.
    images = load_data("sprites:200").train.images
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "db9a496110bef53a"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"colour": torch.zeros(3)}, "unknown colour"),
        ({"scale": torch.zeros(3)}, "scale is a length"),
        ({"stroke": torch.full((3,), -1.0)}, "stroke is a length"),
        ({"x": torch.full((3,), math.nan)}, "x must be finite"),
        ({"x": torch.zeros(2)}, "same length"),
        ({"x": torch.zeros(())}, "same length"),
        ({"glyph": torch.tensor([0, 1, 10])}, "0 … 9"),
        ({"glyph": torch.tensor([0, -1, 1])}, "0 … 9"),
        ({"glyph": torch.tensor([0.0, 0.5, 1.0])}, "0 … 9"),
    ],
)
def test_factors_that_cannot_be_drawn_are_refused(changes, part):
    with pytest.raises(UserError, match=part):
        render_sprites(factors(3) | changes)


def test_a_missing_factor_is_named():
    given = factors(3)
    del given["y"]
    with pytest.raises(UserError, match="missing or unknown y"):
        render_sprites(given)


def test_no_sprites_make_no_images():
    assert render_sprites(factors(0)).shape == (0, 1, 28, 28)
