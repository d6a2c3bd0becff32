"""Where the time of a compiled training step goes.

    python -m benchmarks.step_profile mnist --threads 1

Python's own profiler, whose shares flatter what is done in few calls: each call costs it about half a microsecond. It
does not see into the compiled graph, so its matrix products are timed alone: medians of both.
"""

import argparse
import cProfile
import pstats
import statistics
import time
from collections import defaultdict

import torch

from benchmarks.contenders import with_probgen
from benchmarks.work import CASES, Case

PARTS = {  # the first whose word is in the name of a function, or of its file
    "the compiled graph": ("inductor_entry", "kernel", "torchinductor"),
    "Adam": ("_fused_adam_", "adam.py"),
    "batch: choice, binarization": ("batches.py", "split.py", "binarize.py", "index_select", "random_", "ndarray"),
}
REST = "Python around them"
PRODUCTS = "matrix products of a step, alone"


def part_of(function: tuple[str, int, str]) -> str:
    """The part of the step that a function of the profile belongs to."""
    told = f"{function[0]} {function[2]}"
    return next((part for part, words in PARTS.items() if any(word in told for word in words)), REST)


def shares(case: str, threads: int, steps: int, compiled: str = "on") -> dict[str, float]:
    """Share of each part in the time of `steps` steps."""
    work = with_probgen.setup(case, threads, compiled)
    work.run(max(2, steps // 10))
    profiler = cProfile.Profile()
    profiler.runcall(work.run, steps)
    seconds: dict[str, float] = defaultdict(float)
    for function, (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        seconds[part_of(function)] += own
    return {part: seconds[part] / sum(seconds.values()) for part in (*PARTS, REST)}


def shapes(sizes: Case) -> list[tuple[int, int, int]]:
    """Rows, inner size and columns of every product in a step: each layer's, and those of its gradients."""
    pixels, hidden, latent = sizes.pixels, sizes.hidden, sizes.latent
    layers = [(pixels, hidden), (hidden, 2 * latent), (latent, hidden), (hidden, pixels)]
    forward = [(sizes.batch, k, n) for k, n in layers]
    return [*forward, *((n, sizes.batch, k) for k, n in layers), *((sizes.batch, n, k) for k, n in layers[1:])]


def products(case: str, threads: int, steps: int) -> float:
    """Seconds that the products of a step take with `torch.mm`, the median of so many steps."""
    torch.set_num_threads(threads)
    given = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in shapes(CASES[case])]
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        for left, right, out in given:
            torch.mm(left, right, out=out)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds(case: str, threads: int, steps: int) -> float:
    """Seconds of a compiled step, the median of so many."""
    work, times = with_probgen.setup(case, threads, "on"), []
    work.run(max(2, steps // 10))
    for _ in range(steps):
        start = time.perf_counter()
        work.run(1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=with_probgen.CASES, nargs="?", default="mnist")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    for part, share in shares(options.case, options.threads, options.steps).items():
        print(f"{100 * share:5.1f} %  {part}")
    step, alone = (measure(options.case, options.threads, options.steps) for measure in (seconds, products))
    print(f"{1e6 * alone:.0f} of {1e6 * step:.0f} µs  {PRODUCTS}")


if __name__ == "__main__":
    main()
