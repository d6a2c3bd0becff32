"""`api/`: one page for each module of probgen, written at every build; its text is the docstrings."""

import pkgutil
from pathlib import Path
from typing import Any

import probgen

PAGE = """{title}
{line}

``{name}``

.. automodule:: {name}
   :members:
   :show-inheritance:
"""
CONTENTS = """
.. toctree::
   :maxdepth: 1

"""
HIDDEN = {"__main__"}


def children(path: Any, name: str) -> list[tuple[str, list[str] | None]]:
    """The modules directly below a package: their names, and for packages their path."""
    found = []
    for module in pkgutil.iter_modules(path):
        if module.name not in HIDDEN:
            below = [str(Path(path[0]) / module.name)] if module.ispkg else None
            found.append((f"{name}.{module.name}", below))
    return found


def pages(path: Any, name: str) -> dict[str, str]:
    """The text of the page of a package, and of every module below it, by module name."""
    below = children(path, name)
    written = {name: page(name) + CONTENTS + "".join(f"   {child}\n" for child, _ in below)}
    for child, inner in below:
        written |= {child: page(child)} if inner is None else pages(inner, child)
    return written


def page(name: str) -> str:
    """The page of one module without what is below it."""
    title = name.rpartition(".")[2] if "." in name else "API reference"
    title = title.replace("_", r"\_")
    return PAGE.format(title=title, line="=" * len(title), name=name)


def write(app: Any) -> None:
    """Write pages that have changed, remove those of modules that are gone."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    wanted = {f"{name}.rst": text for name, text in pages(probgen.__path__, "probgen").items()}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def without_sourceless(app: Any, env: Any) -> None:
    """Sphinx's list of sources also names modules that it found no source of, as `builtins`: links to nothing."""
    sources = getattr(env, "_viewcode_modules", {})
    for name in [name for name, entry in sources.items() if not entry]:
        del sources[name]


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("builder-inited", write)
    app.connect("env-check-consistency", without_sourceless)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
