"""A Python function of tensors, recorded once as a graph of tensor operations.

What the function does in Python (Pyro's handlers, loops, shapes) happens once, while it is recorded on tensors without
numbers; the graph then does what is left. So it may only do in Python what is the same at every call.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from traceback import extract_tb

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

Step = Callable[..., list[Tensor]]


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
