"""Ten hand-drawn glyphs as line segments inside the unit circle (x to the right, y down)."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

Point = tuple[float, float]

GLYPH_NAMES = ("A", "E", "G", "K", "P", "S", "T", "heart", "spiral", "fish")


def glyph_segments() -> tuple[Float64[Tensor, "s 2 2"], ...]:
    """For each glyph its strokes as segments: segment, end (first or last), coordinate (x, y).

    No two of the glyphs look alike when each is turned by up to 45°, and none has a symmetry that would
    hide its orientation within that range. All points lie in the unit circle.
    """
    glyphs: tuple[list[list[Point]], ...] = (
        [[(-0.62, 0.75), (0.0, -0.95), (0.62, 0.75)], [(-0.38, 0.2), (0.38, 0.2)]],
        [[(0.5, -0.8), (-0.5, -0.8), (-0.5, 0.8), (0.5, 0.8)], [(-0.5, 0.0), (0.32, 0.0)]],
        [_arc((0.0, 0.0), 0.82, 0.82, 45.0, 360.0), [(0.82, 0.0), (0.18, 0.0)]],
        [[(-0.5, -0.82), (-0.5, 0.82)], [(0.52, -0.82), (-0.5, 0.05)], [(-0.14, -0.26), (0.56, 0.8)]],
        [
            [
                (-0.45, 0.85),
                (-0.45, -0.83),
                (0.05, -0.83),
                *_arc((0.05, -0.36), 0.5, 0.47, 90.0, -90.0),
                (-0.45, 0.11),
            ]
        ],
        [[*_arc((0.0, -0.42), 0.5, 0.42, 35.0, 270.0), *_arc((0.0, 0.42), 0.5, 0.42, 90.0, -145.0)]],
        [[(-0.68, -0.7), (0.68, -0.7)], [(0.0, -0.7), (0.0, 0.95)]],
        [_curve(_heart, 0.0, 2 * math.pi, 24)],
        [_curve(_spiral, 0.0, 2.7 * math.pi, 24)],
        [_curve(_fish, 0.0, 2 * math.pi, 24)],
    )
    return tuple(_segments(strokes) for strokes in glyphs)


def _segments(strokes: Sequence[Sequence[Point]]) -> Float64[Tensor, "s 2 2"]:
    pairs = [pair for stroke in strokes for pair in itertools.pairwise(stroke)]
    return torch.tensor(pairs, dtype=torch.float64)


def _arc(center: Point, width: float, height: float, first: float, last: float) -> list[Point]:
    """An elliptic arc from `first` to `last` degrees, counter-clockwise as seen, in steps of about 24°."""
    steps = math.ceil(abs(last - first) / 24)
    angles = [math.radians(first + (last - first) * step / steps) for step in range(steps + 1)]
    return [(center[0] + width * math.cos(a), center[1] - height * math.sin(a)) for a in angles]


def _curve(point: Callable[[float], Point], first: float, last: float, steps: int) -> list[Point]:
    return [point(first + (last - first) * step / steps) for step in range(steps + 1)]


def _heart(t: float) -> Point:
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return x / 18.5, -(y + 2.5) / 18.5


def _spiral(t: float) -> Point:
    """A spiral of Archimedes: its radius grows evenly with the angle."""
    radius = 0.04 + 0.9 * t / (2.7 * math.pi)
    return radius * math.cos(t), radius * math.sin(t)


def _fish(t: float) -> Point:
    """The fish curve: a body and a tail that one closed line draws by crossing itself."""
    return 0.82 * (math.cos(t) - math.sin(t) ** 2 / math.sqrt(2)), 0.96 * math.cos(t) * math.sin(t)
