"""The numbers of one run in a comparison: likelihood, samples, speed, size, linear probe."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probgen import plots
from probgen.commands.common import OpenedRun, check_num
from probgen.commands.evaluate import MOST_PARTICLES, evaluate_run
from probgen.commands.quality import FEW_COMPARED, ROUGH, Drawn, check_samples, judge, notes_on_sampler
from probgen.commands.traverse import mean_codes, only_code
from probgen.console import stderr_console
from probgen.data import ImageData
from probgen.errors import UserError
from probgen.inference.probe import linear_probe
from probgen.inference.randomness import own_randomness
from probgen.inference.traces import as_real
from probgen.measures import Judgement, reference
from probgen.measures.features import read_rows
from probgen.measures.manifold import share_error
from probgen.models.contracts import NO_DENSITY, Kind, kind_of
from probgen.models.registry import is_user_file
from probgen.runs import Run
from probgen.tables_compare import PROTOCOLS, how_known

MOST_PROBED = 5_000
SHOWN_IMAGES, SHOWN_POINTS = 64, 1_000
CHUNK = 1_000  # images encoded at once
REFERENCE = "training data"


@dataclass(frozen=True)
class Request:
    """What is asked of every run alike. samples: how many each draws; None: the usual number."""

    split: str
    samples: int | None
    particles: int
    num: int | None
    seed: int
    data_dir: Path | None
    model: str | None
    device: str
    quiet: bool

    def check(self) -> None:
        """Raise UserError for numbers out of range."""
        check_samples(self.samples)
        if self.split == "train":
            raise UserError("--split train came, but training images are what samples are compared with: valid or test")
        if not 1 <= self.particles <= MOST_PARTICLES:
            raise UserError(f"--particles {self.particles} came, expected 1 to {MOST_PARTICLES:,}")
        if self.num is not None:
            check_num(self.num)

    def own_class(self, run: Run) -> str | None:
        """`--model`, for a run of a user's own class; the others need none."""
        return self.model if is_user_file(run.config.model) else None

    def say(self, text: str) -> None:
        """One line on stderr."""
        if not self.quiet:
            stderr_console().print(text, markup=False, highlight=False)


def measured_run(
    opened: OpenedRun, data: ImageData, number: int, asked: Request
) -> tuple[dict[str, Any], Tensor | None]:
    """All numbers of a run, each with what it is; and a few of its samples, where it draws any."""
    row: dict[str, Any] = {"run": str(opened.run.path), "model": opened.run.config.model}
    row |= likelihood(opened, asked)
    row |= {"num_samples": 0, "measures": {}, "samples_per_second": None}
    drawn = None
    if kind_of(opened.model) is Kind.NONE:
        row["notes"].append("it draws no samples, for the same reason")
    else:
        samples, judgement = judge(
            opened, split=asked.split, num=number, data_dir=asked.data_dir, seed=asked.seed, quiet=asked.quiet
        )
        drawn = samples.samples[: shown(opened.levels)]
        row |= {"num_samples": number, "measures": measures(judgement)}
        row["notes"] += rough(judgement)
        row["samples_per_second"] = speed(samples, opened.levels)
    reading = read_out(opened)
    row["probe"] = None if reading is None else probed(data, opened, *reading)
    if reading is None and data.num_classes is not None:
        row["notes"].append("no linear probe: it makes no code and no features of an image")
    if row["probe"] is not None and getattr(opened.model, "takes_labels", False):
        row["notes"].append("it was trained with the labels that the linear probe reads off its features")
    row["parameters"] = parameters(opened.model)
    row["training"] = training(opened.run)
    if row["training"]["step"] < row["training"]["planned_steps"]:
        row["notes"].append("training stopped after step {step:,} of {planned_steps:,}".format(**row["training"]))
    return row, drawn


def measured_data(data: ImageData, number: int, asked: Request) -> dict[str, Any]:
    """What the same measures say of training images in place of samples: the scale for reading the runs."""
    judgement = reference(data, split=asked.split, num=number, seed=asked.seed, quiet=asked.quiet)
    pixels = "the points themselves" if data.levels is None else "the pixels"
    row: dict[str, Any] = {"name": REFERENCE, "kind": None, "num_samples": min(number, len(data.train))}
    fewer = f"there are only {len(data.train):,}, fewer than samples: most measures come out worse of fewer"
    row["notes"] = ([fewer] if len(data.train) < number else []) + rough(judgement)
    return row | {"measures": measures(judgement), "probe": probed(data, None, pixels, lambda images: images)}


def likelihood(opened: OpenedRun, asked: Request) -> dict[str, Any]:
    """What is known of log p(x): the exact number, else the largest lower bound, else nothing and why."""
    kind = kind_of(opened.model)
    row: dict[str, Any] = {"kind": str(kind), "estimates": {}, "log_prob": None, "bits_per_dim": None}
    if kind in (Kind.NONE, Kind.IMPLICIT):
        why = NO_DENSITY if kind is Kind.IMPLICIT else getattr(opened.model, "no_density", "its class declares none")
        drawn = notes_on_sampler(opened) if kind is Kind.IMPLICIT else []
        return {**row, "notes": [f"no log p(x): {why}", *drawn]}
    names = ("split", "particles", "num", "data_dir", "device", "seed", "quiet")
    options = {name: getattr(asked, name) for name in names}
    result = evaluate_run(opened.run.path, model=asked.own_class(opened.run), **options)
    estimates, count = result["estimates"], result["num_images"]
    best = "log_prob" if "log_prob" in estimates else max(estimates, key=lambda name: estimates[name]["value"])
    found = {"estimate": best, **estimates[best], "better": "higher"}
    found["what"] = how_known(best, found, "dequantized" in result.get("note", ""))
    which = f"all {count:,}" if asked.num is None else f"the first {count:,}"
    of = {"which": which, "split": asked.split, "things": things(opened.levels), "data": result["data"]}
    found["protocol"] = (PROTOCOLS[best] + PROTOCOLS["mean"]).format(particles=found["particles"], **of)
    row |= {"num_images": count, "estimates": estimates, "log_prob": found}
    row["bits_per_dim"] = bits(result["bits_per_dim"], found, math.prod(opened.image_shape))
    return {**row, "notes": [result[key] for key in ("warning", "note") if key in result]}


