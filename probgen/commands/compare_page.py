"""The files of a comparison: numbers, text, pictures and one page that shows them all, without any script."""

import base64
import html
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from probgen.errors import UserError
from probgen.files import current_umask, make_directory, write_atomic
from probgen.tables_compare import (
    BEST,
    NUMBERS,
    Cell,
    Column,
    circumstances,
    columns,
    comparison_of_runs,
    headline,
    notes,
    protocols,
)

LONGEST = 40  # letters of a run's name in a file's name

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #5c5f66; --paper: #fff; --line: #d9dce1; --band: #f3f4f6;
  --best: #0a5c36; --link: #1a56b0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ea; --soft: #a3a7b0; --paper: #17181b; --line: #383b42;
  --band: #212327; --best: #6fd39f; --link: #8ab4f8 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.25rem; max-width: 90rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, li { max-width: 75ch }
a { color: var(--link); text-decoration: none }
.soft { color: var(--soft); font-size: .875rem }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; vertical-align: bottom; background: var(--band) }
tr.groups > * { background: var(--band) }
tr.groups th { text-align: left; color: var(--soft); font-weight: 400 }
.first { border-left: 1px solid var(--line) }
th[scope=row] { position: sticky; left: 0; text-align: left; vertical-align: middle;
  border-right: 1px solid var(--line) }
th[scope=row] span { display: block; width: max-content; max-width: 11rem; white-space: normal;
  overflow-wrap: anywhere }
.words { text-align: left }
td.words { white-space: normal; min-width: 8rem }
tr.reference td { background: var(--band); font-style: italic }
tbody tr:last-child > * { border-bottom: 0 }
strong { color: var(--best) }
sup { font-size: .7em; line-height: 0 }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 16rem)) }
figure { margin: 0; min-width: 0 }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; background: #fff }
figcaption { margin-top: .25rem; font-size: .875rem }
.none { display: grid; place-items: center; aspect-ratio: 1; padding: 1rem; border: 1px dashed var(--line);
  border-radius: 4px; color: var(--soft); font-size: .875rem; text-align: center }
@media (max-width: 30rem) { body { padding: .75rem } .pictures { gap: .6rem; grid-template-columns: 1fr 1fr }
  th[scope=row] span { max-width: 6.5rem } }
"""


def page(record: Mapping[str, Any], pictures: Sequence[bytes | None]) -> str:
    """The whole comparison as HTML that needs nothing beside it."""
    table = columns(record)
    told = protocols(table)
    rows = [*record["runs"], record["reference"]]
    figures = "\n".join(figure(row, picture) for row, picture in zip(rows, pictures, strict=True))
    remarks = "\n".join(f"<li>{text(note)}</li>" for note in notes(record))
    measured = "\n".join(f'<li id="p{number}">{text(how)}</li>' for number, how in enumerate(told, 1))
    title = text(headline(record))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="soft">{text(circumstances(record))}</p>
<div class="scroll" tabindex="0" role="region" aria-label="the numbers">
{as_table(table, [row["name"] for row in rows], told)}
</div>
<p class="soft">{text(BEST.replace("*:", "Coloured and with *:", 1))} The last row holds real data to the same
measures: what a perfect model would be told.</p>
<h2>Samples</h2>
<div class="pictures">
{figures}
</div>
<h2>What to know</h2>
<ul>
{remarks}
</ul>
<h2>How each number was measured</h2>
<ol>
{measured}
</ol>
</body>
</html>
"""


def text(words: str) -> str:
    """Words that are no HTML."""
    return html.escape(words, quote=True)


def as_table(table: Sequence[Column], names: Sequence[str], told: Sequence[str]) -> str:
    """A row for each run, the last of the real data; columns under the name of their group."""
    groups = [(group, len(list(members))) for group, members in groupby(column.group for column in table)]
    above = "".join(f'<th scope="colgroup" colspan="{size}" class="first">{text(g)}</th>' for g, size in groups)
    starts = {sum(size for _, size in groups[:place]) for place in range(len(groups))}
    heads = "".join(f'<th scope="col"{css(c, n in starts)}>{text(c.title)}</th>' for n, c in enumerate(table))
    lines = [f'<tr class="groups"><td></td>{above}</tr>', f'<tr><th scope="col" class="words">run</th>{heads}</tr>']
    body = []
    for place, name in enumerate(names):
        cells = "".join(cell_html(c, c.cells[place], n in starts, told) for n, c in enumerate(table))
        reference = ' class="reference"' if place == len(names) - 1 else ""
        body.append(f'<tr{reference}><th scope="row"><span>{text(name)}</span></th>{cells}</tr>')
    return "\n".join(["<table>", "<thead>", *lines, "</thead>", "<tbody>", *body, "</tbody>", "</table>"])


