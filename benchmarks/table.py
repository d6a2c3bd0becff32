"""One Markdown table of everything that was measured."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass

from benchmarks.harness import Result

HEADER = (
    "row", "contender", "median", "range", "ratio (range)", "ratio of medians", "of processor time", "cores", "remarks",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Cells of the table, in the order of its header."""

    row: str
    contender: str
    median: str = ""
    span: str = ""
    ratio: str = ""
    of_medians: str = ""
    of_processor_time: str = ""
    cores: str = ""
    remarks: str = ""


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{three(seconds / size)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def three(number: float) -> str:
    """A number with three significant digits, no exponent."""
    if not number:
        return "0"
    return f"{number:,.{max(0, 2 - math.floor(math.log10(abs(number))))}f}"


def lines_of(row: str, results: Sequence[Result], remark: Callable[[Result], str] = lambda result: "") -> list[Line]:
    """A line for each contender; ratios to the first one that could be measured."""
    measured = [result for result in results if not result.failure]
    return [line_of(row, r, measured[0], remark(r)) if not r.failure else failed(row, r) for r in results]


def failed(row: str, result: Result) -> Line:
    """Why there are no numbers."""
    return Line(row, result.name, remarks=result.failure.replace("|", "/"))


def line_of(row: str, result: Result, first: Result, remark: str) -> Line:
    """Numbers of a contender beside those of the first one."""
    alone, ratios = result is first, result.ratios_to(first)
    paired = f"**{three(result.ratio_to(first))}** ({three(min(ratios))}–{three(max(ratios))})"
    return Line(
        row,
        result.name,
        duration(result.median),
        f"{duration(min(result.seconds))} – {duration(max(result.seconds))}",
        "1" if alone else paired,
        "1" if alone else three(result.median / first.median),
        "1" if alone else three(result.processor_ratio_to(first)),
        f"{statistics.median(result.cores):.2f}",
        remark,
    )


def markdown(lines: Iterable[Line]) -> str:
    """The table; the name of a row stands once, at its first line."""
    cells, last = [HEADER, ("---",) * len(HEADER)], ""
    for line in lines:
        cells.append(astuple(line) if line.row != last else ("", *astuple(line)[1:]))
        last = line.row
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)