def bits(value: float | None, found: dict[str, Any], size: int) -> dict[str, Any] | None:
    """Bits per dimension of a number on log p(x), with its error in the same unit."""
    if value is None:
        return None
    stderr = None if found["stderr"] is None else found["stderr"] / (size * math.log(2))
    number = {"value": value, "stderr": stderr, "what": found["what"], "better": "lower"}
    return {**number, "protocol": PROTOCOLS["bits_per_dim"].format(size=size)}


def measures(judgement: Judgement) -> dict[str, Any]:
    """Name → value, stderr, better and protocol."""
    keys = ("value", "stderr", "better", "protocol")
    return {measure.name: {key: getattr(measure, key) for key in keys} for measure in judgement.measures}


def rough(judgement: Judgement) -> list[str]:
    """A word on measures of few samples."""
    return [ROUGH] if judgement.num_samples < FEW_COMPARED else []


def speed(drawn: Drawn, levels: int | None) -> dict[str, Any]:
    """Samples per second, of this one run."""
    protocol = PROTOCOLS["samples_per_second"].format(count=len(drawn.samples), things=things(levels))
    return {"value": drawn.per_second, "protocol": protocol}


def read_out(opened: OpenedRun) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    """What a model makes of an image, and what that is called; None where it makes nothing of it."""
    pair, kind = opened.model, kind_of(opened.model)
    if callable(getattr(pair, "features", None)):
        return "the discriminator's last hidden layer" if kind is Kind.IMPLICIT else "features(x)", pair.features
    if kind is Kind.IMPLICIT:
        return None
    what = "the code of an image" if kind is Kind.NONE else "the mean of q(z | x)"
    if callable(getattr(pair, "encode", None)):
        return what, pair.encode
    try:
        name, _ = only_code(opened)
    except UserError:  # no latent site, or several
        return None
    return what, lambda images: mean_codes(opened, images, name)


@torch.no_grad()
def probed(
    data: ImageData, opened: OpenedRun | None, what: str, read: Callable[[Tensor], Tensor]
) -> dict[str, Any] | None:
    """How well labels can be read off `read(images)` linearly; None where the data have not two labels."""
    splits = [(split, spread(len(split), most)) for split, most in ((data.train, MOST_PROBED), (data.test, 10**9))]
    labels = [split.labels[rows].cpu() for split, rows in splits if split.labels is not None]
    if len(labels) < 2 or len(labels[0].unique()) < 2:
        return None
    device = "cpu" if opened is None else opened.device
    with own_randomness(0):
        train, test = (
            torch.cat([read(as_real(part.to(device))).flatten(1).cpu() for part in read_rows(*split).split(CHUNK)])
            for split in splits
        )
    probe = linear_probe(train, labels[0], test, labels[1])
    facts = {"features": what, **probe.to_json(), "stderr": share_error(probe.accuracy, probe.num_test)}
    protocol = PROTOCOLS["probe"].format(things=things(data.levels), data=data.name, **facts)
    return {"value": probe.accuracy, **facts, "better": "higher", "protocol": protocol}


def parameters(pair: Any) -> dict[str, Any]:
    """How many numbers training adjusts; of two players those of each apart."""
    counts = {"value": sum(p.numel() for p in pair.parameters()), "protocol": PROTOCOLS["parameters"]}
    if kind_of(pair) is Kind.IMPLICIT:
        for player in ("generator", "discriminator"):
            counts[player] = sum(p.numel() for p in getattr(pair, player).parameters())
    return counts


def training(run: Run) -> dict[str, Any]:
    """Seconds and steps, as the run recorded them; None where it did not."""
    last = run.read_metrics()[-1]
    planned = 0 if last["step"] == 0 else run.config.steps
    facts = {"step": last["step"], "planned_steps": planned, "device": run.config.device}
    return {"value": last.get("seconds"), **facts, "protocol": PROTOCOLS["training"]}


def things(levels: int | None) -> str:
    """What the data are."""
    return "points" if levels is None else "images"


def shown(levels: int | None) -> int:
    """How many samples are pictured."""
    return SHOWN_POINTS if levels is None else SHOWN_IMAGES


def spread(size: int, most: int) -> Tensor:
    """At most so many row numbers, evenly spread: some files are sorted."""
    return torch.linspace(0, size - 1, min(most, size)).round().long()


def picture(images: Tensor, data: ImageData) -> bytes:
    """A grid of images, or points over the data."""
    if data.levels is None:
        return plots.points(images, data.test.images)
    return plots.grid(images, data.levels)
