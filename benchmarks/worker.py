"""A contender in a process of its own: sets up, warms up, then does the steps it is asked for, one request a line.

    python -m benchmarks.worker MODULE OPTIONS SECONDS      # OPTIONS in JSON, for the module's `setup`

Requests are numbers of steps on stdin; answers are lines of JSON. Between requests the process sleeps.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from benchmarks.work import Work


def limit_cores(threads: int) -> None:
    """As many cores as threads, from before libraries look how many there are, and child processes too.

    XLA has no other way to be told; and the thread that calls it would work beside the one that computes.
    """
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))


def timed(work: Work, steps: int) -> dict[str, Any]:
    """Wall-clock and processor time of at least so many steps; the latter of all threads, not of child processes."""
    cpu, start = time.process_time(), time.perf_counter()
    done = work.run(steps)
    return {"steps": done, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def warm_up(work: Work, seconds: float) -> float:
    """Compile, fill caches, and find out what a step takes."""
    work.run(1)
    work.run(2)  # some paths are compiled at the second call
    steps, start = 1, time.perf_counter()
    while True:
        last = timed(work, steps)
        if time.perf_counter() - start > seconds:
            return last["seconds"] / last["steps"]
        steps = 2 * last["steps"]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print does not disturb the answers
    module, options = sys.argv[1], json.loads(sys.argv[2])
    limit_cores(options["threads"])
    work = importlib.import_module(module).setup(**options)
    step = warm_up(work, float(sys.argv[3]))
    print(json.dumps({"step": step, "parts": work.parts, **work.facts}), file=answers)
    for line in sys.stdin:
        print(json.dumps(timed(work, int(line))), file=answers)


if __name__ == "__main__":
    main()
