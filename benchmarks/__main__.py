"""All benchmarks, one Markdown table: `python -m benchmarks`, or `make bench`.

    python -m benchmarks vae-mnist iwae --rounds 20 --out table.md      # some rows
    python -m benchmarks --quick                                        # tiny sizes: does everything run?

Every contender runs in a process of its own; in each round all of a row's do their steps, one after the other.
"""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.machine import cores, description
from benchmarks.rows import FAILURES, ROWS, Options
from benchmarks.table import Line, markdown

EXPLANATION = """\
Times are of one step, medians over {rounds} rounds of about {seconds:g} s for each contender, which take turns;
compilation and warming up come before. `ratio` is the time of a contender by that of its row's first one: the median
of the rounds' ratios, from which noise that lasts for a round cancels, with the smallest and largest. The same `of
processor time` leaves out what other programs took away; child processes do not count in it. `cores` is processor
time by wall-clock time: below the number of threads, something else was running, or threads had to wait.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.7, help="of work of a contender in a round")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[], help="of each contender; by default as fits a row"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: times mean nothing")
    parser.add_argument("--out", type=Path, help="file for the table; it is printed in any case")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"unknown row {', '.join(sorted(unknown))}: choose of {', '.join(ROWS)}")
    return options


def main() -> None:
    """Measure row after row; the file holds what there is after each."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # workers are ended on the way out
    options = Options(1, 0.01, quick=True) if given.quick else Options(given.rounds, given.seconds)
    warning = "**Tiny sizes, one round: whether everything runs, the times mean nothing.**\n\n" if given.quick else ""
    head = f"{warning}{description()}\n\n{EXPLANATION.format(rounds=options.rounds, seconds=options.seconds)}\n"
    lines: list[Line] = []
    for name in given.rows or ROWS:
        for threads in ROWS[name].threads(given.threads, 1 if given.quick else cores()):
            print(f"{name}, threads: {threads} …", file=sys.stderr)
            try:
                lines += ROWS[name].measure(options, threads)
            except FAILURES as error:
                lines.append(Line(name, "all", remarks=f"failed: {error}"))
            if given.out:
                given.out.write_text(head + markdown(lines))
    print(head + markdown(lines), end="")


if __name__ == "__main__":
    main()
