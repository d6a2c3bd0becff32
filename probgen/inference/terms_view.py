"""How the ELBO's terms read: the pair's equation, the three terms over their numbers, one row for each site."""

import html
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDEST = 79  # a formula that is wider is set over several lines
LARGEST = 8  # latent dimensions that are named, by their KL

HOW = {"closed-form": "closed form", "sampled": "sampled", "enumerated": "summed over its values"}
GRADIENTS = {
    "reparameterized": "",
    "score-function": "not reparameterized: in training it gets the score-function gradient, unbiased but noisy",
    "exact": "",
}


class Row(NamedTuple):
    """One line of the table: the term, its number, how it was found."""

    term: str
    value: str
    how: str


def with_error(value: float, stderr: float | None) -> str:
    """`−88.71 ± 0.24`; a number without a known error stands alone."""
    return f"{value:.2f}".replace("-", "−") + ("" if stderr is None else f" ± {stderr:.2f}")


def summed_out(term: Mapping[str, Any]) -> str:
    """`, c summed out` of a term that is a sum over c."""
    return f", {', '.join(term['summed_out'])} summed out" if term["summed_out"] else ""


def factor(record: Mapping[str, Any], letter: str, name: str) -> str:
    """`p(x | z)` as the pair's equation has it; `p(x | …)` where the term is no single factor of it."""
    term = record["kl"].get(name) or record["log_likelihood"][name]
    split = letter == "p" and term["summed_out"]
    return f"{letter}({name} | …)" if split else record["formulas"][letter].get(name, f"{letter}({name} | …)")


def rows(record: Mapping[str, Any]) -> list[Row]:
    """The table under the equation, from `ElboTerms.to_json()`."""
    sites = [name for name in record["kl"] if name != "total"]
    drawn = any(record["kl"][name]["method"] != "enumerated" for name in sites)
    kind = f"sampled, {record['particles']} particle{'s' * (record['particles'] != 1)}" if drawn else "exact"
    p, q = (lambda name, letter=letter: factor(record, letter, name) for letter in "pq")
    found = []
    for name, term in record["log_likelihood"].items():
        if name != "total":
            what = f"E_q[log {p(name)}]" if sites else f"log p({name})"
            found.append(Row(what + summed_out(term), with_error(term["value"], term["stderr"]), kind))
    for name in sites:
        term = record["kl"][name]
        found.append(Row(f"− KL({name})", with_error(-term["value"], term["stderr"]), HOW[term["method"]]))
        how = HOW["enumerated"] if term["method"] == "enumerated" else "sampled"
        found.append(Row(f"    E_q[log {p(name)}]{summed_out(term)}", with_error(**term["log_prior"]), how))
        found.append(Row(f"    E_q[log {q(name)}]", with_error(**term["log_guide"]), how))
    if not sites and len(found) == 1:
        return found
    return [*found, Row("ELBO" if sites else "log p(x)", with_error(**record["elbo"]), record["kind"])]


def remarks(record: Mapping[str, Any]) -> list[str]:
    """What stands under the table: KL by dimension, active units, sites with a noisy gradient."""
    lines = []
    for name, term in record["kl"].items():
        if name == "total":
            continue
        if term["per_dim"] is not None:
            ranked = sorted(enumerate(term["per_dim"]), key=lambda pair: -pair[1])
            shown = ", ".join(f"{name}[{dim}] {kl:.2f}" for dim, kl in ranked[:LARGEST])
            lines.append(f"KL by dimension: {shown}{', …' if len(ranked) > LARGEST else ''}")
        if word := GRADIENTS[term["gradient"]]:
            lines.append(f"{name}: {word}")
    if record["active_units"] is not None:
        lines.append(f"active units: {record['active_units']}")
    return lines


def three_terms(record: Mapping[str, Any]) -> list[str]:
    """log p(x) = … − … + …, each term over its number; nothing where the ELBO is log p(x) itself."""
    if len(record["kl"]) == 1:
        return []
    unknown = "unknown, ≥ 0"
    numbers = [with_error(**record[key]["total"]) for key in ("log_likelihood", "kl")]
    general = ["E_q[log p(x | z)]", "KL(q(z | x) ‖ p(z))", "KL(q(z | x) ‖ p(z | x))"]
    terms = record["formulas"]["terms"] or general
    widths = [max(len(a), len(b)) for a, b in zip(terms, [*numbers, unknown], strict=True)]
    cells = [t.center(w) for t, w in zip(terms, widths, strict=True)]
    values = [t.center(w) for t, w in zip([*numbers, unknown], widths, strict=True)]
    left = record["equation"][-1].split(" = ")[0] if record["formulas"]["terms"] else "log p(x)"
    space = " " * len(left)
    bound = f"{space} ≥ {with_error(**record['elbo'])}   the ELBO, a {record['kind']}"
    across = f"{left} = {cells[0]} − {cells[1]} + {cells[2]}"
    if len(across) <= WIDEST:
        return [across, f"{space}   {values[0]} − {values[1]} + {values[2]}", bound]
    longest = max(map(len, terms))
    signs = (f"{left} =  ", f"{space}   −", f"{space}   +")
    stacked = zip(signs, terms, [*numbers, unknown], strict=True)
    return [*(f"{sign} {term.ljust(longest)}   {number}" for sign, term, number in stacked), bound]


def as_rich(record: Mapping[str, Any]) -> RenderableType:
    """For a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, side in (("term", "left"), (f"nats per {record.get('each', 'image')}", "right"), ("how", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for row in rows(record):
        table.add_row(*map(Text, row), style="bold" if row.term in ("ELBO", "log p(x)") else None)
    known = bool(record["formulas"]["terms"])
    terms = three_terms(record)
    head = [*record["equation"][: -1 if known else None], *([""] if terms and not known else []), *terms]
    foot = ["", *remarks(record)] if remarks(record) else []
    return Group(*(Text(line) for line in [*head, ""]), table, *(Text(line) for line in foot))


def as_text(record: Mapping[str, Any]) -> str:
    """The same without colours, for `print`."""
    console = Console(file=io.StringIO(), width=160, color_system=None)
    with console.capture() as capture:
        console.print(as_rich(record))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def as_html(record: Mapping[str, Any], latex: str | None) -> str:
    """For a notebook, which sets the LaTeX."""
    head = f"$${latex}$$" if latex else f"<pre>{html.escape(chr(10).join(record['equation']))}</pre>"
    cells = "".join(
        f"<tr><td style='text-align:left; white-space:pre'>{html.escape(row.term)}</td>"
        f"<td style='text-align:right'>{html.escape(row.value)}</td>"
        f"<td style='text-align:left'>{html.escape(row.how)}</td></tr>"
        for row in rows(record)
    )
    header = "<tr><th style='text-align:left'>term</th><th>nats per image</th><th style='text-align:left'>how</th></tr>"
    foot = "".join(f"<div>{html.escape(line)}</div>" for line in remarks(record))
    return f"<div>{head}<table><thead>{header}</thead><tbody>{cells}</tbody></table>{foot}</div>"