def css(column: Column, first: bool) -> str:
    """The attribute that says how a cell is set."""
    names = [*([] if column.numbers else ["words"]), *(["first"] if first else [])]
    return f' class="{" ".join(names)}"' if names else ""


def cell_html(column: Column, cell: Cell, first: bool, told: Sequence[str]) -> str:
    """A number, and a link to how it was measured."""
    shown = f"<strong>{text(cell.text)}*</strong>" if cell.best else text(cell.text)
    number = told.index(cell.protocol) + 1 if cell.protocol else 0
    link = f' <sup><a href="#p{number}">{number}</a></sup>' if number else ""
    return f"<td{css(column, first)}>{shown}{link}</td>"


def figure(row: Mapping[str, Any], picture: bytes | None) -> str:
    """Samples of a run under its name; or the word that there are none."""
    name = text(row["name"])
    if picture is None:
        return f'<figure><div class="none">draws no samples</div><figcaption>{name}</figcaption></figure>'
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return f'<figure><img alt="samples: {name}" src="{source}"><figcaption>{name}</figcaption></figure>'


# --- names and files


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The runs by their directories' names, with as much of the way there as it takes to tell them apart."""
    parts, depth = [path.resolve().parts for path in paths], 1
    while len({name[-depth:] for name in parts}) < len(parts):
        depth += 1
    names = ["/".join(name[-depth:]) for name in parts]
    return ["".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in n) for n in names]


def picture_names(names: Sequence[str]) -> list[str]:
    """`samples-NAME.png` for each, of letters that any file system takes, no two alike."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.-]", "_", name.replace(" ", "-"))[:LONGEST]
        number, file = 1, f"samples-{stem}.png"
        while file.lower() in map(str.lower, found):
            number += 1
            file = f"samples-{stem}-{number}.png"
        found.append(file)
    return found


def check_place(out: Path) -> None:
    """Raise UserError for a place that cannot be written, or holds something that is no comparison."""
    if out.is_dir() and any(out.iterdir()) and not (out / NUMBERS).is_file():
        raise UserError(f"{out} exists and is no comparison: choose another --out")
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise UserError(f"{out} is a file, expected a directory to make: choose another --out")
    above = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {out}: {above} is {'read-only' if above.is_dir() else 'a file'}")


def publish(out: Path, record: dict[str, Any], pictures: Sequence[bytes | None]) -> None:
    """Write all files of a comparison, or none; those of a former one are replaced. Adds `picture` to each row.

    A new directory comes into being at once, with everything in it.
    """
    rows = [*record["runs"], record["reference"]]
    files: dict[str, bytes] = {}
    for row, name, picture in zip(rows, picture_names([row["name"] for row in rows]), pictures, strict=True):
        row["picture"] = None if picture is None else name
        files |= {} if picture is None else {name: picture}
    files["table.txt"] = (comparison_of_runs(record) + "\n").encode()
    files["index.html"] = page(record, pictures).encode()
    files[NUMBERS] = (json.dumps(finite(record), indent=2, ensure_ascii=False) + "\n").encode()
    new = not out.exists()
    home = out.absolute().parent if new else out
    make_directory(home)
    stage = None
    try:
        stage = Path(tempfile.mkdtemp(prefix=".comparison-", suffix=".tmp", dir=home))
        for name, data in files.items():
            write_atomic(stage / name, data)
        stage.chmod(0o777 & ~current_umask())
        stage.rename(out) if new else move(stage, out, list(files))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def move(stage: Path, out: Path, names: Sequence[str]) -> None:
    """The new files over the old ones, pictures of a former comparison away; whatever else lies there stays."""
    for old in former_pictures(out / NUMBERS):
        if old not in names:
            (out / old).unlink(missing_ok=True)
    for name in names:
        (stage / name).replace(out / name)


def former_pictures(file: Path) -> list[str]:
    """The pictures of the comparison that lies there; none of a file that is not ours."""
    try:
        record = json.loads(file.read_bytes())
        found = [row["picture"] for row in [*record["runs"], record["reference"]]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str) and re.fullmatch(r"samples-[\w.-]+\.png", name)]


def finite(value: Any) -> Any:
    """With null for nan and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
