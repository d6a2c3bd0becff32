"""Networks that compute in bfloat16 while a pair trains, between densities that stay in float32.

A log-likelihood is a sum over thousands of pixels: eight bits of it would not tell one step from the next. So what a
network is given and what it gives are float32, and only what lies between is bfloat16.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from probgen.errors import UserError
from probgen.inference.traces import modules_of

Precision = Literal["32-true", "bf16-mixed"]


def networks_in(pair: Any, precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Inside, the pair's networks compute in that precision: `bf16-mixed` is torch's autocast, `32-true` is none.

    The pair's programs stay as they are, and what they call other than a module itself. Raises UserError for a
    network that gives something else than tensors.
    """
    return nullcontext() if precision == "32-true" else all_in_bf16(networks_of(pair), device)


@contextmanager
def all_in_bf16(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, the networks compute in bfloat16."""
    own = [vars(network).get("forward") for network in networks]  # one that the user has put in place of the class's
    for network in networks:
        network.forward = in_bf16(network, device)
    try:
        yield
    finally:
        for network, forward in zip(networks, own, strict=True):
            del network.forward
            if forward is not None:
                network.forward = forward


def in_bf16(network: nn.Module, device: torch.device) -> Callable[..., Any]:
    """The network's `forward` under autocast, its floating-point numbers handed back as float32."""
    forward = network.forward

    def autocast(*args: Any, **options: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            result = forward(*args, **options)
        return tree_map(lambda part: widened(part, network), result)

    return autocast


def widened(part: Any, network: nn.Module) -> Any:
    """A network's result, or a part of it, as float32."""
    if isinstance(part, Distribution):
        raise UserError(
            f"{type(network).__name__} gives a {type(part).__name__}, whose sums would be in bf16: annotate its "
            "forward with that class, and the networks in it are taken instead; or leave --precision out"
        )
    return part.float() if isinstance(part, Tensor) and part.dtype == torch.bfloat16 else part


def networks_of(pair: Any) -> list[nn.Module]:
    """The pair's outermost modules with parameters that map tensors to tensors."""
    parts = pair.children() if isinstance(pair, nn.Module) else modules_of(pair)
    return list(outermost(parts))


def outermost(parts: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules themselves; of a mere list of modules, or one that gives a distribution, those in it."""
    for part in parts:
        if not any(True for _ in part.parameters()):
            continue
        gives = inspect.signature(part.forward).return_annotation
        density = isinstance(gives, type) and issubclass(gives, Distribution)
        if density or isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from outermost(part.children())
        else:
            yield part


def check_precision(pair: Any, precision: Precision, device: torch.device) -> None:
    """Raise UserError for a device without bfloat16, or a pair without networks to compute in it."""
    if precision == "32-true":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"--precision {precision} came, but this GPU has no bfloat16: leave it out")
    if not networks_of(pair):
        raise UserError(f"--precision {precision} came, but {type(pair).__name__} has no networks: leave it out")
