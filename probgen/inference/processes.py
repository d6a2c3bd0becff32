"""Several processes that train one pair: each takes a share of every batch, and all take the same step.

    ∇ of the batch's loss  =  Σ_r (n_r / B) · ∇ of the loss of process r's n_r images

What they must agree on at a step goes over in one sum (of two players: two at each turn). So their weights are the
same, bit for bit, all the time.
"""

import functools
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as torch_processes
from jaxtyping import Float
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from torch.nn.modules.batchnorm import _NormBase

from probgen.errors import UserError
from probgen.inference.adam import all_laid_out
from probgen.inference.objective import StepTerms
from probgen.inference.traces import modules_of

STEPS_BETWEEN_LOOKS = 16  # at the others' wish to stop, where a look waits for the device
LAST_WORD = "probgen/last-word"  # in the group's store
T = TypeVar("T")


class LostProcessError(UserError):
    """A process of the run has ended by an error, or cannot be reached."""


class AgreedError(UserError):
    """What stops all processes, and all of them know of; the first one tells it."""


class Processes:
    """One process alone; `rank` counts from 0, `world` is how many there are.

    wants_stop: whether this one was asked to stop. stopping: whether any was, as of the last step together.
    """

    rank, world = 0, 1
    wants_stop = stopping = False

    def gather(self, thing: T) -> list[T]:
        """What each process has, in the order of their ranks."""
        return [thing]

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        return make()

    def total(self, numbers: Tensor) -> None:
        """Replace the numbers by their sums over all processes."""

    def stop_agreed(self, wanted: bool) -> bool:
        """Whether all stop now. `wanted`: whether this one was asked to; the next step tells the others."""
        return wanted

    def agree(self, trouble: str | None) -> None:
        """Raise AgreedError in all processes if one of them has trouble."""
        for told in self.gather(trouble):
            if told is not None:
                raise AgreedError(told)

    @contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """Inside, an error of a program is told in one line where there are several processes, and ends all of them.

        Raises LostProcessError then; a UserError stays what it is, and so does any error of one process alone.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.world == 1:
                raise
            told = f"process {self.rank}: {in_one_line(error)}"
            self.leave_word(told)
            raise LostProcessError(told) from error

    def leave_word(self, told: str) -> None:
        """What the first process tells of this one's end."""


ALONE = Processes()


def in_one_line(error: Exception) -> str:
    """An error's class, its first line, and where it was raised, in the user's file rather than in a library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    line = next(filter(None, str(error).splitlines()), "")
    return f"{type(error).__name__}: {line} ({own[-1].filename} line {own[-1].lineno})"


class Group(Processes):
    """The processes of torch's default group. Raises LostProcessError in all that are left when one has ended."""

    def __init__(self) -> None:
        self.rank, self.world = torch_processes.get_rank(), torch_processes.get_world_size()

    def gather(self, thing: T) -> list[T]:
        """What each process has, in the order of their ranks."""
        things: list[Any] = [None] * self.world
        reached(lambda: torch_processes.all_gather_object(things, thing))
        return things

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        thing: list[Any] = [make() if self.rank == 0 else None]
        reached(lambda: torch_processes.broadcast_object_list(thing, src=0))
        return thing[0]

    def total(self, numbers: Tensor) -> None:
        """Replace the numbers by their sums over all processes, of which all get the same bits."""
        reached(lambda: torch_processes.all_reduce(numbers))

    def stop_agreed(self, wanted: bool) -> bool:
        """Whether all stop now. `wanted`: whether this one was asked to; the next step tells the others."""
        self.wants_stop = wanted
        return self.stopping

    def leave_word(self, told: str) -> None:
        """What the first process tells of this one's end: it looks when it misses this one.

        On GPUs, where it would wait for long before it misses one, this one tells it, and ends with exit code 2.
        """
        if self.rank > 0 and torch_processes.get_backend() != "gloo":
            print(f"probgen: {told}", file=sys.stderr)
            sys.exit(2)
        if self.rank > 0:
            with suppress(RuntimeError):  # the first one has ended too
                _get_default_store().set(LAST_WORD, told)


def reached(talk: Callable[[], Any]) -> None:
    """Talk to the other processes. Raises LostProcessError where that fails."""
    try:
        talk()
    except RuntimeError as error:
        raise LostProcessError(last_word()) from error


