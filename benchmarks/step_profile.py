"""Where the time of a compiled training step goes.

    python -m benchmarks.step_profile mnist --threads 1

Python's own profiler, whose shares flatter what is done in few calls: each call costs it about half a microsecond.
"""

import argparse
import cProfile
import pstats
from collections import defaultdict

from benchmarks.contenders import with_probgen

PARTS = {  # the first whose word is in the name of a function, or of its file
    "matrix products": ("torch.mm", "torch.addmm", "torch.bmm"),
    "Adam": ("_fused_adam_", "adam.py", "'add_'"),
    "the rest of the compiled graph": ("kernel", "torchinductor", "_empty_strided_cpu", "_reinterpret_tensor", "_ops."),
    "batch: choice, binarization": ("batches.py", "split.py", "binarize.py", "index_select", "torch.rand", "'to'"),
}
REST = "Python around them"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=with_probgen.CASES, nargs="?", default="mnist")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    for part, share in shares(options.case, options.threads, options.steps).items():
        print(f"{100 * share:5.1f} %  {part}")


if __name__ == "__main__":
    main()
