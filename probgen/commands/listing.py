"""`probgen models`, `probgen datasets` and `probgen info`: what there is."""

import inspect
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from probgen import plots
from probgen.commands.common import open_run, output_file
from probgen.data import describe_datasets
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.checks import sites_of
from probgen.inference.equation import Equation, equation
from probgen.inference.graph import graph
from probgen.inference.receptive_field import field_of
from probgen.inference.traces import evaluating
from probgen.models.contracts import Kind, kind_of
from probgen.models.registry import MODELS, build, find_class, options_of
from probgen.runs import RunConfig
from probgen.vocabulary import Vocabulary

GRAPHS = (".gv", ".dot", ".png", ".svg", ".pdf")


def list_models() -> list[dict[str, Any]]:
    """Each model's kind, sites and options, read off the class itself."""
    rows = []
    for name in MODELS:
        cls = find_class(name)
        shape, known = example_data(cls)
        example = build(cls, shape, 2, {}, **known)
        rows.append(
            {
                "name": name,
                "summary": (cls.__doc__ or "").strip().splitlines()[0],
                "kind": str(kind_of(example)),
                "sites": sites_of(example, torch.zeros(2, *shape)),
                "options": {o.name: {"type": o.type_name, "default": o.default} for o in options_of(cls)},
            }
        )
    return rows


def example_data(cls: type) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of small data that a model can be built for: a text if it takes a vocabulary, else an image."""
    if "vocabulary" in inspect.signature(cls).parameters:
        return (8,), {"vocabulary": ("\n", "a")}
    return (1, 8, 8), {}


def list_datasets(data_dir: Path | None) -> list[dict[str, Any]]:
    """Each data set's size, shape, levels, labels, factors, and whether it is here."""
    return [vars(info) for info in describe_datasets(data_dir)]


def describe_run(
    path: Path, model: str | None, graph_file: Path | None = None, field_file: Path | None = None
) -> dict[str, Any]:
    """A run's configuration, model and last metrics; the pair as a graph in a file of its own, if asked for.

    field_file: likewise the receptive field of a pixel, of a model that draws one after the other.
    """
    if graph_file is not None:
        output_file(graph_file, *GRAPHS)
    if field_file is not None:
        output_file(field_file, ".png")
    opened = open_run(path, model, "cpu")
    config = opened.run.config
    metrics = opened.run.read_metrics()
    blank = torch.zeros(2, *config.image_shape)
    formula = equation_of(opened.model, blank)
    field = field_of(opened.model)
    if field_file is not None and field is None:
        raise UserError(
            f"--field is for models that draw one pixel after the other, such as pixelcnn; this run's is {config.model}"
        )
    if graph_file is not None:
        draw_graph(formula, graph_file)
    if field_file is not None and field is not None:
        write_atomic(field_file, plots.figure_png(plots.field_figure(field.strength, field.row, field.column)))
    return {
        "run": str(path),
        "model": config.model,
        "kind": str(kind_of(opened.model)),
        "sites": sites_of(opened.model, blank),
        "equation": str(formula).splitlines(),
        "receptive_field": None if field is None else field.to_json(),
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        **({"objective": asdict(opened.model.objective)} if kind_of(opened.model) is Kind.IMPLICIT else {}),
        "options": {o.name: config.options.get(o.name, o.default) for o in options_of(type(opened.model))},
        "training": trained_how(config),
        "last": {split: last_of(metrics, split) for split in ("train", "valid")},
    }


def equation_of(pair: Any, blank: torch.Tensor) -> Equation:
    """The pair's equation; of an implicit one, told a number of images and inferring nothing, the model's alone."""
    if kind_of(pair) is not Kind.IMPLICIT:
        return equation(pair.model, pair.guide, blank)
    with evaluating(pair):
        return equation(lambda x: pair.model(len(x)), lambda x: None, blank)


def trained_how(config: RunConfig) -> dict[str, Any]:
    """The configuration without what is told elsewhere; of a vocabulary only its size."""
    fields = {k: v for k, v in config.model_dump().items() if k not in ("model", "options", "format")}
    if config.vocabulary is not None:
        vocabulary = Vocabulary(config.vocabulary)
        fields["vocabulary"] = f"{len(vocabulary.symbols)} {vocabulary.level}"
    return fields


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
