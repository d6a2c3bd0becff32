"""Below each labelled equation: the function that computes it and the test that holds it, from `equations.md`.

A row of that table reads

    | {eq}`label` | what it says | {py:obj}`module.function` | `tests/test_file.py::test_name` |
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROW = re.compile(r"\| \{eq\}`(?P<label>[^`]+)` \| (?P<says>.+) \| \{py:obj\}`(?P<code>[^`]+)` \| `(?P<test>[^`]+)` \|")
LABELLED = re.compile(r"^\$\$ \((?P<label>[^)]+)\)\s*$", re.MULTILINE)
TABLE = Path(__file__).parents[1] / "equations.md"


@dataclass(frozen=True)
class Row:
    """An equation of the table: its label, the function that computes it, the test that holds it."""

    label: str
    code: str
    test: str


def read_rows(text: str) -> dict[str, Row]:
    """The rows of the table by label; raises ValueError for a row of another form, or a label that comes twice."""
    rows: dict[str, Row] = {}
    for line in text.splitlines():
        if not line.startswith("| {eq}"):
            continue
        match = ROW.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"not a row of the table of equations: {line}")
        row = Row(match["label"], match["code"], match["test"])
        if row.label in rows:
            raise ValueError(f"the equation {row.label} comes twice")
        rows[row.label] = row
    return rows


def read_labels(text: str) -> list[str]:
    """The labels of a chapter's equations, in order."""
    return LABELLED.findall(text)


def annotate(app: Any, doctree: Any) -> None:
    """Put the line below each labelled equation of a page."""
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.errors import ExtensionError

    rows = read_rows(TABLE.read_text(encoding="utf-8"))
    for block in list(doctree.findall(nodes.math_block)):
        label = block.get("label")
        if not label:
            continue
        if label not in rows:
            raise ExtensionError(f"{app.env.docname}: the equation {label} is not in equations.md")
        row = rows[label]
        link = pending_xref(
            "", nodes.literal("", row.code), refdomain="py", reftype="obj", reftarget=row.code, refwarn=True
        )
        line = nodes.paragraph("", "", link, nodes.Text(" · held by "), nodes.literal("", row.test))
        line["classes"].append("in-code")
        block.parent.insert(block.parent.index(block) + 1, line)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("doctree-read", annotate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
