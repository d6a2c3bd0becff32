"""The table of `probgen compare`: columns of cells, each with how its number was measured; as text for people."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from probgen.console import stdout_console
from probgen.measures.manifold import SHARE_ERROR
from probgen.tables_samples import MEASURES, measured

NUMBERS = "comparison.json"  # the file of them
PROTOCOLS = {
    "log_prob": "log p(x), computed without sampling",
    "elbo": "the ELBO, from one draw of z: in expectation no more than log p(x)",
    "iwae": "IWAE (Burda et al. 2016), the logarithm of the mean of {particles} importance weights: in expectation no "
    "more than log p(x)",
    "mean": "; mean over {which} {split} {things} of {data}, ± the standard error of that mean",
    "bits_per_dim": "−log p(x) / ({size} ln 2): bits for each number of an image, from log p(x) as it stands here; "
    "from a lower bound on log p(x) an upper bound",
    "samples_per_second": "{count:,} {things}, drawn on this machine, in this process, in a single run: what else the "
    "machine did counts",
    "probe": "share of labels found by logistic regression (L2 penalty 1, standardized features) on {features}: "
    "{num_features:,} numbers each, fitted on {num_train:,} training {things}, counted on {num_test:,} test {things} "
    "of {data}; the commonest label has {chance:.1%}; ± " + SHARE_ERROR,
    "parameters": "entries of all parameter tensors, with those that a mask holds at zero",
    "training": "time in training on the machine that trained it, added up over its parts, as the run recorded it; "
    "pictures and checkpoints included",
}
LIKELIHOOD, SAMPLES, CODE, COST = "log p(x)", "samples beside real ones", "labels read off it", "cost"
ARROWS = {"higher": " ↑", "lower": " ↓", "0.5": " → 0.5"}
NOTHING = "–"
BEST = (
    "*: the best run of that column, or within two standard errors of the difference from it; where there is no ±, the "
    "best number alone; none where all runs are that near. log p(x) is ranked only where all numbers are exact and of "
    "one kind: how far a lower bound lies below its log p(x) is not known, and a density is no probability of grey "
    "levels. Precision alone is won by a collapse onto a few good images: it has no * where recall is 0 within two "
    "standard errors."
)


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, with how it was measured; a dash where there is none."""

    text: str = NOTHING
    protocol: str | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A heading and one cell for each run, the last of the real data. numbers: whether to align at the right."""

    group: str
    title: str
    cells: tuple[Cell, ...]
    numbers: bool = True


def how_known(name: str, estimate: Mapping[str, Any], dequantized: bool) -> str:
    """`exact`, or `lower bound, IWAE with 100 particles`; of grey levels made continuous it says so."""
    how = {"iwae": f", IWAE with {estimate['particles']} particles", "elbo": ", ELBO"}.get(name, "")
    return estimate["kind"] + how + (", density of dequantized grey levels" if dequantized else "")


def columns(record: Mapping[str, Any]) -> list[Column]:
    """The table of a comparison, column by column; those where no run has a number are left out."""
    rows = [*record["runs"], record["reference"]]
    thing, real = ("point", "real points") if record["levels"] is None else ("image", "real images")
    found = [
        Column(LIKELIHOOD, "model", texts(row.get("model", real) for row in rows), numbers=False),
        Column(LIKELIHOOD, "what it is", texts(row["kind"] or NOTHING for row in rows), numbers=False),
        ranked(LIKELIHOOD, f"log p(x), nats per {thing}", rows, "log_prob", show_log_prob),
        Column(LIKELIHOOD, "the number is", texts(kind_of_number(row) for row in rows), numbers=False),
        ranked(LIKELIHOOD, "bits/dim", rows, "bits_per_dim", show_bits),
    ]
    for name, title in MEASURES.items():
        flat = [{name: row["measures"].get(name)} for row in rows]
        better = next((row[name]["better"] for row in flat if row[name]), "")
        unranked = collapsed(rows) if name == "precision" else frozenset()
        found.append(ranked(SAMPLES, title + ARROWS.get(better, ""), flat, name, show_measure, unranked))
    found.append(ranked(CODE, "linear probe ↑", rows, "probe", show_share))
    found.append(ranked(COST, "samples/s", rows, "samples_per_second", show_rate))
    found.append(ranked(COST, "parameters", rows, "parameters", show_count))
    found.append(ranked(COST, "training", rows, "training", show_time))
    return [column for column in found if any(cell.text != NOTHING for cell in column.cells)]


def texts(words: Iterable[str]) -> tuple[Cell, ...]:
    """Cells without a number."""
    return tuple(Cell(word) for word in words)


def kind_of_number(row: Mapping[str, Any]) -> str:
    """What the number under log p(x) is."""
    if row["kind"] is None:
        return NOTHING
    return "none" if row["log_prob"] is None else str(row["log_prob"]["what"])


def collapsed(rows: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """The places of runs whose recall is 0 within two standard errors."""
    recalls = [row["measures"].get("recall") for row in rows]
    return frozenset(place for place, r in enumerate(recalls) if r and r["value"] <= 2 * r["stderr"])


def ranked(
    group: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    show: Any,
    unranked: Collection[int] = (),
) -> Column:
    """A column of numbers, the best runs marked where runs were measured alike; the last row is no run.

    unranked: places that take no part in it.
    """
    numbers = [row.get(key) for row in rows]
    best = best_of(key, [None if place in unranked else number for place, number in enumerate(numbers[:-1])])
    cells = [
        Cell() if number is None or number["value"] is None else Cell(show(number), told_of(number), place in best)
        for place, number in enumerate(numbers)
    ]
    return Column(group, title, tuple(cells))


def told_of(number: Mapping[str, Any]) -> str:
    """The protocol without what is a number of its own: p-values are in comparison.json."""
    return re.sub(r"p = [^;]+", f"p in {NUMBERS}", number["protocol"])


def best_of(key: str, numbers: Sequence[Mapping[str, Any] | None]) -> set[int]:
    """The places of the best, and of those that cannot be told from it; none where that would be all of them."""
    known = [(place, number) for place, number in enumerate(numbers) if number is not None]
    kinds = {number.get("what", "exact") for _, number in known}
    if len(kinds) > 1 or not all(kind.startswith("exact") for kind in kinds):
        return set()
    better = known[0][1].get("better") if known else None
    alike = key == "probe" or len({told_of(number) for _, number in known}) == 1
    if len(known) < 2 or not better or not alike:
        return set()
    sign = {"higher": -1.0, "lower": 1.0}
    loss = {p: sign[better] * n["value"] if better in sign else abs(n["value"] - 0.5) for p, n in known}
    first = min(loss, key=lambda place: loss[place])
    error = {p: n["stderr"] for p, n in known}
    best = {p for p in loss if p == first or loss[p] - loss[first] <= margin(error[p], error[first])}
    return best if len(best) < len(known) else set()


def margin(one: float | None, other: float | None) -> float:
    """Two standard errors of a difference; 0 where they are not known."""
    return 0.0 if one is None or other is None else 2 * float((one**2 + other**2) ** 0.5)


# --- how numbers are shown


def show_log_prob(number: Mapping[str, Any]) -> str:
    """`≥ −88.7 ± 1.2` of a lower bound."""
    return ("≥ " if number["kind"] == "lower bound" else "") + show_measure(number)


def show_bits(number: Mapping[str, Any]) -> str:
    """`≤ 2.31 ± 0.02` where log p(x) is bounded from below."""
    return ("≤ " if number["what"].startswith("lower bound") else "") + show_measure(number)


def show_measure(number: Mapping[str, Any]) -> str:
    """The value with its standard error, if it has one."""
    return measured(number["value"], number["stderr"]).replace("-", "−")


def show_share(number: Mapping[str, Any]) -> str:
    """`93.1 ± 1.3 %`."""
    return f"{100 * number['value']:.1f} ± {100 * number['stderr']:.1f} %"


def show_rate(number: Mapping[str, Any]) -> str:
    """Three digits: more would not be the same the next time."""
    value = float(f"{number['value']:.3g}")
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def show_count(number: Mapping[str, Any]) -> str:
    """A whole number; of two players also that of each."""
    both = f" (G {number['generator']:,} + D {number['discriminator']:,})" if "generator" in number else ""
    return f"{number['value']:,}{both}"


def show_time(number: Mapping[str, Any]) -> str:
    """Seconds up to two minutes, then minutes, then hours."""
    seconds = number["value"]
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


# --- as text


def protocols(table: Sequence[Column]) -> list[str]:
    """How the numbers were measured, each once, in the order of the columns."""
    return list(dict.fromkeys(cell.protocol for column in table for cell in column.cells if cell.protocol))


def notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers must know; of several runs alike it is said once."""
    said: dict[str, list[str]] = {}
    for row in (*record["runs"], record["reference"]):
        for note in row["notes"]:
            said.setdefault(note, []).append(row["name"])
    return [f"{', '.join(names)}: {note}" for note, names in said.items()]


