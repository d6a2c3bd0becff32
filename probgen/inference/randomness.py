"""The random state of a training run, as tensors and numbers that a checkpoint can hold."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The state of every global generator: torch's on each device, NumPy's, Python's."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator where `random_state` found it."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def seed_of(seed: int, rank: int, step: int) -> int:
    """The seed of a process's noise from a step on, where it has no stream to go on with; rank 1 or higher."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint32)[0])


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Draw from a stream of one's own inside; the generators are as they were afterwards."""
    state = random_state()
    try:
        start_all_at(seed)
        yield
    finally:
        set_random_state(state)


def start_all_at(seed: int) -> None:
    """As `pyro.set_rng_seed`, but leaves a device alone that is not in use: `torch.manual_seed` would seed it later."""
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
