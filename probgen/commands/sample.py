"""`probgen sample` and `probgen reconstruct`: images from a trained run."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from probgen import plots
from probgen.commands.common import OpenedRun, check_num, open_run, output_file
from probgen.commands.pixels import draw_pixels, draws_pixels, need_pixels
from probgen.commands.traverse import need_code, need_images
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.predict import reconstruct, sample, sample_means
from probgen.models.contracts import Kind, kind_of

CHUNK = 1000  # images decoded at once
MOST_PICTURED = 10_000
MOST_FILMED = 400


def sample_run(
    path: Path,
    num: int,
    out: Path,
    *,
    seed: int,
    temperature: float,
    model: str | None,
    device: str,
    mean: bool,
    label: int | None = None,
    animate: Path | None = None,
) -> None:
    """Draw `num` images from p(x) into a picture or an .npz file (`images`, uint8 n h w or n h w c).

    label: draw from p(x | label). animate: also a film, a .gif, of the pixels as they come.
    """
    output_file(out, ".png", ".npz")
    if animate is not None:
        output_file(animate, ".gif")
        check_num(num, MOST_FILMED)
    check_num(num, MOST_PICTURED if out.suffix.lower() == ".png" else 1_000_000)
    if not 0 < temperature < float("inf"):
        raise UserError(f"--temperature {temperature:g} came, expected a number above 0")
    opened = open_run(path, model, device, seed)
    frames: list[Image.Image] = []
    implicit = kind_of(opened.model) is Kind.IMPLICIT
    for option, given in (("--label", None if implicit else label), ("--animate", animate)):
        if given is not None:
            need_pixels(opened, option)
    if implicit and label is not None:
        draw = partial(draw_labelled, label=label, temperature=temperature)
    elif draws_pixels(opened.model) and not mean:
        draw = partial(draw_pixels, temperature=temperature, label=label, frames=frames if animate else None)
    else:
        draw = partial(draw_means if mean else draw_samples, temperature=temperature)
    sizes = [min(CHUNK, num - start) for start in range(0, num, CHUNK)]
    images = torch.cat([draw(opened, size).cpu() for size in sizes])
    if out.suffix.lower() == ".npz":
        write_atomic(out, npz(images, opened.levels, whole=not mean))
    elif opened.levels is None:
        write_atomic(out, plots.points(images))
    else:
        write_atomic(out, plots.grid(images, opened.levels))
    if animate is not None:
        write_atomic(animate, plots.film(frames))


def draw_samples(opened: OpenedRun, num: int, temperature: float) -> Tensor:
    """x ~ p(x)."""
    return sample(opened.model, num, opened.image_shape, temperature=temperature)


def draw_labelled(opened: OpenedRun, num: int, label: int, temperature: float) -> Tensor:
    """x = G(z, label). Raises UserError for a label of a run without classes, or one that it does not know."""
    return sample(opened.model, num, opened.image_shape, temperature=temperature, label=label)


def draw_means(opened: OpenedRun, num: int, temperature: float) -> Tensor:
    """E[x | z] for z ~ p(z): smoother than a draw of x, and no sample of p(x)."""
    return sample_means(opened.model, num, opened.image_shape, temperature=temperature)


def npz(images: Tensor, levels: int | None, *, whole: bool = True) -> bytes:
    """`images` as uint8 n h w or n h w c with `levels` (float where they need not be `whole`), or as float n 2."""
    arrays: dict[str, Any] = {"images": images.float().numpy()}
    if levels is not None:
        images = images.clamp(0, levels - 1)
        array = (images.round().to(torch.uint8) if whole else images.float()).permute(0, 2, 3, 1).numpy()
        arrays = {"images": array[..., 0] if array.shape[-1] == 1 else array, "levels": np.array(levels)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def reconstruct_run(
    path: Path, num: int, out: Path, *, split: str, data_dir: Path | None, model: str | None, device: str
) -> None:
    """Images of a split over E[x | z] at the mean of their code."""
    output_file(out, ".png")
    check_num(num, MOST_PICTURED)
    opened = open_run(path, model, device, seed=0)  # a mean without a formula is one of draws
    need_code(opened)
    images = opened.split(split, data_dir, num)
    levels = need_images(opened)
    write_atomic(out, plots.pairs(images, reconstruct(opened.model, images), levels))
