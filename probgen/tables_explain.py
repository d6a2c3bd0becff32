"""Derivations for people: each line's formula over its number, the reason for the step and who computed it beside."""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from probgen.console import stdout_console
from probgen.tables_samples import measured

INDENT = 2  # before a relation; its number stands four further in
RIGHT = 34  # columns that reasons have at least
WIDEST = 120  # of prose
HARD = "\N{NO-BREAK SPACE}"


def print_derivation(result: Mapping[str, Any]) -> None:
    """The opening, the chains, and whether all equals signs hold."""
    console = stdout_console()
    print_prose(console, result["opening"])
    for chain in result["chains"]:
        console.print()
        print_chain(console, chain)
    console.print()
    if result["closing"]:
        print_prose(console, result["closing"])
        console.print()
    print_prose(console, result["verdict"] + ".", style="bold" if result["holds"] else "bold red")


def print_prose(console: Console, text: str, style: str = "") -> None:
    """Sentences, folded where a line would be too long to read."""
    for line in textwrap.wrap(text, min(console.width, WIDEST), break_long_words=False, break_on_hyphens=False):
        console.print(Text(line, style))


def print_chain(console: Console, chain: Mapping[str, Any]) -> None:
    """A title, then two or three rows for each line: what is written, its number and how far it is from the last."""
    print_prose(console, chain["title"], style="bold")
    width = console.width
    lefts = [(*formula(line, width), number(line, chain["unit"])) for line in chain["lines"]]
    column = min(max(len(text) for left in lefts for text in left) + 3, width - RIGHT)
    for left, line in zip(lefts, chain["lines"], strict=True):
        for row in rows(left, reasons(line), column, width):
            console.print(row, soft_wrap=True)
    if chain["remark"]:
        print_prose(console, chain["remark"])


def formula(line: Mapping[str, Any], width: int) -> list[Text]:
    """`  = E_q[log p(x)]`; one that is too wide goes on below, from an operator."""
    held = f"{line['relation'] or ' '} {line['formula']}".replace(" ", HARD)
    foldable = re.sub(f"{HARD}(?=[=+−]{HARD})", " ", held[2:])
    folded = textwrap.wrap(foldable, width - INDENT - 4, break_long_words=False, break_on_hyphens=False)
    heads = [held[:2], *["    "] * (len(folded) - 1)]
    return [Text((" " * INDENT + head + part).replace(HARD, " ")) for head, part in zip(heads, folded, strict=True)]


def number(line: Mapping[str, Any], unit: str) -> Text:
    """`−2.57285500 nats   difference 4.4e-16`."""
    told = Text(" " * (INDENT + 4))
    told.append(in_figures(line["value"], line["stderr"], unit), "cyan")
    if line["holds"] is False:
        return told.append(f"   DOES NOT HOLD: {apart(line)}", "bold red")
    return told.append(f"   {apart(line)}" if line["holds"] else "", "dim")


def in_figures(value: float | None, stderr: float | None, unit: str) -> str:
    """Eight places of an exact number, two digits of the error of a sampled one."""
    if value is None:
        return "no number"
    if stderr:
        text = measured(value, stderr)
    else:
        text = f"{value:.8f}" if abs(value) >= 1e-4 else f"{value:.2e}" if value else "0"
    return f"{text} {unit}".replace("-", "−").rstrip()


def apart(line: Mapping[str, Any]) -> str:
    """How far from the line before."""
    difference, errors = line["difference"], line["standard_errors"]
    if difference is None or not math.isfinite(difference):
        return "no number"
    if line["relation"] == "=":
        return (
            f"difference {abs(difference):.1e}"
            if errors is None and difference
            else ("difference 0" if errors is None else f"{errors:.1f} standard errors apart")
        )
    more = "more" if difference > 0 else "less"
    return f"{abs(difference):.4g} {more}" if abs(difference) > 1e-12 else "the same"


def reasons(line: Mapping[str, Any]) -> list[Text]:
    """Why, and by which function."""
    found = [Text(line["reason"])] if line["reason"] else []
    return found + ([Text(line["by"], "dim")] if line["by"] else [])


def rows(left: Sequence[Text], right: Sequence[Text], column: int, width: int) -> Iterator[Text]:
    """Two columns; what is too long for its place beside the other stands on a row of its own."""
    waiting = list(right)
    for text in left:
        if waiting and len(text) <= column - 2 and column + len(waiting[0]) <= width:
            text = text.copy()
            text.pad_right(column - len(text))
            text.append_text(waiting.pop(0))
        yield text
    for text in waiting:
        yield Text(" " * max(0, min(column, width - len(text)))).append_text(text)


def print_topics(topics: Sequence[Mapping[str, str]]) -> None:
    """What can be explained, one line each."""
    console = stdout_console()
    longest = max(len(row["topic"]) for row in topics)
    for row in topics:
        folded = textwrap.wrap(row["summary"], min(console.width, WIDEST) - longest - 2)
        for place, line in enumerate(folded):
            name = row["topic"] if place == 0 else ""
            console.print(Text.assemble((name.ljust(longest + 2), "bold"), line))
    console.print(
        "\nprobgen explain TOPIC, on a small exact model; probgen explain TOPIC --run RUN, on a run", markup=False
    )
