"""`probgen models`, `probgen datasets` and `probgen info`: what there is."""

import shutil
from pathlib import Path
from typing import Any

import torch

from probgen.commands.common import open_run, output_file
from probgen.data import describe_datasets
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.checks import sites_of
from probgen.inference.equation import Equation, equation
from probgen.inference.graph import graph
from probgen.models.contracts import kind_of
from probgen.models.registry import MODELS, build, find_class, options_of

GRAPHS = (".gv", ".dot", ".png", ".svg", ".pdf")


def list_models() -> list[dict[str, Any]]:
    """Each model's kind, sites and options, read off the class itself."""
    rows = []
    for name in MODELS:
        cls = find_class(name)
        example = build(cls, (1, 8, 8), 2, {})
        rows.append(
            {
                "name": name,
                "summary": (cls.__doc__ or "").strip().splitlines()[0],
                "kind": str(kind_of(example)),
                "sites": sites_of(example, torch.zeros(2, 1, 8, 8)),
                "options": {o.name: {"type": o.type_name, "default": o.default} for o in options_of(cls)},
            }
        )
    return rows


def list_datasets(data_dir: Path | None) -> list[dict[str, Any]]:
    """Each data set's size, shape, levels, labels, factors, and whether it is here."""
    return [vars(info) for info in describe_datasets(data_dir)]


def describe_run(path: Path, model: str | None, graph_file: Path | None = None) -> dict[str, Any]:
    """A run's configuration, model and last metrics; the pair as a graph in a file of its own, if asked for."""
    if graph_file is not None:
        output_file(graph_file, *GRAPHS)
    opened = open_run(path, model, "cpu")
    config = opened.run.config
    metrics = opened.run.read_metrics()
    blank = torch.zeros(2, *config.image_shape)
    formula = equation(opened.model.model, opened.model.guide, blank)
    if graph_file is not None:
        draw_graph(formula, graph_file)
    return {
        "run": str(path),
        "model": config.model,
        "kind": str(kind_of(opened.model)),
        "sites": sites_of(opened.model, blank),
        "equation": str(formula).splitlines(),
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        "options": {o.name: config.options.get(o.name, o.default) for o in options_of(type(opened.model))},
        "training": {k: v for k, v in config.model_dump().items() if k not in ("model", "options", "format")},
        "last": {split: last_of(metrics, split) for split in ("train", "valid")},
    }


def draw_graph(formula: Equation, file: Path) -> None:
    """The pair's graph: as text for `.gv` and `.dot`, as a picture by Graphviz' program `dot` for the others.

    Raises UserError where a picture is asked for and the program is not installed.
    """
    drawn = graph(formula)
    if file.suffix.lower() in (".gv", ".dot"):
        write_atomic(file, drawn.source.encode())
    elif shutil.which("dot") is None:
        raise UserError(f"--graph {file} came, but Graphviz is not installed: install it, or write a .gv file")
    else:
        write_atomic(file, drawn.pipe(format=file.suffix.lower()[1:]))


def last_of(metrics: list[dict[str, Any]], split: str) -> dict[str, Any] | None:
    """The last record of a split."""
    found = [r for r in metrics if r["split"] == split]
    return found[-1] if found else None
