"""What a program leaves behind in Python, which a recording of it would not leave again."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from probgen.inference.compiled.recording import NotStaticError
from probgen.inference.randomness import random_state, set_random_state

PLAIN = (bool, int, float, str, type(None))
SET_BY_TRAINING = ("training", "training_step")
REGISTERED = ("_parameters", "_buffers")


@contextmanager
def watched(owners: Sequence[Any]) -> Iterator[None]:
    """Put everything in Python back at the end: attributes of `owners`, containers in them, generators.

    owners: a pair and the modules that it is made of. Python's and NumPy's generators start elsewhere inside.

    Raises NotStaticError at the end where a number, text or container has changed, a tensor that is no buffer was
    written to, a buffer was replaced by another tensor, or NumPy's generator was drawn from. A new tensor in place of
    one that is no buffer is put back only: flows of Pyro's remember their last result so.
    """
    before = [(owner, dict(attributes_of(owner)), held(owner)) for owner in owners]
    state = random_state()
    changes: list[str] = []
    try:
        random.seed()
        np.random.seed()
        seeded = numpys_place()
        yield
        if seeded != numpys_place():
            changes.append("the program draws from NumPy's generator: draw from torch's")
    finally:
        set_random_state(state)
        for owner, attributes, numbers in before:
            changes += changed(owner, numbers)
            put_back(owner, attributes, numbers)
    if changes:
        raise NotStaticError(changes[0])


def numpys_place() -> tuple[bytes, int]:
    """Where NumPy's generator is."""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return np.asarray(keys).tobytes(), int(position)


def attributes_of(owner: Any) -> dict[str, Any]:
    """Its own; none of an object that has no dictionary of them."""
    return getattr(owner, "__dict__", {})


def held(owner: Any) -> dict[str, Any]:
    """What to compare of each attribute: a copy of a number or container, the writes to a tensor, buffers by name."""
    found: dict[str, Any] = {}
    ours = not type(owner).__module__.startswith("torch.")  # torch's layers keep lists for themselves
    for key, value in attributes_of(owner).items():
        if key in SET_BY_TRAINING:
            continue
        if isinstance(value, Tensor):
            found[key] = (value, value._version, value.detach().clone())
        elif isinstance(value, PLAIN) or key in REGISTERED:
            found[key] = dict(value) if key in REGISTERED else value
        elif ours and type(value) in (dict, list, set):
            found[key] = value.copy()
    return found


def changed(owner: Any, before: dict[str, Any]) -> list[str]:
    """What to tell of each difference to `held`."""
    name, told = type(owner).__name__, []
    now = attributes_of(owner)
    for key in [*before, *(k for k, v in now.items() if isinstance(v, PLAIN) and k not in {*before, *SET_BY_TRAINING})]:
        was: Any = before.get(key)
        value: Any = now.get(key)
        if key in REGISTERED:
            told += [
                f"the program puts another tensor in place of the buffer {k!r} of {name}: write to it in place"
                for k in was.keys() | value.keys()
                if was.get(k) is not value.get(k)
            ]
        elif isinstance(was, tuple) and isinstance(was[0], Tensor):
            if value is was[0] and value._version != was[1]:
                told.append(f"the program writes to the tensor {key!r} of {name}: make it a buffer")
        elif key not in before or not same(was, value):
            told.append(f"the program changes the attribute {key!r} of {name}: make it a buffer")
    return told


def same(one: Any, other: Any) -> bool:
    """Equal numbers or texts; containers of the same objects, or of equal numbers."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or (isinstance(one, (*PLAIN, set)) and one == other)


def put_back(owner: Any, attributes: dict[str, Any], numbers: dict[str, Any]) -> None:
    """The attributes as they were, and what was in those that are containers."""
    attributes_of(owner).clear()
    attributes_of(owner).update(attributes)
    for key, was in numbers.items():
        container = attributes[key]
        if isinstance(container, Tensor) and container._version != was[1]:
            container.detach().copy_(was[2])
        elif type(container) in (dict, set) or key in REGISTERED:
            container.clear()
            container.update(was)
        elif type(container) is list:
            container[:] = was
