"""What two players share out: batches, averages, and who stands still meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probgen.inference.adversarial.losses import make_loss
from probgen.models.contracts import AdversarialObjective


def batches_per_step(play: AdversarialObjective) -> int:
    """One for each update of the discriminator, and one more where the generator's loss looks at real images."""
    return play.discriminator_steps + make_loss(play.loss).needs_real


def averaged(pair: Any) -> list[Tensor]:
    """What `ema` averages: the generator's parameters and real-valued buffers, the statistics of batch norm."""
    generator = pair.generator
    return [*generator.parameters(), *(b for b in generator.buffers() if b.is_floating_point())]


@contextmanager
def frozen(parameters: list[Tensor]) -> Iterator[None]:
    """The parameters get no gradient inside."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """The module's buffers, statistics of batch norm among them, are afterwards what they were before.

    Leave it after the backward pass, which may look at them.
    """
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])
