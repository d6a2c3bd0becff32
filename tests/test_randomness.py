"""Streams of one's own: a function of their seed, and no trace of them in the generators of everybody."""

import random
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch

from probgen.inference.randomness import own_randomness, random_state, set_random_state


def draws():
    """A number of each generator."""
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def check_own(own):
    """Draws inside depend on the seed alone, in every generator; those after it are what they would have been."""
    state = random_state()
    expected = [draws() for _ in range(3)]
    set_random_state(state)
    inside, outside = [], []
    for seed in (5, 6, 5):
        with suppress(KeyError), own(seed):
            inside.append(draws())
            raise KeyError
        outside.append(draws())
    assert outside == expected, "what came after was moved"
    assert inside[0] == inside[2], "what came before was seen"
    assert all(a != b for a, b in zip(*inside[:2], strict=True)), "a generator has no stream of its own"


def test_a_stream_of_ones_own_is_a_function_of_its_seed_and_leaves_no_trace():
    check_own(own_randomness)


@contextmanager
def not_put_back(seed):
    torch.manual_seed(seed)
    yield


@contextmanager
def of_torch_alone(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@pytest.mark.parametrize("twin", [not_put_back, of_torch_alone])
def test_streams_that_are_not_ones_own_are_rejected(twin):
    with pytest.raises(AssertionError):
        check_own(twin)


@pytest.mark.parametrize("in_use", [False, True])
def test_a_device_that_is_not_in_use_is_left_alone(in_use, monkeypatch):
    """`torch.manual_seed` leaves word with it, so that its noise, once it is used, would be that of the stream."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with own_randomness(7):
        pass
    assert seeded == ([7] if in_use else [])
