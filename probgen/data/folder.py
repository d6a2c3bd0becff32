"""The user's own images from a folder of picture files, split 80/10/10."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from probgen.data.arrays import check_size, one_line
from probgen.data.split import RawData, random_splits, tenths
from probgen.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB")


def load_folder(path: Path) -> RawData:
    """All picture files of a folder in sorted order; pictures in sub-folders have these as class labels.

    One level of sub-folders, numbered in sorted order; hidden files are passed over. The images are grey if
    all are, else all become RGB; transparency is dropped; of an animation the first picture
    counts. 256 levels.

    Raises:
        UserError: no picture, pictures both beside and in sub-folders, a folder that cannot be read, a broken
            picture, one of more than 8 bits a channel, pictures of different sizes.
    """
    paths, labels = _list_images(path)
    (width, height), colour = _scan(paths)
    channels = 3 if colour else 1
    shape = (len(paths), channels, height, width)
    check_size(shape, np.dtype(np.uint8), str(path))
    splits = random_splits(len(paths), *tenths(len(paths), str(path)))
    images = np.empty(shape, np.uint8)
    for row, file in enumerate(paths):
        with _open(file) as picture:
            pixels = _decode(picture, file, colour)
        images[row] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return RawData(torch.from_numpy(images), splits, 256, labels=None if labels is None else torch.tensor(labels))


def _list_images(path: Path) -> tuple[list[Path], list[int] | None]:
    """Picture files and their labels; None where they lie in the folder itself."""
    direct = _pictures(path)
    folders = {folder: _pictures(folder) for folder in _entries(path) if folder.is_dir()}
    folders = {folder: files for folder, files in folders.items() if files}
    if direct and folders:
        raise UserError(
            f"{path} has pictures both beside and in sub-folders ({direct[0].name}, "
            f"{next(iter(folders)).name}/): put all of them into sub-folders, one for each class, or none"
        )
    if direct:
        return direct, None
    if not folders:
        raise UserError(f"{path} has no picture in it or one level below: expected files {' '.join(IMAGE_SUFFIXES)}")
    labelled = [(file, label) for label, files in enumerate(folders.values()) for file in files]
    return [file for file, _ in labelled], [label for _, label in labelled]


def _pictures(folder: Path) -> list[Path]:
    return [file for file in _entries(folder) if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """All but the hidden entries, sorted by name."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)}): check its permissions") from error


def _scan(paths: list[Path]) -> tuple[tuple[int, int], bool]:
    """The common (width, height) of all pictures and whether one of them has colour, from their headers."""
    size: tuple[int, int] | None = None
    colour = False
    for file in paths:
        with _open(file) as picture:
            size = size or picture.size
            if picture.size != size:
                raise UserError(
                    f"pictures of different sizes: {paths[0]} is {size[0]}×{size[1]}, {file} is "
                    f"{picture.size[0]}×{picture.size[1]} (width×height): bring all to one size"
                )
            colour = _has_colour(picture, file) or colour
    if size is None or math.prod(size) == 0:
        raise UserError(f"{paths[0]} has no pixel")
    return size, colour


def _has_colour(picture: Image.Image, file: Path) -> bool:
    if picture.mode in ("P", "PA"):
        palette = np.asarray(picture.getpalette() or []).reshape(-1, 3)
        return not bool((palette == palette[:, :1]).all())
    if picture.mode in _GREY_MODES or picture.mode in _COLOUR_MODES:
        return picture.mode in _COLOUR_MODES
    raise UserError(f"{file} has Pillow's mode {picture.mode}, not 8 bits a channel: convert it to 8-bit grey or RGB")


def _open(file: Path) -> Image.Image:
    # Each of Pillow's decoders raises its own kind of exception on a broken file; none may pass as it is.
    try:
        if not file.is_file():
            raise OSError("not a regular file")
        return Image.open(file)
    except Exception as error:
        raise UserError(f"{file} is not a picture or broken ({one_line(error)}): mend or remove it") from error


def _decode(picture: Image.Image, file: Path, colour: bool) -> np.ndarray:
    try:
        return np.asarray(picture.convert("RGB" if colour else "L"))
    except Exception as error:
        raise UserError(f"{file} is a broken picture ({one_line(error)}): mend or remove it") from error
