"""`probgen models`, `probgen datasets` and `probgen info`: what there is."""

from pathlib import Path
from typing import Any

import torch

from probgen.commands.common import open_run
from probgen.data import describe_datasets
from probgen.inference.checks import sites_of
from probgen.inference.equation import equation
from probgen.models.contracts import kind_of
from probgen.models.registry import MODELS, build, find_class, options_of


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


def describe_run(path: Path, model: str | None) -> dict[str, Any]:
    """A run's configuration, model and last metrics."""
    opened = open_run(path, model, "cpu")
    config = opened.run.config
    metrics = opened.run.read_metrics()
    blank = torch.zeros(2, *config.image_shape)
    return {
        "run": str(path),
        "model": config.model,
        "kind": str(kind_of(opened.model)),
        "sites": sites_of(opened.model, blank),
        "equation": str(equation(opened.model.model, opened.model.guide, blank)).splitlines(),
        "parameters": sum(p.numel() for p in opened.model.parameters()),
        "options": {o.name: config.options.get(o.name, o.default) for o in options_of(type(opened.model))},
        "training": {k: v for k, v in config.model_dump().items() if k not in ("model", "options", "format")},
        "last": {split: last_of(metrics, split) for split in ("train", "valid")},
    }


def last_of(metrics: list[dict[str, Any]], split: str) -> dict[str, Any] | None:
    """The last record of a split."""
    found = [r for r in metrics if r["split"] == split]
    return found[-1] if found else None
