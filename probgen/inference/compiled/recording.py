"""A Python function of tensors, recorded once as a graph of tensor operations.

What the function does in Python (Pyro's handlers, loops, shapes) happens once, while it is recorded on tensors without
numbers; the graph then does what is left. So it may only do in Python what is the same at every call.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from probgen.inference.compiled.lifting import Lifted
from probgen.inference.randomness import random_state, set_random_state

Step = Callable[..., list[Tensor]]
PLAIN = (bool, int, float, str, type(None))
SET_BY_TRAINING = ("training", "training_step")


class NotStaticError(Exception):
    """What a program does cannot be recorded; the message says why."""


def record(function: Step, inputs: Sequence[Tensor], *, recurrent: bool = False) -> fx.GraphModule:
    """The operations of `function(*inputs)` as a graph of the same signature; it writes to what the function writes to.

    Draws from torch's generator are operations too: each call of the graph makes new ones, those that the function
    would make. The generator is left as it was.

    recurrent: whether it runs layers of torch's such as `nn.LSTM`: their oneDNN kernels can be recorded but not run.

    Raises NotStaticError, with the reason, for a function that looks at the numbers in its tensors.
    """
    try:
        onednn = nullcontext() if not recurrent else torch.backends.mkldnn.flags(enabled=False)
        with torch.random.fork_rng(), quiet(), onednn:
            return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    except NotStaticError:
        raise
    except Exception as error:  # whatever a user's program raises when its tensors hold no numbers
        raise NotStaticError(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """One line on why a program could not be recorded."""
    text = one_line(error)
    name = type(error).__name__
    if "DataDependent" in name or "data-dependent" in text or "tracing tensor" in text:
        return f"the program looks at the numbers in its tensors{place_of(error)}"
    return f"{name}: {text}" if text else name


def one_line(error: BaseException) -> str:
    """The message without line breaks, its beginning if it is long."""
    return " ".join(str(error).split())[:200]


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

    A recording would not change it again. It is put back, as are Python's and NumPy's generators, which start
    elsewhere inside.
    """
    before, state = [plain_attributes(module) for module in lifted.modules], random_state()
    changed = []
    try:
        random.seed()
        np.random.seed()
        yield
    finally:
        set_random_state(state)
        for module, values in zip(lifted.modules, before, strict=True):
            now = plain_attributes(module)
            changed += [(type(module).__name__, key) for key in now | values if now.get(key) != values.get(key)]
            vars(module).update(values)
            for key in now.keys() - values.keys():
                del vars(module)[key]
    if changed:
        name, attribute = changed[0]
        raise NotStaticError(f"the program changes the attribute {attribute!r} of {name}: make it a buffer")


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are numbers, texts, or None."""
    return {
        key: value for key, value in vars(module).items() if isinstance(value, PLAIN) and key not in SET_BY_TRAINING
    }
