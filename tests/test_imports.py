"""Who may import whom: read from the source, and from what one command loads."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import probgen

ROOT = Path(probgen.__file__).parent
ABOVE = ("commands", "cli", "runs", "plots", "data", "explanations")


def imports_of(source: str, module: str) -> set[str]:
    """All that a source imports of probgen, as full dotted names; `from a import b` counts as `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return {name for name in found if inside(name, "probgen")}


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def only(*allowed: str) -> Callable[[str], bool]:
    return lambda name: inside(name, *(f"probgen.{a}" for a in allowed))


def anything_but(*refused: str) -> Callable[[str], bool]:
    return lambda name: not inside(name, *(f"probgen.{r}" for r in refused))


def inference_may(name: str) -> bool:
    """Its one picture: the terms draw themselves."""
    allowed = inside(name, "probgen.models.contracts", "probgen.plots.terms.terms_figure")
    return allowed or anything_but("models", "measures", *ABOVE)(name)


RULES = {
    "layers": only("layers", "errors"),
    "distributions": only(
        "distributions", "errors", "layers.cursor"
    ),  # the one thing a fast sampler shares with a network
    "models": anything_but("inference", "measures", *ABOVE),
    "data": only("data", "errors", "vocabulary"),
    "inference": inference_may,
    "explanations": anything_but("commands", "cli", "runs", "plots"),
    "measures": only("measures", "data", "layers", "distributions", "errors", "console", "files"),
}


def violations(source: str, module: str) -> list[str]:
    """The imports of a module that its part of probgen may not have."""
    imported, part = imports_of(source, module), module.split(".")[1]
    wrong = {name for name in imported if not RULES.get(part, lambda name: True)(name)}
    if part not in ("__main__", "cli"):
        wrong |= {name for name in imported if inside(name, "probgen.cli")}
    return sorted(wrong)


SOURCES = {
    ".".join(["probgen", *path.relative_to(ROOT).with_suffix("").parts]): path for path in sorted(ROOT.rglob("*.py"))
}


@pytest.mark.parametrize("module", SOURCES)
def test_each_module_imports_only_what_lies_below_it(module):
    assert violations(SOURCES[module].read_text(), module) == []


def test_the_rules_have_files_to_hold_for():
    parts = [module.split(".")[1] for module in SOURCES]
    assert all(parts.count(part) > 1 for part in RULES)
    assert "cli" in parts


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("probgen.layers.x", "from probgen.models import VAE", "probgen.models.VAE"),
        ("probgen.layers.x", "import probgen.distributions.pixels", "probgen.distributions.pixels"),
        ("probgen.layers.x", "import probgen", "probgen"),
        ("probgen.distributions.x", "from probgen.layers import mlp", "probgen.layers.mlp"),
        ("probgen.distributions.x", "from ..models import VAE", "probgen.models.VAE"),
        ("probgen.models.x", "from probgen import inference", "probgen.inference"),
        ("probgen.models.x", "def f():\n    from probgen.data.digits import g", "probgen.data.digits.g"),
        ("probgen.models.x", "if TYPE_CHECKING:\n    import probgen.runs as r", "probgen.runs"),
        ("probgen.inference.x", "from probgen.models import VAE", "probgen.models.VAE"),
        ("probgen.inference.x", "from probgen.models.vae import VAE", "probgen.models.vae.VAE"),
        ("probgen.inference.x", "from probgen.plots import grid", "probgen.plots.grid"),
        ("probgen.models.x", "from probgen.explanations import TOPICS", "probgen.explanations.TOPICS"),
        ("probgen.explanations.x", "from probgen.commands import common", "probgen.commands.common"),
        ("probgen.measures.x", "from probgen.inference import sample", "probgen.inference.sample"),
        ("probgen.measures.x", "from probgen import models", "probgen.models"),
        ("probgen.commands.x", "from probgen.cli import app", "probgen.cli.app"),
        ("probgen.runs", "import probgen.cli", "probgen.cli"),
    ],
)
def test_an_import_that_breaks_the_rules_is_found(module, source, wrong):
    assert violations(source, module) == [wrong]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("probgen.layers.x", "import torch\nfrom probgen.errors import UserError\nfrom . import networks"),
        ("probgen.models.x", "from probgen.layers import mlp\nfrom probgen.distributions import DequantizedNormal"),
        ("probgen.inference.x", "from probgen.models.contracts import Kind\nfrom probgen.models import contracts"),
        ("probgen.inference.x", "from probgen.console import track\nimport probgenerator.cli"),
        ("probgen.explanations.x", "from probgen.models import VAE\nfrom probgen.inference import iwae"),
        ("probgen.measures.x", "from probgen.data import ImageData\nfrom probgen.files import write_atomic"),
        ("probgen.__main__", "from probgen.cli import run"),
        ("probgen.commands.x", "from probgen.models import VAE\nfrom probgen.inference import fit"),
    ],
)
def test_an_import_that_keeps_them_is_not(module, source):
    assert violations(source, module) == []


def loaded_by(statement: str) -> set[str]:
    """The modules in memory after a statement in a fresh interpreter."""
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("statement", ["import probgen", "import probgen.cli", "import probgen.errors"])
def test_the_command_line_answers_without_torch(statement):
    heavy = {"torch", "pyro", "sklearn", "matplotlib", "arviz", "torchvision"}
    assert not heavy & loaded_by(statement)


def test_what_a_statement_loads_is_seen():
    assert {"json", "probgen.errors"} <= loaded_by("import json, probgen.errors")
