"""Where and with what it was measured."""

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import environment

PACKAGES = ("torch", "pyro-ppl", "numpy", "jax", "numpyro", "pythae")


def processor() -> str:
    """The model's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> str:
    """Of the machine."""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def versions() -> list[str]:
    """Of the packages that are installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return found


def description() -> str:
    """Sentences over the table."""
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    policy = environment(1)["OMP_WAIT_POLICY"]
    return (
        f"{date.today()}; {processor()}, {cores()} cores, {memory()}, load before the start {load}; "
        f"{platform.system()}, Python {platform.python_version()}, {', '.join(versions())}; OMP_WAIT_POLICY={policy}."
    )