def last_word() -> str:
    """To the first process: what another one left to tell before it ended."""
    with suppress(RuntimeError):
        if torch_processes.get_rank() == 0 and _get_default_store().check([LAST_WORD]):
            return _get_default_store().get(LAST_WORD).decode()
    return "another process of this run has ended, or cannot be reached"


class Exchange:
    """Makes one step of all processes' steps.

    parameters: whose gradients are averaged, weighted by the shares of the batch. buffers: averaged likewise.
    """

    def __init__(self, processes: Processes, parameters: Sequence[Tensor], buffers: Iterable[Tensor] = ()) -> None:
        self.processes, self.parameters, self.buffers = processes, list(parameters), list(buffers)
        self.device = self.parameters[0].device
        self.dtype = functools.reduce(torch.promote_types, [p.dtype for p in self.parameters], torch.float32)
        self.steps = 0

    def __call__(self, step: StepTerms, weight: float, *, failed: bool = False) -> tuple[StepTerms, bool]:
        """The step of all processes' images; and whether it failed in one of them.

        step: of this process's images, which are a `weight`-th part of the batch. A parameter without a gradient
        counts as one of zeros where another process has one; where none has, it stays without. (Not on a GPU, where
        it would cost a wait at each step: zeros there, which move nothing that never had a gradient.)
        """
        flags = [failed, self.processes.wants_stop, *(gradient is not None for gradient in step.gradients)]
        row = torch.cat([torch.tensor(flags, dtype=self.dtype).to(self.device), weight * self.packed(step)])
        self.processes.total(row)
        failed, *present = self.looked(row[: len(flags)])
        return self.unpacked(row[len(flags) :], step, present), failed

    def looked(self, flags: Float[Tensor, " f"]) -> list[bool]:
        """Whether a process failed, and which parameters have a gradient; the wish to stop is noted."""
        self.steps += 1
        at_once = self.device.type == "cpu"
        if not at_once and self.steps % STEPS_BETWEEN_LOOKS:
            return [False] + [True] * len(self.parameters)
        failed, self.processes.stopping, *present = (flag > 0 for flag in flags.tolist())
        return [failed and at_once, *(known or not at_once for known in present)]

    def packed(self, step: StepTerms) -> Float[Tensor, " n"]:
        """All numbers that are averaged, in a row: the loss, the terms by name, buffers, gradients."""
        terms = [torch.as_tensor(step.terms[name]) for name in sorted(step.terms)]
        pairs = zip(step.gradients, self.parameters, strict=True)
        gradients = [torch.zeros_like(p) if gradient is None else gradient for gradient, p in pairs]
        parts = [step.loss, *terms, *self.buffers, *gradients]
        return torch.cat([part.detach().to(self.device, self.dtype).flatten() for part in parts])

    def unpacked(self, row: Float[Tensor, " n"], step: StepTerms, present: Sequence[bool]) -> StepTerms:
        """The averages where the numbers came from; a term that is a plain number is the same for all."""
        names = sorted(step.terms)
        sizes = [1] * (1 + len(names)) + [part.numel() for part in (*self.buffers, *self.parameters)]
        loss, *parts = row.split(sizes)
        terms = {
            name: part.view(()) if isinstance(step.terms[name], Tensor) else step.terms[name]
            for name, part in zip(names, parts, strict=False)
        }
        buffers = parts[len(names) : len(names) + len(self.buffers)]
        for buffer, part in zip(self.buffers, buffers, strict=True):
            buffer.copy_(part.view_as(buffer))
        each = zip(self.parameters, parts[len(names) + len(self.buffers) :], present, strict=True)
        flat = [part.view_as(p).to(p.dtype) if has_one else None for p, part, has_one in each]
        gradients = all_laid_out(flat, self.parameters)
        return StepTerms(loss.view(()), {name: terms[name] for name in step.terms}, step.traces, gradients)


def running_statistics(pair: Any) -> list[Tensor]:
    """The means and variances that batch norm keeps for evaluation; in training each process has its share's own."""
    layers = [part for module in modules_of(pair) for part in module.modules() if isinstance(part, _NormBase)]
    kept = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    return [buffer for buffer in kept if buffer is not None]
