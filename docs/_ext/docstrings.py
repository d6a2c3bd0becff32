"""Our docstrings are plain text, made to be read in the source: this writes them as reStructuredText.

Blocks with indented lines (equations, commands) stay as they stand, `names` become code, `name: what it is` becomes an
item, and signs that mean something to reStructuredText (|, *, _) mean themselves.
"""

import re
from contextlib import suppress
from textwrap import dedent, indent
from typing import Any, get_type_hints

CODE = re.compile(r"`+([^`]+)`+")
ITEM = re.compile(r"^(?:\d+\.|-|\*{0,2}\w+(?:, \*{0,2}\w+)*:) ")  # "1. first", "- one", "x, y: what they are"
SECTIONS = ("Args:", "Raises:", "Returns:")


def inline(text: str) -> str:
    """Running text: code in double backticks, everything else literally."""
    parts = CODE.split(text)
    plain = [re.sub(r"([\\*|_<>])", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part.strip()}``" for part in parts[1::2]]
    glued = ["\\ " if part[:1].isalnum() else "" for part in plain[1:]]  # `name`s: code must end at a blank
    return plain[0] + "".join(a + b + c for a, b, c in zip(code, glued, plain[1:], strict=True))


def is_indented(line: str) -> bool:
    """Whether it starts with a blank."""
    return line.startswith((" ", "\t"))


def items(lines: list[str]) -> list[str]:
    """`name: what it is`, and their continuations, as a list."""
    out: list[str] = []
    for line in lines:
        match = ITEM.match(line)
        if match and match[0].endswith(": "):
            out.append(f"- ``{match[0][:-2]}``: {inline(line[match.end() :])}")
        elif match:
            out.append("- " + inline(line[match.end() :]))
        elif is_indented(line):
            out.append("  " + inline(line.strip()))
        else:
            out += ["", inline(line)]
    return out


def block(text: str) -> str:
    """One block between empty lines."""
    lines = text.splitlines()
    if lines[0].startswith(">>>"):
        return text
    if lines[0] in SECTIONS:
        return f"**{lines[0]}**\n\n" + "\n".join(items(dedent("\n".join(lines[1:])).splitlines()))
    if ITEM.match(lines[0]):
        return "\n".join(items(lines))
    first = next((i for i, line in enumerate(lines) if is_indented(line)), None)
    if first is None:
        return "\n".join(map(inline, lines))
    if not lines[0].endswith(":"):
        first = 0  # an equation and what stands under it
    said = "\n".join(map(inline, lines[:first]))
    shown = indent(dedent("\n".join(lines[first:])), "    ")
    return f"{said}\n\n::\n\n{shown}" if said else f"::\n\n{shown}"


def rewrite(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    return [*"\n\n".join(block(text) for text in blocks if text.strip()).splitlines(), ""]


def names_of(package: str, module: Any) -> list[str]:
    """What a package hands out, each name with a link to where it is defined."""
    members = {public: getattr(module, public) for public in module.__all__}
    links = [
        f":py:obj:`{public} <{member.__module__}.{public}>`"
        for public, member in members.items()
        if getattr(member, "__module__", "").startswith("probgen") and hasattr(member, "__name__")
    ]
    return ["", f"``from {package} import …``: {', '.join(links)}", ""]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Sphinx's autodoc-process-docstring."""
    lines[:] = rewrite(lines)
    if what == "module" and hasattr(obj, "__all__"):
        lines += names_of(name, obj)


def plain_types(app: Any, obj: Any, bound_method: bool) -> None:
    """A signature tells the type, `int`, without the bounds that go with it, `Annotated[int, Field(ge=1)]`."""
    function = getattr(obj, "__func__", obj)
    # A name that is imported for type checkers only cannot be looked up: such a signature stays as it is written.
    with suppress(NameError):
        if getattr(function, "__annotations__", None):
            function.__annotations__ = get_type_hints(function)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-before-process-signature", plain_types)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
