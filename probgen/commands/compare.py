"""`probgen compare`: models of all families that were trained on the same data, in one table and on one page."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from probgen.commands.common import OpenedRun, open_run
from probgen.commands.compare_numbers import (
    REFERENCE,
    Request,
    measured_data,
    measured_run,
    picture,
    shown,
    spread,
)
from probgen.commands.compare_page import check_place, distinct_names, publish
from probgen.commands.pixels import draws_pixels
from probgen.commands.quality import FEWEST_SAMPLES, MODE_SAMPLES, PIXEL_SAMPLES
from probgen.data import ImageData
from probgen.errors import UserError
from probgen.inference.predict import sample
from probgen.inference.randomness import own_randomness
from probgen.measures.feature_cache import cache_key
from probgen.measures.features import read_rows
from probgen.measures.report import check_data
from probgen.models.contracts import Kind, kind_of
from probgen.models.registry import is_user_file
from probgen.runs import Run
from probgen.version import __version__

MUST_AGREE = {"data": "data", "binarize": "binarize", "image_shape": "shape", "levels": "grey levels"}


def compare_runs(paths: Sequence[Path], out: Path, **options: Any) -> dict[str, Any]:
    """Measure every run in the same way, and write the comparison into the directory `out`.

    All that may be wrong with the input is found before anything is computed; all is computed before anything is
    written. options: the fields of `Request`.
    """
    asked = Request(**options)
    asked.check()
    check_place(out)
    opened = opened_runs(alike(paths), asked)
    data = same_data(opened, asked.data_dir)
    check_data(data, asked.split, FEWEST_SAMPLES)
    number = asked.samples or usual_number(opened, len(getattr(data, asked.split)))
    rows: list[dict[str, Any]] = []
    pictures: list[bytes | None] = []
    for name, one in zip(distinct_names(paths), opened, strict=True):
        asked.say(f"judging {name} ({len(rows) + 1} of {len(opened)}) …")
        try:
            row, drawn = measured_run(one, data, number, asked)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        rows.append({"name": name, **row})
        pictures.append(None if drawn is None else picture(drawn, data))
    asked.say(f"judging {REFERENCE} in place of samples …")
    rows.append(measured_data(data, number, asked))
    pictures.append(picture(read_rows(data.train, spread(len(data.train), shown(data.levels))), data))
    record = {**head(opened[0], asked, number), "runs": rows[:-1], "reference": rows[-1]}
    publish(out, record, pictures)
    return record


# --- what may be compared


def alike(paths: Sequence[Path]) -> list[Run]:
    """The runs, two or more, of images or points, all trained on the same data. Raises UserError."""
    if len(paths) < 2:
        raise UserError(f"{len(paths)} run came, expected two or more: probgen compare RUN RUN … --out DIR")
    places = [path.resolve() for path in paths]
    for number, path in enumerate(paths):
        if places[number] in places[:number]:
            raise UserError(f"{path} came twice, expected each run once")
    runs = [Run.open(path) for path in paths]
    first = runs[0]
    for run in runs:
        if run.config.vocabulary is not None:
            raise UserError(f"{run.path} was trained on a text, expected runs of images or of points")
        for field, told in MUST_AGREE.items():
            one, other = getattr(first.config, field), getattr(run.config, field)
            if one != other:
                raise UserError(
                    f"{first.path} and {run.path} were trained on different data ({told}: {one} and {other}): only "
                    "runs of the same data can be compared"
                )
    return runs


def opened_runs(runs: Sequence[Run], asked: Request) -> list[OpenedRun]:
    """The trained models, of which those that draw are tried. Raises UserError, naming the run."""
    if asked.model is not None and not any(is_user_file(run.config.model) for run in runs):
        raise UserError(f"--model {asked.model} came, but no run is of a class of your own: leave it out")
    opened = []
    for run in runs:
        try:
            if not run.read_metrics():
                raise UserError("it was never trained (metrics.jsonl has no record): probgen train --resume")
            one = open_run(run.path, asked.own_class(run), asked.device)
            if kind_of(one.model) is not Kind.NONE and not draws_pixels(one.model):
                with own_randomness(asked.seed):
                    sample(one.model, 2, one.image_shape)
        except UserError as error:
            raise UserError(str(error) if str(run.path) in str(error) else f"{run.path}: {error}") from error
        opened.append(one)
    return opened


def same_data(opened: Sequence[OpenedRun], data_dir: Path | None) -> ImageData:
    """The data, the same in the directories of all runs. Raises UserError."""
    first, data = opened[0].run, opened[0].data(data_dir)
    for other in opened[1:]:
        apart = data_dir is None and other.run.config.data_dir != first.config.data_dir
        if apart and cache_key(other.data()) != cache_key(data):
            raise UserError(
                f"{first.path} and {other.run.path} were trained on different files of {data.name} (data_dir: "
                f"{first.config.data_dir} and {other.run.config.data_dir}): say with --data-dir which to take"
            )
    return data


def usual_number(opened: Sequence[OpenedRun], size: int) -> int:
    """How many samples each run draws: as many as the slowest can, since of fewer most measures come out worse."""
    if opened[0].levels is None:
        return MODE_SAMPLES
    return max(FEWEST_SAMPLES, min(size, PIXEL_SAMPLES if any(draws_pixels(one.model) for one in opened) else 10_000))


def head(opened: OpenedRun, asked: Request, number: int) -> dict[str, Any]:
    """What was compared, how, where and when."""
    config = opened.run.config
    machine: dict[str, Any] = {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    machine |= {"device": str(opened.device), "python": platform.python_version(), "torch": torch.__version__}
    facts: dict[str, Any] = {"data": config.data, "binarize": config.binarize, "image_shape": config.image_shape}
    facts |= {"levels": config.levels, "split": asked.split, "seed": asked.seed}
    facts |= {"particles": asked.particles, "num": asked.num, "samples": number}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"format": 1, "version": __version__, "date": date, "machine": machine, **facts}
