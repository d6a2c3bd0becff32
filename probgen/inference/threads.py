"""How many threads a training step gets: one, where a second would wait longer than it works."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from probgen.distributions.ancestral import one_thread
from probgen.inference.traces import evaluating, modules_of

SMALL_WORK = 100e6  # operations of a forward pass; docs/performance.md has the measurement

__all__ = ["is_small", "one_thread", "scored"]


def is_small(pair: Any, forward: Callable[[], Any]) -> bool:
    """Whether a forward pass has so few multiplications and additions that one thread is sooner done with a step.

    They are counted, not timed: the same run uses the same threads. torch counts none in its recurrent layers, which
    get all threads. Draws and buffers are left as they were.
    """
    if any(isinstance(part, nn.RNNBase) for module in modules_of(pair) for part in module.modules()):
        return False
    silent = pyro.validation_enabled(False)
    with torch.random.fork_rng(), torch.no_grad(), silent, evaluating(pair), FlopCounterMode(display=False) as work:
        forward()
    return work.get_total_flops() < SMALL_WORK


def scored(pair: Any, *x: Tensor) -> None:
    """One pass x → guide → z → model, with all log-probabilities."""
    guide_trace = poutine.trace(pair.guide).get_trace(*x)
    poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*x).compute_log_prob()
