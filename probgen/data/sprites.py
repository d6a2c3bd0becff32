"""Drawn glyphs whose generative factors are known: x = render(glyph, orientation, scale, x, y, stroke)."""

import math

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from probgen.data.glyphs import GLYPH_NAMES, glyph_segments
from probgen.data.split import RawData, contiguous_splits, tenths
from probgen.errors import UserError

SPRITE_SIZE = 28
SPRITE_COUNT = 10_000
SPRITE_MAXIMUM = 10_000_000
FACTOR_RANGES: dict[str, tuple[float, float]] = {
    "orientation": (-math.pi / 4, math.pi / 4),
    "scale": (5.0, 8.0),
    "x": (-4.0, 4.0),
    "y": (-4.0, 4.0),
    "stroke": (1.2, 2.8),
}
"""Ranges of the continuous factors; within them every glyph lies inside the frame with all its ink."""
SPRITE_FACTORS = ("glyph", *FACTOR_RANGES)

_SEED = 1
_CHUNK_IMAGES = 64


def load_sprites(count: int | None) -> RawData:
    """`count` sprites (default 10,000): 1×28×28, 256 levels, labels = glyph, the first 8 tenths for training.

    Image i depends on i alone, so `sprites:100` are the first hundred of `sprites:10000`.

    Raises:
        UserError: a count below 3 or above ten million.
    """
    count = SPRITE_COUNT if count is None else count
    if count > SPRITE_MAXIMUM:
        raise UserError(f"sprites:{count} is too large: at most {SPRITE_MAXIMUM} sprites are drawn")
    valid, test = tenths(count, f"sprites:{count}")
    factors = draw_factors(count)
    splits = contiguous_splits(count - valid - test, valid, test)
    return RawData(render_sprites(factors), splits, 256, labels=factors["glyph"], factors=factors)


def draw_factors(count: int) -> dict[str, Tensor]:
    """Independent uniform factors of `count` sprites: `glyph` int64, the others float32 in FACTOR_RANGES."""
    uniforms = np.random.Generator(np.random.PCG64(_SEED)).random((count, len(SPRITE_FACTORS)))
    factors = {"glyph": torch.from_numpy((uniforms[:, 0] * len(GLYPH_NAMES)).astype(np.int64))}
    for column, (name, (low, high)) in enumerate(FACTOR_RANGES.items(), start=1):
        factors[name] = torch.from_numpy((low + (high - low) * uniforms[:, column]).astype(np.float32))
    return factors


def render_sprites(factors: dict[str, Tensor]) -> UInt8[Tensor, "b 1 28 28"]:
    """Draw sprites: intensity = clip(stroke/2 - distance to the glyph + 1/2, 0, 1)·255, distance in pixels.

    Args:
        factors: name → tensor (b). `glyph`: number in GLYPH_NAMES; `orientation`: radians, counter-clockwise
            as seen; `scale`: radius of the glyph's circle in pixels; `x`, `y`: its centre in pixels to the
            right of and below the picture's centre; `stroke`: width of the line in pixels.

    Raises:
        UserError: a factor missing or unknown, of wrong length, not finite, or outside what can be drawn.
    """
    _check_factors(factors)
    glyph = factors["glyph"].numpy(force=True)
    # float64: rounding to 255 levels then comes out the same on every machine, but for ties of chance 1e-12.
    # NumPy: its one thread is quicker on such small pieces than many that wait for each other on a busy CPU.
    numbers = {name: factors[name].numpy(force=True).astype(np.float64) for name in FACTOR_RANGES}
    images = np.empty((len(glyph), 1, SPRITE_SIZE, SPRITE_SIZE), np.uint8)
    for number, segments in enumerate(glyph_segments()):
        rows = np.flatnonzero(glyph == number)
        for start in range(0, len(rows), _CHUNK_IMAGES):
            chunk = rows[start : start + _CHUNK_IMAGES]
            images[chunk, 0] = _draw(segments, {name: value[chunk] for name, value in numbers.items()})
    return torch.from_numpy(images)


def _draw(segments: Float64[Tensor, "s 2 2"], factors: dict[str, np.ndarray]) -> UInt8[np.ndarray, "b h w"]:
    """One glyph: the pixels are moved into its frame, so that its segments are the same for all images."""
    axis = np.arange(SPRITE_SIZE) - (SPRITE_SIZE - 1) / 2
    orientation, scale, x, y, stroke = (factors[name][:, None, None] for name in FACTOR_RANGES)  # b 1 1
    right, down = axis[None, None, :] - x, axis[None, :, None] - y  # b 1 w, b h 1
    cos, sin = np.cos(orientation) / scale, np.sin(orientation) / scale
    distance = scale * _distance(segments, right * cos - down * sin, right * sin + down * cos)
    ink = np.clip(stroke / 2 + 0.5 - distance, 0, 1)
    return np.rint(255 * ink).astype(np.uint8)


def _distance(
    segments: Float64[Tensor, "s 2 2"], x: Float64[np.ndarray, "b h w"], y: Float64[np.ndarray, "b h w"]
) -> Float64[np.ndarray, "b h w"]:
    """Distance of each point (x, y) to the nearest of the segments."""
    nearest = np.full_like(x, math.inf)
    for (ax, ay), (bx, by) in segments.tolist():
        ux, uy = bx - ax, by - ay
        # The foot of the perpendicular, kept within the segment: a + t·u with t in [0, 1].
        t = np.clip(((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy), 0, 1)
        dx, dy = x - ax - t * ux, y - ay - t * uy
        np.minimum(nearest, dx * dx + dy * dy, out=nearest)
    return np.sqrt(nearest)


def _check_factors(factors: dict[str, Tensor]) -> None:
    wrong = sorted(set(factors) ^ set(SPRITE_FACTORS))
    if wrong:
        raise UserError(f"a sprite has the factors {', '.join(SPRITE_FACTORS)}: missing or unknown {', '.join(wrong)}")
    shapes = {name: tuple(value.shape) for name, value in factors.items()}
    if len(set(shapes.values())) != 1 or len(shapes["glyph"]) != 1:
        raise UserError(f"every factor must be a tensor (b) of the same length: got {shapes}")
    glyph: Int64[Tensor, "b"] = factors["glyph"]
    if glyph.is_floating_point() or bool(((glyph < 0) | (glyph >= len(GLYPH_NAMES))).any()):
        raise UserError(f"glyph must be whole numbers 0 … {len(GLYPH_NAMES) - 1}, one of {', '.join(GLYPH_NAMES)}")
    for name in FACTOR_RANGES:
        value = factors[name]
        if not bool(value.isfinite().all()):
            raise UserError(f"{name} must be finite: got {value[~value.isfinite()][0].item()}")
        if name in ("scale", "stroke") and not bool((value > 0).all()):
            raise UserError(f"{name} is a length in pixels and must be above 0: got {value.min().item()}")
