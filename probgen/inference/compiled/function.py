"""A function of what a pair holds and of other tensors, recorded once for each shape, checked, compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.inference.compiled.backend import compiled
from probgen.inference.compiled.lifting import Lifted
from probgen.inference.compiled.recording import NotStaticError, Step, interpreted, record, watched

TOLERANCE = 1e-3  # of a float32 sum over some thousand pixels, taken in another order
Results = Sequence[Any]  # tensors, None, and constants, which are the same at every call


class Recorded:
    """`function` without its Python: the operations on tensors that it did when it was first called.

    pair: whose parameters and buffers the function uses; buffers may be written to.
    parameters: those of the pair's that are handed to the function, as leaves to take gradients at.
    function: (parameters, *inputs) ↦ a list of tensors, None and constants.
    reference: inputs ↦ the same list, without recording; what comes of the recording is compared with it.
    machine_code: whether to compile the recording; else torch takes one operation after the other.

    Raises NotStaticError, with the reason, at the first inputs of a shape, where the function cannot be recorded or
    compiled, or gives other results than the reference.
    """

    def __init__(
        self,
        pair: Any,
        parameters: Sequence[Tensor],
        function: Callable[..., Results],
        reference: Callable[..., Results],
        *,
        machine_code: bool = True,
    ) -> None:
        self.pair, self.function, self.reference, self.machine_code = pair, function, reference, machine_code
        self.lifted, self.num_leaves = Lifted(pair, parameters), len(parameters)
        self.recordings: dict[Any, tuple[Step, Layout]] = {}

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """The function's results; they have no gradient."""
        key = (getattr(self.pair, "training", None), *((i.shape, i.dtype, i.device) for i in inputs))
        if key not in self.recordings:
            self.recordings[key] = self.prepare(inputs)
        run, layout = self.recordings[key]
        return layout.unpack(run(*self.all_inputs(inputs)))

    def all_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the pair holds at the moment, and the inputs."""
        return [*(tensor.detach() for tensor in self.lifted.tensors), *inputs]

    def prepare(self, inputs: Sequence[Tensor]) -> "tuple[Step, Layout]":
        """Record, compare with the reference, compile."""
        layout, everything = Layout(), self.all_inputs(inputs)
        with pyro.validation_enabled(False):
            graph = record(lambda *tensors: layout.pack(self.flat(*tensors)), everything)
        slow = interpreted(graph)
        self.compare(inputs, lambda *given: layout.unpack(slow(*self.all_inputs(given))))
        return (compiled(graph, everything) if self.machine_code else slow), layout

    def flat(self, *tensors: Tensor) -> Results:
        """The function, all that it depends on in a row."""
        held, inputs = tensors[: len(self.lifted.tensors)], tensors[len(self.lifted.tensors) :]
        leaves = [tensor.detach().requires_grad_() for tensor in held[: self.num_leaves]]
        with torch.enable_grad(), self.lifted.replaced([*leaves, *held[self.num_leaves :]]):
            return self.function(leaves, *inputs)

    def compare(self, inputs: Sequence[Tensor], recorded: Callable[..., Results]) -> None:
        """Raise NotStaticError where the recording and the reference, or the reference and itself, differ."""
        first, again, ours = (self.trial(inputs, run) for run in (self.reference, self.reference, recorded))
        for other in (again, ours):
            if len(other) != len(first) or not all(close(a, b) for a, b in zip(first, other, strict=True)):
                raise NotStaticError(
                    "its loss or gradient depends on more than the batch, torch's generator and the tensors that its "
                    "modules hold: on something in Python that changes"
                )

    def trial(self, inputs: Sequence[Tensor], run: Callable[..., Results]) -> Results:
        """The results of a run that leaves nothing behind."""
        state = [tensor.detach().clone() for tensor in self.lifted.tensors]
        with torch.random.fork_rng(), watched(self.lifted), pyro.validation_enabled(False):
            results = run(*inputs)
        with torch.no_grad():
            for tensor, before in zip(self.lifted.tensors, state, strict=True):
                tensor.copy_(before)
        return results


class Layout:
    """Which of a function's results are tensors."""

    def __init__(self) -> None:
        self.others: list[Any] = []

    def pack(self, results: Results) -> list[Tensor]:
        """The tensors alone; the rest is noted."""
        self.others = [IS_TENSOR if isinstance(result, Tensor) else result for result in results]
        return [result.detach() for result in results if isinstance(result, Tensor)]

    def unpack(self, tensors: Sequence[Tensor]) -> list[Any]:
        """All results, in their order."""
        left = iter(tensors)
        return [next(left) if other is IS_TENSOR else other for other in self.others]


IS_TENSOR = object()


def close(a: Any, b: Any) -> bool:
    """The same up to rounding; nan where the other is, too. No gradient is one of zeros."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        tensor, other = (a, b) if isinstance(a, Tensor) else (b, a)
        return a == b if not isinstance(tensor, Tensor) else other is None and not bool(tensor.any())
    a, b = a.detach().double(), b.detach().double()
    broken = ~(a.isfinite() & b.isfinite())
    if not torch.equal(a[broken].nan_to_num(), b[broken].nan_to_num()):
        return False
    a, b = a[~broken], b[~broken]
    return bool((a - b).norm() <= TOLERANCE * (a.norm() + b.norm()) + 1e-12)
