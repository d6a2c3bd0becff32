"""`commands.md`: the command reference, written by Typer from the commands themselves at every build."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = """# Command reference

What `probgen --help` and `probgen COMMAND --help` say. Results go to stdout (`--json`: as one JSON object), messages to
stderr; wrong input ends with exit code 2 and one line.

"""
BOLD = re.compile(r'<span style="font-weight: bold">(.*?)</span>|\[bold\](.*?)\[/bold\]', re.DOTALL)
COMMANDS = re.compile(r"\*\*Commands\*\*:\n\n.*?\n\n", re.DOTALL)  # Typer cuts their lines short


def as_code(text: str) -> str:
    """What the terminal shows bold is a command."""
    return BOLD.sub(lambda found: f"`{found[1] or found[2]}`", text)


def contents() -> str:
    """The commands, each with the first line of its help."""
    from probgen.cli import app

    lines = []
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        said = (command.callback.__doc__ or "").strip().splitlines()[0]
        lines.append(f"* [`{name}`](#probgen-{name}): {as_code(said)}\n")
    return "**Commands**:\n\n" + "".join(lines) + "\n"


def reference() -> str:
    """The page."""
    command = [sys.executable, "-m", "typer", "probgen.cli", "utils", "docs", "--name", "probgen"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = as_code(text).replace("# `probgen`\n\n", HEAD, 1)
    return COMMANDS.sub(lambda _: contents(), text, count=1)


def write(app: Any) -> None:
    """Write the page if it has changed."""
    path, text = Path(app.srcdir) / "commands.md", reference()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
