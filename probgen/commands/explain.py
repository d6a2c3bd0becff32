"""`probgen explain`: a derivation line by line, each line with its number."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.commands.common import OpenedRun, choose_device, open_run
from probgen.errors import UserError
from probgen.explanations import Topic, topic_named
from probgen.explanations.lines import Derivation
from probgen.explanations.subject import Subject

MOST_ROWS = {"gan": 512, "maximum-likelihood": 2000}  # images that a topic looks at, where it looks at many
MOST_TRAINING = 5000  # that a maximum is sought of


def explain(
    name: str,
    path: Path | None,
    *,
    index: int | None,
    split: str | None,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
    quiet: bool,
) -> dict[str, Any]:
    """The derivation on a small exact model, or on the run at `path`."""
    topic = topic_named(name)
    if path is None:
        needs_run = {"--index": index, "--split": split, "--data-dir": data_dir, "--model": model}
        for option, came in needs_run.items():
            if came is not None:
                raise UserError(f"{option} {came} came without a run: give --run RUN too, or leave it out")
        choose_device(device)  # checked, though so little needs none
        pyro.set_rng_seed(seed)
        return {"run": None} | topic.module.small().to_json()
    with double_precision():
        opened = open_run(path, model, device, seed)
        opened.model.double()
        derivation: Derivation = topic.module.trained(
            subject_of(opened, topic, index, split or "test", data_dir, quiet)
        )
    return {"run": str(path)} | derivation.to_json()


@contextmanager
def double_precision() -> Iterator[None]:
    """float64 for whatever a program makes, so that what is equal is seen to be equal."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def subject_of(
    opened: OpenedRun, topic: Topic, index: int | None, split: str, data_dir: Path | None, quiet: bool
) -> Subject:
    """The run with the images that the topic looks at, in float64."""
    config, pair = opened.run.config, opened.model
    found = opened.whole_split(split, data_dir)
    if topic.looks_at == "images":
        if index is not None:
            raise UserError(f"--index {index} came, but {topic.name} is shown on many images: leave it out")
        rows = torch.arange(min(MOST_ROWS[topic.name], len(found)))
    else:
        if not 0 <= (index or 0) < len(found):
            raise UserError(f"--index {index} came, expected 0 to {len(found) - 1}")
        rows = torch.tensor([index or 0])
    training = None
    if topic.name == "maximum-likelihood":
        training = in_double(opened.split("train", data_dir, MOST_TRAINING))
    labels = (
        found.labels[rows].to(opened.device)
        if getattr(pair, "takes_labels", False) and found.labels is not None
        else None
    )
    return Subject(
        config.model, config.data, split, pair, in_double(found.batch(rows).to(opened.device)), labels,
        None if topic.looks_at == "images" else index or 0, training, quiet,
    )  # fmt: skip


def in_double(x: Tensor) -> Tensor:
    """float64."""
    return x.double()


def list_topics() -> list[dict[str, str]]:
    """Each topic: name, summary, models whose runs it can be shown on."""
    from probgen.explanations import TOPICS

    return [{"topic": t.name, "summary": t.summary, "runs": t.runs} for t in TOPICS.values()]
