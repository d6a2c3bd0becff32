"""Drawing pixel by pixel: samples with a progress bar, films of them, and completions of images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from probgen import plots
from probgen.commands.common import OpenedRun, check_num, open_run, output_file
from probgen.console import progress_bar, stderr_console
from probgen.data.arrays import one_line
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.traces import as_real

NUM_FRAMES = 100
MOST_COMPLETED = 1000
RASTER = "each drawn pixel is conditioned on earlier ones only (rows from the top, in a row from the left)"


def draws_pixels(pair: Any) -> bool:
    """Whether a model draws its images pixel by pixel."""
    return callable(getattr(pair, "distribution", None)) and len(getattr(pair, "image_shape", ())) == 3


def need_pixels(opened: OpenedRun, what: str) -> None:
    """Raise UserError for a model that does not draw pixel by pixel."""
    if not draws_pixels(opened.model):
        raise UserError(
            f"{what} is for models that draw one pixel after the other, such as pixelcnn; this run's is "
            f"{opened.run.config.model}"
        )


def draw_pixels(
    opened: OpenedRun,
    num: int,
    *,
    label: int | Tensor | None = None,
    frames: list[Image.Image] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Tensor:
    """`num` images from the run's density, with a progress bar; a film of them into `frames`.

    options: as of `FactoredImage.sample`.
    """
    _, height, width = opened.image_shape
    every = max(1, height * width // NUM_FRAMES)
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("drawing pixels", total=height * width, terms="")
        done = 0

        def progress(pixels: int) -> None:
            bar.update(task, completed=pixels)

        def film(images: Tensor) -> None:
            nonlocal done
            done += 1
            if frames is not None and (done % every == 0 or done == height * width):
                frames.append(plots.frame(images, done, opened.levels or 2))

        options |= {"progress": progress, "watch": None if frames is None else film}
        density = opened.model.distribution(label)
        batched = tuple(density.batch_shape) == (num,)
        return density.sample(torch.Size([] if batched else [num]), **options)


def complete_run(
    path: Path,
    num: int,
    keep: str,
    out: Path,
    *,
    draws: int,
    split: str,
    label: int | None,
    seed: int,
    data_dir: Path | None,
    model: str | None,
    device: str,
) -> None:
    """Rows of: an image, what is known of it, and several completions drawn from the model."""
    output_file(out, ".png")
    check_num(num, MOST_COMPLETED)
    if not 1 <= draws <= 100:
        raise UserError(f"--draws {draws} came, expected 1 to 100")
    opened = open_run(path, model, device, seed)
    need_pixels(opened, "complete")
    assert opened.levels is not None
    mask = known_pixels(keep, opened.image_shape)
    chosen, own_labels = opened.spread(split, num, data_dir)
    images, labels = as_real(chosen), labels_of(opened, label, own_labels, len(chosen))
    repeated = images.repeat(draws, 1, 1, 1)
    every_label = None if labels is None else labels.repeat(draws)
    drawn = draw_pixels(opened, len(repeated), label=every_label, given=repeated, mask=mask)
    write_atomic(out, plots.completions(images, drawn.unflatten(0, (draws, -1)), mask, opened.levels))
    stderr_console().print(f"{out}: original, what is known, {draws} completions; {RASTER}", highlight=False)


def labels_of(opened: OpenedRun, label: int | None, own: Tensor | None, num: int) -> Tensor | None:
    """The labels to draw under: the chosen one, else the images' own, where the model takes labels."""
    if label is not None:
        return torch.full((num,), label)
    if not getattr(opened.model, "takes_labels", False):
        return None
    if own is None:
        raise UserError(f"{opened.run.config.data} has no labels any more, expected those of training: give --label")
    return own


def known_pixels(keep: str, image_shape: tuple[int, ...]) -> Bool[Tensor, "h w"]:
    """`top`, `left`, or the pixels of a file that are not black (.png) or not zero (.npy).

    Raises UserError for another word, a file that cannot be read, or a mask of another size.
    """
    height, width = image_shape[-2:]
    mask = torch.zeros(height, width, dtype=torch.bool)
    if keep == "top":
        mask[: height // 2] = True
        return mask
    if keep == "left":
        mask[:, : width // 2] = True
        return mask
    mask = read_mask(Path(keep))
    if mask.shape != (height, width):
        raise UserError(f"{keep} is a mask of {tuple(mask.shape)} pixels, expected {(height, width)} as the images")
    return mask


def read_mask(file: Path) -> Bool[Tensor, "h w"]:
    """A mask from a picture, or from an array. Raises UserError when it is none."""
    if not file.is_file():
        raise UserError(f"--keep {file} came, expected top, left or a file (.png or .npy) whose nonzero pixels stay")
    try:
        if file.suffix.lower() == ".npy":
            with file.open("rb") as opened:
                array = np.lib.format.read_array(opened, allow_pickle=False)
        else:
            with Image.open(file) as picture:
                grey, alpha = np.asarray(picture.convert("LA")).transpose(2, 0, 1)
                array = grey * (alpha > 0)  # what is transparent is not known
    except MemoryError:
        raise
    except Exception as error:  # each decoder raises its own kind on a broken file
        raise UserError(f"{file} cannot be read as a mask ({one_line(error)}): expected a .png or .npy file") from error
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise UserError(f"{file} holds {array.dtype} of shape {array.shape}, expected numbers h w")
    return torch.from_numpy(np.nan_to_num(array) != 0)
