"""What the user sees: messages and progress on stderr, results on stdout. Imports nothing heavy."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

NOISY_DEPENDENCIES = r"arviz|torch|pyro|matplotlib|tensorboard|jaxtyping|numpy|google"


def prepare_process() -> None:
    """For the command line only, before torch is loaded: no warnings of dependencies, threads that wait asleep.

    By default OpenMP's threads spin while they wait for each other, which on a busy machine keeps them from the
    work itself: on two cores a run of a small network took 18 s with threads asleep, over 60 s spinning.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message=r"\s*(ArviZ is undergoing|Encountered NaN)")
    warnings.filterwarnings("ignore", module=rf"({NOISY_DEPENDENCIES})(\..*)?")
    warnings.showwarning = show_in_one_line


def show_in_one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as the command line tells it: without the place in the source that gave it."""
    print("probgen: warning: " + " ".join(str(message).split()), file=sys.stderr)


def stdout_console() -> Console:
    """A console on stdout; wide enough in a pipe that no row is folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def stderr_console() -> Console:
    """A console on the present stderr."""
    return Console(file=sys.stderr, soft_wrap=True)


def progress_bar(*, quiet: bool = False) -> Progress:
    """A bar on stderr: what, how far, how long still, and the numbers of the moment (field `terms`).

    Shown on terminals only: a log file gets no control characters.
    """
    console = stderr_console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=True,
    )


def track(items: Sequence[T], description: str, *, quiet: bool = False) -> Iterator[T]:
    """The items, with a progress bar."""
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task(description, total=len(items), terms="")
        for item in items:
            yield item
            bar.advance(task)
