"""The pictures that a run draws of itself while it trains."""

from pathlib import Path
from typing import Any

import torch

from probgen import plots
from probgen.commands.film import field
from probgen.commands.texts import as_file, draw_sentences
from probgen.data import ImageData
from probgen.files import write_atomic
from probgen.inference.checks import sites_of
from probgen.inference.loop import VALIDATION_SEED
from probgen.inference.predict import reconstruct, sample
from probgen.inference.randomness import own_randomness
from probgen.models.contracts import Kind, kind_of
from probgen.runs import Run
from probgen.vocabulary import Vocabulary

NUM_SAMPLES = 64
NUM_RECONSTRUCTIONS = 20
NUM_SENTENCES = 20


def draw_progress(run: Run, pair: Any, data: ImageData, records: list[dict[str, Any]]) -> None:
    """Samples, reconstructions and the curve, where the model has them; the random state is left alone."""
    pictures: dict[str, bytes] = {}
    implicit = kind_of(pair) is Kind.IMPLICIT
    if any(r["split"] == "train" for r in records):
        each = "image" if data.vocabulary is None else "sentence"
        pictures["curve.png"] = plots.duel(records) if implicit else plots.curve(records, each)
    with own_randomness(VALIDATION_SEED):
        images = data.valid.batch(torch.arange(min(NUM_RECONSTRUCTIONS, len(data.valid))))
        if kind_of(pair) is not Kind.NONE:
            pictures |= draw_samples(pair, data)
        if implicit and data.levels is None:
            pictures["field.png"] = plots.figure_png(field(pair, data))
        if data.levels is not None and not implicit and has_code(pair, images):
            back = reconstruct(pair, on_device(pair, images))
            pictures["reconstructions.png"] = plots.pairs(images, back, data.levels)
    for name, picture in pictures.items():
        write_atomic(run.pictures / name, picture)


def draw_samples(pair: Any, data: ImageData) -> dict[str, bytes]:
    """A grid of images, points over the data, or sentences."""
    if data.vocabulary is not None:
        sentences = draw_sentences(pair, Vocabulary(data.vocabulary), NUM_SENTENCES)
        return {"samples.txt": as_file(Path("samples.txt"), sentences, None)}
    if data.levels is None:
        return {"samples.png": plots.points(sample(pair, 1000, data.image_shape), data.valid.images)}
    return {"samples.png": plots.grid(sample(pair, NUM_SAMPLES, data.image_shape), data.levels)}


def has_code(pair: Any, images: torch.Tensor) -> bool:
    """Whether the pair has a latent site, from which an image can be reconstructed."""
    return "latent" in sites_of(pair, on_device(pair, images)).values()


def on_device(pair: Any, images: torch.Tensor) -> torch.Tensor:
    """The images where the model is."""
    return images.to(next(iter(pair.parameters())).device)
