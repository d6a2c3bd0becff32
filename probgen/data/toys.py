"""Points in the plane whose law is known: where a density or a sampler is wrong, the eye sees it."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from probgen.data.split import Modes, RawData, contiguous_splits
from probgen.errors import UserError

TOY_NAMES = ("ring", "grid", "moons", "spiral")
TOY_COUNT = 10_000
TOY_HELD_OUT = 1_000
TOY_MAXIMUM = 10_000_000

_SEED = 2
_CURVE_NOISE = 0.1

Draws = tuple[np.ndarray, np.ndarray]
"""Float64 points (n, 2) and int64 labels (n,)."""


def load_toy(name: str, count: int | None) -> RawData:
    """`count` training points (default 10,000) and always the same 1,000 + 1,000 for valid and test.

    `ring`: 8 equal Gaussians of σ = 0.02 on the circle of radius 2. `grid`: 25 of σ = 0.05 at
    {-4, -2, 0, 2, 4}². Both: labels = mode, `log_density` in nats. `moons`: two interleaved half circles;
    `spiral`: two arms of 1.5 turns; both with Gaussian noise of σ = 0.1 and labels = curve.

    Raises:
        UserError: a count below 1 or above ten million.
    """
    count = TOY_COUNT if count is None else count
    if not 1 <= count <= TOY_MAXIMUM:
        raise UserError(f"{name}:{count} is not possible: give 1 to {TOY_MAXIMUM} training points")
    modes = _modes(name)
    draw = _CURVES[name] if modes is None else partial(_draw_modes, modes)
    # A stream for each split: the held-out points do not depend on how many train.
    sizes = (count, TOY_HELD_OUT, TOY_HELD_OUT)
    key = TOY_NAMES.index(name)
    parts = [draw(np.random.Generator(np.random.PCG64([_SEED, key, split])), n) for split, n in enumerate(sizes)]
    points = torch.from_numpy(np.concatenate([part[0] for part in parts]).astype(np.float32))
    labels = torch.from_numpy(np.concatenate([part[1] for part in parts]).astype(np.int64))
    density = None if modes is None else partial(mixture_log_density, modes)
    return RawData(points, contiguous_splits(*sizes), None, labels=labels, log_density=density, modes=modes)


def mixture_log_density(modes: Modes, points: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
    """log p(x) = logsumexp_k log N(x; c_k, σ² I) - log m, in nats per point."""
    centers = modes.centers.to(points)
    # Differences, not `torch.cdist`: its matrix product loses the digits that matter at a small sigma.
    squared = (points.unsqueeze(1) - centers).square().sum(dim=-1)  # b m
    constant = math.log(2 * math.pi * modes.sigma**2) + math.log(len(centers))
    return torch.logsumexp(-squared / (2 * modes.sigma**2), dim=1) - constant


def _modes(name: str) -> Modes | None:
    if name == "ring":
        angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
        centers: Float64[Tensor, "m 2"] = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
        return Modes(centers.float(), 0.02)
    if name == "grid":
        axis: Float32[Tensor, "5"] = torch.arange(-4.0, 5.0, 2.0)
        return Modes(torch.cartesian_prod(axis, axis), 0.05)
    return None


def _draw_modes(modes: Modes, generator: np.random.Generator, count: int) -> Draws:
    labels = generator.integers(len(modes.centers), size=count)
    noise = modes.sigma * generator.standard_normal((count, 2))
    return modes.centers.double().numpy()[labels] + noise, labels


def _draw_moons(generator: np.random.Generator, count: int) -> Draws:
    labels = generator.integers(2, size=count)
    angle = np.pi * generator.random(count)
    sign = 1 - 2 * labels  # the second moon is the first one turned by 180° about (0.5, 0.25)
    points = np.stack([labels + sign * np.cos(angle), 0.5 * labels + sign * np.sin(angle)], axis=1)
    return points + _CURVE_NOISE * generator.standard_normal((count, 2)), labels


def _draw_spiral(generator: np.random.Generator, count: int) -> Draws:
    labels = generator.integers(2, size=count)
    angle = 3 * np.pi * np.sqrt(generator.random(count))  # the root makes the points even along the arm
    radius = (1 - 2 * labels) * (0.3 + angle / np.pi)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points + _CURVE_NOISE * generator.standard_normal((count, 2)), labels


_CURVES: dict[str, Callable[[np.random.Generator, int], Draws]] = {
    "moons": _draw_moons,
    "spiral": _draw_spiral,
}