def headline(record: Mapping[str, Any]) -> str:
    """What was compared."""
    binarized = "" if record["binarize"] == "none" else f", binarized: {record['binarize']}"
    return f"{len(record['runs'])} models of {record['data']}{binarized}, on its {record['split']} split"


def circumstances(record: Mapping[str, Any]) -> str:
    """Seed, machine and date."""
    machine = record["machine"]
    where = f"{machine['platform']}, CPUs: {machine['cpus']}, threads: {machine['threads']}, on {machine['device']}"
    return f"seed {record['seed']}; {where}; torch {machine['torch']}, probgen {record['version']}; {record['date']}"


def comparison_of_runs(record: Mapping[str, Any]) -> str:
    """The table in blocks, one for each group of columns, with a row for each run; below it what the numbers are."""
    table = columns(record)
    told, names = protocols(table), [*(run["name"] for run in record["runs"]), record["reference"]["name"]]
    lines = [headline(record)]
    for group in (LIKELIHOOD, SAMPLES, CODE, COST):
        chosen = [column for column in table if column.group == group]
        lines += ["", *block(group, names, chosen, told)] if chosen else []
    lines += ["", BEST, *(["", *notes(record)] if notes(record) else []), ""]
    lines += [f"({number}) {protocol}" for number, protocol in enumerate(told, 1)]
    return "\n".join([*lines, "", circumstances(record)])


def block(group: str, names: Sequence[str], chosen: Sequence[Column], told: Sequence[str]) -> list[str]:
    """Rows of fixed width, under the group's name."""
    parts = [padded([group, *names], right=False)]
    for column in chosen:
        cells = [cell.text + mark(cell, told) for cell in column.cells]
        parts.append(padded([column.title, *cells], right=column.numbers))
    return ["  ".join(row).rstrip() for row in zip(*parts, strict=True)]


def mark(cell: Cell, told: Sequence[str]) -> str:
    """`* (3)`: the best, and the number of the protocol."""
    where = f" ({told.index(cell.protocol) + 1})" if cell.protocol else ""
    return ("*" if cell.best else "") + where


def padded(words: Sequence[str], *, right: bool) -> list[str]:
    """Words of one width in a terminal."""
    width = max(map(cell_len, words))
    return [" " * (width - cell_len(w)) + w if right else w + " " * (width - cell_len(w)) for w in words]


def print_comparison_of_runs(record: Mapping[str, Any]) -> None:
    """The table on stdout."""
    stdout_console().print(comparison_of_runs(record), markup=False, soft_wrap=True)
