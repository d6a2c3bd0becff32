"""What the distributions over networks ask of them: the context that they take, and the mode that they are in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probgen.errors import UserError


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """In `eval()` mode inside, so without dropout; afterwards each module in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_context(network: nn.Module, context: Tensor | None) -> torch.Size:
    """The batch shape of a context; raises UserError where it is not of the shape that the network takes."""
    wanted = getattr(network, "context_shape", None)
    if context is None and wanted is None:
        return torch.Size()
    came = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
    if wanted is None:
        raise UserError(f"{came} came, expected none: the network has no context_shape")
    if context is None or tuple(context.shape[-len(wanted) :]) != tuple(wanted):
        raise UserError(f"{came} came, expected one of shape (*batch, {', '.join(map(str, wanted))})")
    return torch.Size(context.shape[: -len(wanted)])


def repeated(context: Tensor | None, num: int) -> Tensor | None:
    """One context, `1 *context_shape`, for each of `num` images or sequences."""
    return None if context is None else context.expand(num, *context.shape[1:])
