"""How annealing goes from β = 0 to β = 1: fixed, or spread by what a pilot run saw."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probgen.errors import UserError

Schedule = str | Callable[[int], Tensor]  # sigmoidal, adaptive, or the β for their number

SLOWEST = 0.01  # of the mean speed: no stretch of the path is passed over in a leap


def sigmoidal_schedule(num_distributions: int, steepness: float = 4.0) -> Float[Tensor, " t"]:
    """β_t = (σ(s(2t/T − 1)) − σ(−s)) / (σ(s) − σ(−s)): slow at both ends (Grosse et al. 2015, section 6)."""
    curve = torch.sigmoid(steepness * torch.linspace(-1, 1, num_distributions, dtype=torch.float64))
    return ((curve - curve[0]) / (curve[-1] - curve[0])).float()


def first_schedule(schedule: Schedule, num_distributions: int) -> Float[Tensor, " t"]:
    """The β of the pilot run. Raises UserError for an unknown name, or β that do not lead from 0 up to 1."""
    if isinstance(schedule, str):
        if schedule not in ("sigmoidal", "adaptive"):
            raise UserError(f"schedule {schedule!r} came, expected sigmoidal, adaptive or a function")
        return sigmoidal_schedule(num_distributions)
    betas = torch.as_tensor(schedule(num_distributions))
    if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or (betas.diff() <= 0).any():
        raise UserError("the schedule gave β that do not rise from 0 to 1")
    return betas


def equal_lengths(betas: Float[Tensor, " t"], log_ratios: Float[Tensor, "steps k b"]) -> Float[Tensor, " t"]:
    """β at equal distances in the metric of the path: the length of dβ is √Var_β[log p(x, z) − log r(z)] |dβ|.

    log_ratios: of a pilot run, at each β but the last. With transitions that mix, E[log w] is off by about
    L² / 2T for T distributions at equal distances on a path of length L, and by more at any others (Grosse et
    al. 2013, section 4). Raises UserError where the pilot run left the numbers' range.
    """
    speed = log_ratios.double().var(1).mean(1).sqrt()
    if not speed.isfinite().all():
        raise UserError("log-densities of the pilot run are not finite: take schedule=sigmoidal, or start at the guide")
    speed = torch.cat([speed, speed[-1:]]).clamp_min(SLOWEST * float(speed.mean()) + 1e-12)
    found = equally_spaced(betas.double().cpu().numpy(), 1 / speed.cpu().numpy())
    return torch.as_tensor(found, dtype=betas.dtype)


def equally_spaced(places: NDArray[np.float64], slowness: NDArray[np.float64]) -> NDArray[np.float64]:
    """As many places between the same ends, at equal ∫ |dβ| / slowness, with the slowness linear between places.

    The slowness of a Gaussian whose precision grows with β is linear; its inverse changes by orders of magnitude.
    """
    first, last = slowness[:-1], slowness[1:]
    ratio = np.log(last / first)
    even = np.abs(ratio) < 1e-6
    lengths = np.abs(np.diff(places)) * np.where(even, 1 / first, ratio / np.where(even, 1, last - first))
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    targets = np.linspace(0, ends[-1], len(places))[1:-1]
    index = np.clip(np.searchsorted(ends, targets, side="right") - 1, 0, len(lengths) - 1)
    part = (targets - ends[index]) / lengths[index]
    curved = np.expm1(part * ratio[index]) / np.where(even, 1, np.expm1(ratio))[index]
    inside = places[index] + np.diff(places)[index] * np.where(even[index], part, curved)
    return np.concatenate([places[:1], inside, places[-1:]])
