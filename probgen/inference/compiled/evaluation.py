"""Functions of a pair that are evaluated many times (importance weights, densities along a path), without Pyro.

    inputs ↦ numbers, the pair's tensors as they are

Each is recorded once for every shape of its inputs and compiled, where there is enough to do; the numbers are Pyro's
for the same state of torch's generator, up to rounding. What cannot be recorded is left to Pyro.
"""

from collections.abc import Callable, Hashable, Sequence
from types import SimpleNamespace
from typing import Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probgen.console import stderr_console
from probgen.inference.compiled.function import Recorded
from probgen.inference.compiled.python_state import watched
from probgen.inference.compiled.recording import NotStaticError, Step
from probgen.inference.traces import Program, marked, modules_of, owner, sample_sites

Compile = Literal["auto", "on", "off"]
Tell = Callable[[str], None]

# Seconds, on two cores of a server (784-400-50 autoencoder, and models of a few numbers): a compilation took 4 to 10 of
# them, Pyro's handlers 0.7 to 2 ms at each call, and what the compiler fuses 1.3e-11 for each row of the batch and
# weight of the decoder, which has about half of a pair's. As counts of work and never measured at run time: which way a
# number is computed must not depend on how busy the machine is.
COMPILING, EACH_CALL, EACH_PRODUCT = 10.0, 1e-3, 6e-12

SAME, ROUNDED = (1e-12, 1e-5), (1e-9, 1e-4)  # of the largest number: in float64, in other types
KINKS = 0.01  # share of the numbers that may differ more: a rounded unit is on the other side of its kink


class Evaluation:
    """Which functions of some programs are compiled, and what came of it.

    programs: all that the functions run. compile: `off`, `on`, or `auto`, where it repays (see `repays`).
    tell: is told once why the functions were not compiled although they were to be.
    machine_code: whether to compile what is recorded; else torch takes one operation after the other.

    not_compiled: that reason; None where there is none.
    """

    def __init__(
        self, programs: Sequence[Program], compile: Compile, tell: Tell = lambda _: None, *, machine_code: bool = True
    ) -> None:
        self.programs, self.compile, self.tell, self.machine_code = programs, compile, tell, machine_code
        self.owners = list({id(owner(program)): owner(program) for program in programs}.values())
        self.recorded: dict[Hashable, Step] = {}
        self.not_compiled: str | None = None

    def wanted(self, calls: int, rows: int) -> bool:
        """Whether to compile a function that will be called so often, for batches of so many rows."""
        if self.compile == "off" or self.not_compiled is not None:
            return False
        return self.compile == "on" or repays(calls, rows, self.num_weights)

    @property
    def num_weights(self) -> int:
        """Numbers in the parameters of all programs."""
        found = {id(p): p.numel() for part in self.owners for m in modules_of(part) for p in m.parameters()}
        return sum(found.values())

    def best(self, function: Step, inputs: Sequence[Tensor], x: Tensor, key: Hashable = None) -> Step:
        """The function itself, or the same compiled; to be called with inputs of these shapes, which are tried.

        key: tells functions apart whose inputs have the same shapes; of those with the same key and shapes the first is
            recorded, and the others are only compared with it. x: a batch of what the programs take.

        Raises what the function raises.
        """
        # Of a tensor that came twice a recording would know one place, and machine code is for one layout in memory.
        inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs]
        key = (key, *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs))
        try:
            self.check(function, inputs, x, known=self.recorded.get(key))
            if key not in self.recorded:
                self.recorded[key] = self.compiled(function, inputs)
        except NotStaticError as error:
            self.not_compiled = str(error)
            self.tell(f"not compiled, Pyro runs every time: {error}")
            return function
        return self.recorded[key]

    def check(self, function: Step, inputs: Sequence[Tensor], x: Tensor, known: Step | None) -> None:
        """Raise NotStaticError for a function that is none of the inputs and the generator, or not the known one.

        What the function raises comes first.
        """
        trial = Recorded(self.holder(), stored(), unleaved(function), function).trial
        with watched(self.owners):
            first, again = (trial(inputs, with_next(function)) for _ in range(2))
        with pyro.validation_enabled(False), torch.random.fork_rng(), torch.no_grad():
            if any(marked(sample_sites(poutine.trace(program).get_trace(x[:2]))) for program in self.programs):
                raise NotStaticError("it sums over the values of discrete sites (enumeration)")
        if not alike(first, again, SAME):
            raise NotStaticError("its numbers depend on something in Python that changes from one call to the next")
        if known is not None and not alike(first, trial(inputs, with_next(known)), ROUNDED):
            raise NotStaticError("its numbers depend on more than its inputs and the tensors that its modules hold")

    def compiled(self, function: Step, inputs: Sequence[Tensor]) -> Step:
        """The function, recorded and compiled, after a comparison of its results with Pyro's."""
        made = Recorded(self.holder(), stored(), unleaved(function), function, machine_code=self.machine_code)
        ours, pyros = (made.trial(inputs, with_next(run)) for run in (made, function))
        if not alike(pyros, ours, ROUNDED):
            raise NotStaticError("compiled, it gives other numbers than Pyro")
        return lambda *inputs: made(*(tensor.contiguous() for tensor in inputs))

    def holder(self) -> SimpleNamespace:
        """An object whose attributes are all modules of the programs."""
        modules = {id(module): module for part in self.owners for module in modules_of(part)}
        return SimpleNamespace(**{f"module_{i}": module for i, module in enumerate(modules.values())})


def note(progress: bool) -> Tell:
    """Tells the user on stderr, who watches the progress."""
    return (lambda text: stderr_console().print(text, markup=False)) if progress else (lambda _: None)


def repays(calls: int, rows: int, num_weights: int) -> bool:
    """Whether so many calls save more than it takes to compile them; by counts, see `COMPILING`."""
    return calls * (EACH_CALL + EACH_PRODUCT * rows * num_weights) >= COMPILING


def stored() -> list[Tensor]:
    """Every tensor in Pyro's store of parameters, once."""
    return list({id(value): value for value in pyro.get_param_store().get_state()["params"].values()}.values())


def unleaved(function: Step) -> Callable[..., list[Tensor]]:
    """As `Recorded` calls it: the parameters, which it finds where they always are, in front."""
    return lambda _, *inputs: function(*inputs)


def with_next(function: Step) -> Step:
    """The function's results, and the generator's next number."""
    return lambda *inputs: [*function(*inputs), torch.rand(())]


def alike(first: Sequence[Tensor], other: Sequence[Tensor], tolerances: tuple[float, float]) -> bool:
    """The same tensors up to rounding, of float64 and of other types."""
    return len(first) == len(other) and all(
        a.shape == b.shape and alike_each(a, b, tolerances[a.dtype != torch.float64])
        for a, b in zip(first, other, strict=True)
    )


def alike_each(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """All but a share of KINKS within the tolerance, relative to the largest number; broken numbers alike."""
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    fine = a.isfinite() & b.isfinite()
    if not torch.equal(a[~fine].nan_to_num(), b[~fine].nan_to_num()):
        return False
    a, b = a[fine], b[fine]
    if not len(a):
        return True
    return bool(((a - b).abs() > tolerance * a.abs().max().clamp_min(1e-12)).double().mean() <= KINKS)
