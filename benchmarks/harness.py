"""Contenders in turn, round after round: noise of the machine hits all alike, and no two run at once."""

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent


class FailedError(Exception):
    """A contender that could not be measured, and why."""


@dataclass(frozen=True)
class Contender:
    """name: in the table. module: its `setup(**options)` gives the work. needs: packages that must be installed.

    spins: whether OpenMP's threads look for work for a while before they sleep, as torch's do unless told otherwise.
    """

    name: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    spins: bool = False


@dataclass
class Result:
    """Seconds a step, and processor seconds a second, one for each round; or what went wrong."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio_to(self, other: "Result") -> float:
        """The median of the rounds' ratios: what slows a whole round cancels."""
        return statistics.median(self.ratios_to(other))

    def ratios_to(self, other: "Result") -> list[float]:
        """Times by those of the same rounds."""
        return [mine / its for mine, its in zip(self.seconds, other.seconds, strict=True)]

    def processor_ratio_to(self, other: "Result") -> float:
        """As `ratio_to`, of processor time: what other programs take away does not count."""
        mine, its = ([max(s * c, 1e-9) for s, c in zip(r.seconds, r.cores, strict=True)] for r in (self, other))
        return statistics.median(a / b for a, b in zip(mine, its, strict=True))


class Measured(Protocol):
    """What is asked in each round."""

    def measure(self, seconds: float) -> tuple[float, float]:
        """Seconds a step, and processor seconds a second, from about so many seconds of work."""

    def close(self) -> None:
        """End it."""


class Worker:
    """A contender's process. Raises FailedError if it cannot be set up."""

    def __init__(self, contender: Contender, threads: int, warm: float, **options: Any) -> None:
        missing = [name for name in contender.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise FailedError(f"not installed ({', '.join(missing)}): pip install -e '.[bench]'")
        given = {**options, **contender.options, "threads": threads}
        around = environment(threads, contender.spins)
        command = [sys.executable, "-m", "benchmarks.worker", contender.module, json.dumps(given), str(warm)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, lives as long as the process
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.errors, text=True, cwd=ROOT, env=around
        )
        self.facts = self.answer()
        self.step, self.parts = self.facts.pop("step"), self.facts.pop("parts")

    def measure(self, seconds: float) -> tuple[float, float]:
        assert self.process.stdin is not None
        print(max(1, math.ceil(seconds / self.step)), file=self.process.stdin, flush=True)
        said = self.answer()
        return self.parts * said["seconds"] / said["steps"], said["cpu_seconds"] / said["seconds"]

    def answer(self) -> dict[str, Any]:
        """The next line; where there is none, the last words of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines() or [f"exit code {self.process.wait()}"]
            self.close()
            raise FailedError(said[-1].removeprefix("NotImplementedError: ")[:200])  # the contender's own words
        return json.loads(line)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class Command:
    """A fresh process as a step, again and again."""

    def __init__(self, *command: str, threads: int, warm: bool = True) -> None:
        self.command, self.environment = command, environment(threads)
        self.facts: dict[str, Any] = {}
        if warm:
            self.measure(0)  # files into the page cache, .pyc files written

    def measure(self, seconds: float) -> tuple[float, float]:
        """One launch; they take long enough."""
        cpu, start = sum(os.times()[2:4]), time.perf_counter()
        done = subprocess.run(self.command, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise FailedError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200])
        took = time.perf_counter() - start
        return took, (sum(os.times()[2:4]) - cpu) / took

    def close(self) -> None:
        """Nothing is left."""


def environment(threads: int, spins: bool = False) -> dict[str, str]:
    """So many threads for every library; unless they are to spin, they sleep while they wait, as on the command line.

    A contender whose threads spin does so for some milliseconds at the end of its turn, no longer.
    """
    around = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if spins:
        del around["OMP_WAIT_POLICY"]
    return around


def compete(starts: Sequence[tuple[str, Callable[[], Any]]], rounds: int, seconds: float) -> list[Result]:
    """Each named contender measured once a round, each round beginning with another one."""
    results = {name: Result(name) for name, _ in starts}
    running: dict[str, Measured] = {}
    try:
        for name, start in starts:
            try:
                running[name] = start()
                results[name].facts = running[name].facts  # type: ignore[attr-defined]
            except FailedError as error:
                results[name].failure = str(error)
        for number in range(rounds):
            for name in rotated(list(running), number):
                try:
                    took, cores = running[name].measure(seconds)
                except FailedError as error:
                    results[name].failure = str(error)
                    del running[name]
                    continue
                results[name].seconds.append(took)
                results[name].cores.append(cores)
    finally:
        for contender in running.values():
            contender.close()
    return list(results.values())


def rotated(names: list[str], number: int) -> list[str]:
    """The names, begun at another one each time."""
    places = range(len(names))
    return [names[(place + number) % len(names)] for place in places]
