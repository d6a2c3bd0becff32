"""The documentation against the code: its equations, its commands, its links, what is packed."""

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from probgen.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CHAPTERS = sorted(DOCS.glob("[0-9]-*.md"))
TABLE = DOCS / "equations.md"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table():
    return load(DOCS / "_ext" / "equations.py")


@pytest.fixture(scope="module")
def site():
    return load(DOCS / "check_site.py")


# --- equations: each has a function and a test


def find(name: str):
    """The object of a full dotted name; raises AttributeError or ImportError if it is gone."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


def has_test(address: str) -> bool:
    """Whether `tests/test_file.py::test_name` or `tests/test_file.py::TestClass::test_name` exists."""
    path, *names = address.split("::")
    if not (ROOT / path).is_file() or not names or not names[-1].startswith("test_"):
        return False
    below = ast.parse((ROOT / path).read_text()).body
    for name in names:
        match = [n for n in below if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
        if not match:
            return False
        below = match[0].body
    return True


def complaints(table, text: str, labels: list[str]) -> list[str]:
    """What is wrong between a table of equations and the labels of the chapters."""
    rows = table.read_rows(text)
    found = [f"{label}: in no row" for label in labels if label not in rows]
    found += [f"{label}: in no chapter" for label in rows if label not in labels]
    found += [f"{label}: comes twice" for label in sorted({x for x in labels if labels.count(x) > 1})]
    for row in rows.values():
        try:
            if not (callable(code := find(row.code)) or isinstance(code, property)):
                found.append(f"{row.label}: {row.code} computes nothing")
        except (ImportError, AttributeError):
            found.append(f"{row.label}: no {row.code}")
        if not has_test(row.test):
            found.append(f"{row.label}: no test {row.test}")
    return found


def test_every_equation_has_a_function_and_a_test(table):
    labels = [label for chapter in CHAPTERS for label in table.read_labels(chapter.read_text())]
    assert len(CHAPTERS) == 5
    assert len(labels) >= 40
    assert complaints(table, TABLE.read_text(), labels) == []


GOOD = (
    "| {eq}`a` | says | {py:obj}`probgen.inference.elbo.elbo_terms` | `tests/test_documentation.py::test_broken_rows` |"
)


@pytest.mark.parametrize(
    ("row", "labels", "complaint"),
    [
        (GOOD, ["a", "b"], "b: in no row"),
        (GOOD, [], "a: in no chapter"),
        (GOOD, ["a", "a"], "a: comes twice"),
        (GOOD.replace("elbo_terms", "elbo_term"), ["a"], "a: no probgen.inference.elbo.elbo_term"),
        (GOOD.replace("elbo.elbo", "elb.elbo"), ["a"], "a: no probgen.inference.elb.elbo_terms"),
        (GOOD.replace("probgen.inference.elbo.elbo_terms", "probgen.version.__version__"), ["a"], "computes nothing"),
        (GOOD.replace("test_broken_rows", "test_gone"), ["a"], "no test tests/test_documentation.py::test_gone"),
        (GOOD.replace("test_documentation", "test_gone"), ["a"], "no test tests/test_gone.py"),
    ],
)
def test_broken_rows(table, row, labels, complaint):
    assert complaints(table, GOOD, ["a"]) == []
    (said,) = complaints(table, row, labels)
    assert complaint in said


def test_a_row_of_another_form_is_refused(table):
    with pytest.raises(ValueError, match="not a row"):
        table.read_rows("| {eq}`a` | says | elbo_terms | `tests/test_elbo.py::test_x` |")
    with pytest.raises(ValueError, match="comes twice"):
        table.read_rows(f"{GOOD}\n{GOOD}")


# --- commands: each line of each page is one that the command line takes


def command_lines(text: str) -> list[str]:
    """The `probgen …` lines of a page's shell blocks, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [line.removeprefix("$ ") for line in lines]
    return [line for line in lines if line.startswith("probgen ") and "…" not in line]


def parse(line: str) -> None:
    """Parse a line without running it; raises the usage error of an unknown command, option or value."""
    line = re.sub(r"\$\{?\w+\}?", "1", line)  # variables of a loop
    _, name, *arguments = shlex.split(line, comments=True)
    group = typer.main.get_command(app)
    command = group.get_command(None, name)
    if command is None:
        raise LookupError(f"no command {name}")
    command.make_context(name, arguments)


WRITTEN = [page for page in sorted(DOCS.glob("*.md")) if page.name != "commands.md"]  # which the build writes
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *WRITTEN]
LINES = [(page.name, line) for page in PAGES for line in command_lines(page.read_text())]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_commands_of_the_pages_are_understood(page, line):
    parse(line)


def test_wrong_commands_are_not_understood():
    assert len(LINES) > 40
    parse("probgen train vae --epochs 3")
    with pytest.raises(LookupError, match="trai"):
        parse("probgen trai vae")
    usage_error = typer.BadParameter.__base__
    for wrong in ("probgen train vae --no-such 3", "probgen train vae --epochs many", "probgen sample"):
        with pytest.raises(usage_error):
            parse(wrong)


# --- the site's links


def test_broken_links_and_foreign_files_are_found(site, tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top-of-a">A</h1><a href="b.html#here">b</a><script src="s.js"></script>')
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="https://pyro.ai">Pyro</a>')
    (tmp_path / "s.js").touch()
    assert site.faults(tmp_path) == []
    (tmp_path / "b.html").write_text('<a href="c.html">c</a><img src="https://example.com/x.png">')
    said = site.faults(tmp_path)
    assert "a.html: b.html#here has no such place" in said
    assert "b.html: c.html leads nowhere" in said
    assert "b.html loads https://example.com/x.png" in said
    assert len(said) == 3
    (tmp_path / "b.html").write_text(
        "<style>@import 'https://example.com/a.css'</style><img srcset='//e.org/x.png 2x'>"
    )
    (tmp_path / "s.css").write_text(
        '@font-face { src: url("https://example.com/f.woff") } b { background: url(s.png) }'
    )
    assert site.faults(tmp_path) == [
        "s.css loads https://example.com/f.woff",
        "a.html: b.html#here has no such place",
        "b.html loads https://example.com/a.css",
        "b.html loads //e.org/x.png",
    ]
    assert site.faults(tmp_path / "nothing") != []


# --- what a wheel carries


def test_every_file_of_the_package_is_packed():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["probgen"]
    package = ROOT / "probgen"
    others = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert package / "py.typed" in others
    assert others == {path for glob in globs for path in package.glob(glob)}
