"""The film of a training: one frame now and then, always of the same z, kept as files until the run is done."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from probgen import plots
from probgen.data import ImageData
from probgen.errors import UserError
from probgen.files import make_directory, write_atomic
from probgen.inference.loop import VALIDATION_SEED
from probgen.inference.predict import sample
from probgen.inference.randomness import own_randomness
from probgen.inference.traces import evaluating
from probgen.models.contracts import Kind, kind_of
from probgen.plots.images import PAPER
from probgen.runs import FRAMES, Run

NUM_FRAMES = 60
NUM_POINTS, NUM_IMAGES = 500, 36
FRAME_DPI = 80
SIDE = 80  # places of the field along each axis
CAPTION = 28  # pixels, of the strip under a frame of images
MARGIN = 0.15  # of the data's extent, on each side


def check_film(pair: Any, data: ImageData) -> None:
    """Raise UserError for what cannot be filmed."""
    if kind_of(pair) is Kind.NONE or data.vocabulary is not None:
        raise UserError("--animate films samples while a model learns to draw them, and this one draws no images")
    if getattr(pair, "estimator", None) == "closed-form":
        raise UserError("--animate films steps, and this model is solved without any: set estimator=svi, or leave it")


def is_due(step: int, steps: int) -> bool:
    """Whether a frame is drawn after that step: the start, the end, and evenly between."""
    return step == 0 or step == steps or step % max(1, steps // NUM_FRAMES) == 0


def shoot(run: Run, pair: Any, data: ImageData, step: int) -> None:
    """Draw the frame of a step; the random state is left alone. The same step drawn again is the same frame."""
    with own_randomness(VALIDATION_SEED):
        title = f"step {step:,}"
        if data.levels is not None:
            picture = plots.grid(sample(pair, NUM_IMAGES, data.image_shape), data.levels)
        elif kind_of(pair) is Kind.IMPLICIT:
            picture = plots.figure_png(field(pair, data, title, numbers=False), dpi=FRAME_DPI, tight=False)
        else:
            picture = plots.points(sample(pair, NUM_POINTS, data.image_shape), data.valid.images)
    make_directory(run.pictures / FRAMES)
    write_atomic(run.pictures / FRAMES / f"{step:012d}.png", picture)


def cut(run: Run) -> None:
    """All frames as one film, training.gif; images with their step written underneath, a field has it as its title."""
    files = frame_files(run)
    frames = [Image.open(io.BytesIO(file.read_bytes())).convert("RGB") for file in files]
    if run.config.levels is not None:
        frames = [captioned(one, f"step {int(file.stem):,}") for one, file in zip(frames, files, strict=True)]
    if frames:
        write_atomic(run.pictures / "training.gif", plots.film([one.resize(frames[-1].size) for one in frames]))


def captioned(frame: Image.Image, text: str) -> Image.Image:
    """The frame over a strip of paper with the text in its middle."""
    whole = Image.new("RGB", (frame.width, frame.height + CAPTION), (PAPER,) * 3)
    whole.paste(frame)
    middle = (frame.width / 2, frame.height + CAPTION / 2)
    ImageDraw.Draw(whole).text(middle, text, fill=(0, 0, 0), anchor="mm", font=ImageFont.load_default(CAPTION // 2))
    return whole


def drop_later(run: Run, step: int) -> None:
    """Frames of steps that will be made again."""
    for file in frame_files(run):
        if int(file.stem) > step:
            file.unlink(missing_ok=True)


def frame_files(run: Run) -> list[Path]:
    """The frames so far, in order; whatever else lies there is not ours."""
    return sorted(file for file in (run.pictures / FRAMES).glob("*.png") if re.fullmatch("[0-9]+", file.stem))


def field(pair: Any, data: ImageData, title: str = "", *, numbers: bool = True) -> Figure:
    """The discriminator's logit over the plane, with data and samples."""
    shown = data.valid.images
    low, high = (side.tolist() for side in extent(shown))
    places = [np.linspace(low[dim], high[dim], SIDE) for dim in (0, 1)]
    plane = torch.tensor(np.stack(np.meshgrid(*places), -1), dtype=torch.float32).flatten(0, 1)
    logits = judged(pair, plane).view(SIDE, SIDE).cpu().numpy()
    samples = sample(pair, NUM_POINTS, data.image_shape)
    return plots.judgement(logits, (low[0], high[0], low[1], high[1]), shown, samples, title, numbers=numbers)


def extent(points: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of what is shown of the plane."""
    low, high = points.amin(0), points.amax(0)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


@torch.no_grad()
def judged(pair: Any, plane: Tensor) -> Tensor:
    """The logit at each place; of packs each place packed with itself, of classes the mean over labels."""
    plane = plane.to(next(pair.parameters()))
    packed = plane.repeat_interleave(pair.objective.packing, 0)
    classes = getattr(pair, "num_classes", None) if getattr(pair, "takes_labels", False) else None
    with evaluating(pair):
        if classes is None:
            return pair.judge(pair.seen(packed))
        each = [pair.judge(pair.seen(plane), torch.full((len(plane),), y, device=plane.device)) for y in range(classes)]
        return torch.stack(each).mean(0)
