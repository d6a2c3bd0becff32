"""The tensors that a pair holds (parameters, buffers, `pyro.param`s), exchanged for others while a program runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
from torch import Tensor, nn

from probgen.inference.traces import modules_of


class Lifted:
    """All tensors of `pair`, each once, in a fixed order: `parameters`, then what else its modules hold.

    pair: a module, or an object with modules among its attributes. parameters: those that are trained, some of which
    may have been made by `pyro.param`.
    """

    def __init__(self, pair: Any, parameters: Sequence[Tensor]) -> None:
        self.modules = [part for module in modules_of(pair) for part in module.modules()]
        self.owners = self.modules if isinstance(pair, nn.Module) else [pair, *self.modules]
        held = [tensor for module in self.modules for tensor in (*own(module._parameters), *own(module._buffers))]
        trained = {id(p) for p in parameters}
        rest = {id(tensor): tensor for tensor in held if id(tensor) not in trained}
        self.tensors = [*parameters, *rest.values()]

    @contextmanager
    def replaced(self, others: Sequence[Tensor]) -> Iterator[None]:
        """Inside, every program of the pair finds `others` where its `tensors` were."""
        by_id = {id(tensor): other for tensor, other in zip(self.tensors, others, strict=True)}
        store = pyro.get_param_store()
        state = store.get_state()
        state["params"] = {name: by_id.get(id(value), value) for name, value in state["params"].items()}
        undo: list[tuple[Any, Any, Any]] = []
        try:
            for module in self.modules:
                holders: list[Any] = [module._parameters, module._buffers, flat_weights(module)]
                for holder in holders:
                    for key, tensor in list(entries(holder)):
                        if id(tensor) in by_id:
                            undo.append((holder, key, tensor))
                            holder[key] = by_id[id(tensor)]
            with store.scope(state):
                yield
        finally:
            for holder, key, tensor in undo:
                holder[key] = tensor


def own(holder: Mapping[str, Tensor | None]) -> list[Tensor]:
    """The tensors of a module's own dictionary of them."""
    return [tensor for tensor in holder.values() if tensor is not None]


def flat_weights(module: nn.Module) -> list[Tensor]:
    """The second list in which torch's recurrent layers keep their parameters."""
    return getattr(module, "_flat_weights", [])


def entries(holder: Any) -> Any:
    """Keys and values of a dictionary, places and values of a list."""
    return holder.items() if isinstance(holder, dict) else enumerate(holder)
