"""A Python function of tensors, recorded once as a graph of tensor operations.

What the function does in Python (Pyro's handlers, loops, shapes) happens once, while it is recorded on tensors without
numbers; the graph then does what is left. So it may only do in Python what is the same at every call.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.inference.compiled.lifting import Lifted
from probgen.inference.randomness import random_state, set_random_state

Step = Callable[..., list[Tensor]]
PLAIN = (bool, int, float, str, type(None))


class NotStaticError(Exception):
    """What a program does cannot be recorded; the message says why."""


def record(function: Step, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The operations of `function(*inputs)` as a graph of the same signature; it writes to what the function writes to.

    Draws from torch's generator are operations too: each call of the graph makes new ones, those that the function
    would make. The generator is left as it was.

    Raises NotStaticError, with the reason, for a function that looks at the numbers in its tensors.
    """
    try:
        # One operation for a whole LSTM could be recorded, but not run: its oneDNN kernel returns what a graph cannot hold.
        with torch.random.fork_rng(), quiet(), torch.backends.mkldnn.flags(enabled=False):
            return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    except NotStaticError:
        raise
    except Exception as error:  # whatever a user's program raises when its tensors hold no numbers
        raise NotStaticError(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """One line on why a program could not be recorded."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if "DataDependent" in name or "data-dependent" in text or "tracing tensor" in text:
        return f"the program looks at the numbers in its tensors{place_of(error)}"
    return f"{name}: {text[:200]}" if text else name


@contextmanager
def quiet() -> Iterator[None]:
    """torch's compiler tells nothing inside."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def place_of(error: BaseException) -> str:
    """Where the program was, in a file of its own."""
    libraries = (str(Path(torch.__file__).parent), str(Path(pyro.__file__).parent), str(Path(__file__).parent), "<")
    places = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    return f", in {Path(places[-1].filename).name}, line {places[-1].lineno}" if places else ""


def interpreted(graph: fx.GraphModule) -> Step:
    """The graph, one torch operation after the other."""

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(graph(*inputs))

    return run


@contextmanager
def watched(lifted: Lifted) -> Iterator[None]:
    """Raise NotStaticError at the end if what ran inside changed an attribute that is no tensor of the pair's modules.

    A recording would not change it again. Python's and NumPy's generators start elsewhere inside, and are put back.
    """
    before, state = attributes(lifted), random_state()
    try:
        random.seed()
        np.random.seed()
        yield
    finally:
        set_random_state(state)
    after = attributes(lifted)
    if changed := {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}:
        name, attribute = min(changed)
        raise NotStaticError(f"the program changes the attribute {attribute!r} of {name}: make it a buffer")


def attributes(lifted: Lifted) -> dict[tuple[str, str], Any]:
    """Every attribute of every module that is a number or a text."""
    found: dict[tuple[str, str], Any] = {}
    for number, module in enumerate(lifted.modules):
        name = type(module).__name__ if not number else f"module {number}, a {type(module).__name__}"
        for key, value in vars(module).items():
            if isinstance(value, PLAIN) and key != "training":
                found[name, key] = value
    return found
