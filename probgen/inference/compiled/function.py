"""A function of what a pair holds and of other tensors, recorded once for each shape, checked, compiled."""

from collections.abc import Callable, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from probgen.inference.adam import all_laid_out
from probgen.inference.compiled.backend import compiled
from probgen.inference.compiled.cuda_graph import Captured
from probgen.inference.compiled.lifting import Lifted
from probgen.inference.compiled.python_state import watched
from probgen.inference.compiled.recording import NotStaticError, Step, interpreted, one_line, record

ROUNDED = 1e-3  # of a float32 sum over some thousand pixels, taken in another order
KINKS = 1e-2  # of a gradient: a unit of a deep network that is 0 but for rounding may be on the other side of its kink
REPEATED = 1e-7  # of the same operations on the same numbers
IS_TRAINED = attrgetter("requires_grad")
Results = Sequence[Any]  # tensors, None, and constants, which are the same at every call


class Recorded:
    """`function` without its Python: the operations on tensors that it did when it was first called.

    pair: whose parameters and buffers the function uses; buffers may be written to, in place.
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
        self.leaves = self.lifted.tensors[: self.num_leaves]
        self.recordings: dict[Any, tuple[Step, Layout]] = {}

    def __call__(self, *inputs: Tensor) -> list[Any]:
        """The function's results; they have no gradient."""
        kinds = [(i.shape, i.stride(), i.dtype, i.device) for i in inputs]
        key = (getattr(self.pair, "training", None), *kinds, *map(IS_TRAINED, self.leaves))
        if key not in self.recordings:
            self.recordings[key] = self.prepare(inputs)
        run, layout = self.recordings[key]
        return layout.unpack(run(*self.all_inputs(inputs)))

    def all_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the pair holds at the moment, and the inputs."""
        return [*self.lifted.tensors, *inputs]

    def prepare(self, inputs: Sequence[Tensor]) -> "tuple[Step, Layout]":
        """Record, compare with the reference, compile."""
        layout, everything = Layout(), self.all_inputs(inputs)
        with pyro.validation_enabled(False), watched(self.lifted.owners):
            recurrent = any(isinstance(module, nn.RNNBase) for module in self.lifted.modules)
            graph = record(lambda *tensors: layout.pack(self.flat(*tensors)), everything, recurrent=recurrent)
        first, again = (self.trial(inputs, self.reference) for _ in range(2))
        if not agree(first, again, REPEATED, REPEATED):
            raise NotStaticError(
                "its loss or gradient depends on more than the batch, torch's generator and the tensors that its "
                "modules hold: on something in Python that changes"
            )
        run = interpreted(graph)
        if not agree(first, self.repeated(inputs, run, layout)):
            raise NotStaticError("recorded, it gives another loss or gradient than by Pyro")
        if self.machine_code:
            run = compiled(graph, everything)
            if all(tensor.device.type == "cuda" for tensor in everything):
                run = Captured(run, held=len(self.lifted.tensors))
            if not agree(first, self.repeated(inputs, run, layout), kinks=KINKS):
                raise NotStaticError("compiled, it gives another loss or gradient than by Pyro")
        return run, layout

    def still_agrees(self, *inputs: Tensor) -> tuple[bool, bool]:
        """Whether the reference still gives the recording's numbers; and its tensors. Nothing is left behind."""
        first, other = self.trial(inputs, self.reference), self.trial(inputs, self)
        flat = [is_flat(result) for result in first]
        return agree([*compress(first, flat)], [*compress(other, flat)]), agree(first, other, kinks=KINKS)

    def flat(self, *tensors: Tensor) -> Results:
        """The function, all that it depends on in a row."""
        held, inputs = tensors[: len(self.lifted.tensors)], tensors[len(self.lifted.tensors) :]
        pairs = zip(held, self.leaves, strict=False)
        leaves = [tensor.detach().requires_grad_(real.requires_grad) for tensor, real in pairs]
        with torch.enable_grad(), self.lifted.replaced([*leaves, *held[self.num_leaves :]]):
            return self.function(leaves, *inputs)

    def repeated(self, inputs: Sequence[Tensor], run: Step, layout: "Layout") -> Results:
        """The results of a recording. Raises NotStaticError where it cannot be run."""
        try:
            return self.trial(inputs, lambda *given: layout.unpack(run(*self.all_inputs(given))))
        except RuntimeError as error:  # of operations that were recorded without numbers and fail on numbers
            raise NotStaticError(f"torch cannot repeat what was recorded ({one_line(error)})") from error

    def trial(self, inputs: Sequence[Tensor], run: Callable[..., Results]) -> Results:
        """The results of a run that leaves nothing behind."""
        state = [tensor.detach().clone() for tensor in self.lifted.tensors]
        with torch.random.fork_rng(), watched(self.lifted.owners), pyro.validation_enabled(False):
            results = run(*inputs)
        with torch.no_grad():
            for tensor, before in zip(self.lifted.tensors, state, strict=True):
                tensor.copy_(before)
        return results


def agree(first: Results, other: Results, tolerance: float = ROUNDED, kinks: float = ROUNDED) -> bool:
    """Whether two runs on the same inputs have the same results, up to a share of their size.

    tolerance: that share, of numbers: losses and terms, which a kink does not make jump. kinks: of tensors: gradients,
    which it does. So machine code, which sums in another order, is given more room there (a player's turn in a GAN
    too); what was recorded and not compiled does the same operations in the same order, and is not.
    A gradient that is zero but for rounding is compared with the others' size, as a term is with the other terms.
    """
    if len(other) != len(first):
        return False
    sizes = [size(result) for result in first]
    flat = [is_flat(result) for result in first]
    floors = {kind: max([s for s, f in zip(sizes, flat, strict=True) if f is kind], default=0.0) / 100 for kind in flat}
    shares = {True: tolerance, False: kinks}
    return all(close(a, b, shares[f], floors[f]) for a, b, f in zip(first, other, flat, strict=True))


def is_flat(result: Any) -> bool:
    """Whether it is a number, and no tensor of several."""
    return not isinstance(result, Tensor) or result.dim() == 0


def size(result: Any) -> float:
    """The norm of the finite numbers in a result."""
    if result is None:
        return 0.0
    return float(torch.as_tensor(result).detach().double().nan_to_num(0.0, 0.0, 0.0).norm())


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """∇ loss in each parameter, in its layout in memory; None where the loss does not depend on it."""
    free = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(loss, free, allow_unused=True))
    each = [next(found) if parameter.requires_grad else None for parameter in parameters]
    return all_laid_out(each, parameters)


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
        if len(tensors) == len(self.others):
            return list(tensors)
        left = iter(tensors)
        return [next(left) if other is IS_TENSOR else other for other in self.others]


IS_TENSOR = object()


def close(a: Any, b: Any, tolerance: float, floor: float) -> bool:
    """The same up to a share of its size, or of `floor`; nan where the other is, too. No gradient is one of zeros."""
    if a is None or b is None:
        return a is b or size(a if b is None else b) == 0
    a, b = (torch.as_tensor(number).detach().double() for number in (a, b))
    broken = ~(a.isfinite() & b.isfinite())
    if not torch.equal(a[broken].nan_to_num(), b[broken].nan_to_num()):
        return False
    return bool((a - b)[~broken].norm() <= tolerance * (size(a) + size(b) + floor) + 1e-12)
