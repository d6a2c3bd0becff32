"""Data: by name or from the user's files, always as whole numbers: images in grey levels, or numbered symbols of texts.

>>> import torch
>>> data = load_data("digits", binarize="threshold")
>>> data.train.batch(torch.arange(4)).shape, data.levels
(torch.Size([4, 1, 8, 8]), 2)
"""

import difflib
import os
from pathlib import Path

from probgen.data.benchmarks import load_benchmark
from probgen.data.binarize import BINARIZATIONS, check_binarize
from probgen.data.binarized_mnist import load_binarized_mnist
from probgen.data.catalog import (
    BENCHMARK_NAMES,
    COUNTED_NAMES,
    DATASET_NAMES,
    DatasetInfo,
    default_data_dir,
    describe_datasets,
)
from probgen.data.digits import load_digits_data
from probgen.data.files import load_path
from probgen.data.split import ImageData, Modes, RawData, Split, assemble
from probgen.data.sprites import FACTOR_RANGES, load_sprites, render_sprites
from probgen.data.stacked import STACKED_NAME, load_stacked_mnist
from probgen.data.text import TEXT_LEVELS, load_text, text_source
from probgen.data.toys import load_toy
from probgen.errors import UserError

__all__ = [
    "BINARIZATIONS",
    "DATASET_NAMES",
    "FACTOR_RANGES",
    "TEXT_LEVELS",
    "DatasetInfo",
    "ImageData",
    "Modes",
    "Split",
    "default_data_dir",
    "describe_datasets",
    "load_data",
    "render_sprites",
]


def load_data(name_or_path: str | Path, *, data_dir: str | Path | None = None, binarize: str = "none") -> ImageData:
    """Load a data set by name, images from a .npz file, a .npy file or a folder, or sentences from a .txt file.

    Args:
        name_or_path: a name of `describe_datasets` (`sprites:NUM`, `stacked-mnist:NUM` and the toys' `ring:NUM` set
            their size), else a path; a file that has the name of a data set is reached as `./digits`, or by a
            `Path`.
            Texts are read as characters, or as words: `sea-log:words`, `FILE.txt:words`.
        data_dir: where files of named data sets are looked for, and downloaded to; by default
            `default_data_dir()`.
        binarize: `none`; `threshold`: 1 from half of the top level on; `static`: one draw
            Bernoulli(x/(levels-1)) for good; `dynamic`: such a draw for each training batch, the static one
            for valid and test.

    Raises:
        UserError: an unknown name, a missing, broken or unsuitable file, an impossible binarization.
    """
    if binarize not in BINARIZATIONS:
        check_binarize(binarize, None, str(name_or_path))  # before the work of loading
    if (text := text_source(name_or_path)) is not None:
        return assemble(str(name_or_path), load_text(*text), binarize)
    if isinstance(name_or_path, str):
        name = name_or_path.partition(":")[0]
        if name in DATASET_NAMES:
            root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
            return assemble(name_or_path, _load_named(name, _parse_count(name_or_path), root), binarize)
    path = Path(name_or_path).expanduser()
    # An empty name is not this folder; and os.path.exists, unlike Path.exists, copes with any text.
    if not str(name_or_path) or not os.path.exists(path):
        raise UserError(_not_found(str(name_or_path)))
    return assemble(str(name_or_path), load_path(path), binarize)


def _load_named(name: str, count: int | None, root: Path) -> RawData:
    if name == "digits":
        return load_digits_data()
    if name == "sprites":
        return load_sprites(count)
    if name == STACKED_NAME:
        return load_stacked_mnist(count, root)
    if name == "binarized-mnist":
        return load_binarized_mnist(root)
    return load_benchmark(name, root) if name in BENCHMARK_NAMES else load_toy(name, count)


def _parse_count(text: str) -> int | None:
    """The NUM of `sprites:NUM`."""
    name, colon, count = text.partition(":")
    if not colon:
        return None
    if name not in COUNTED_NAMES:
        raise UserError(f"{text}: {name} has a fixed size: write {name} (a size is for {', '.join(COUNTED_NAMES)})")
    if not (count.isascii() and count.isdigit() and len(count) <= 18 and int(count) > 0):
        raise UserError(f"{text}: {count!r} is not a number of images above 0: write e.g. {name}:5000")
    return int(count)


def _not_found(text: str) -> str:
    """One line for what is neither a name nor a path."""
    names = ", ".join(DATASET_NAMES)
    if os.sep in text or text.endswith((".npz", ".npy")):
        return f"{text} does not exist: give a .npz, .npy or .txt file, a folder of images, or one of {names}"
    near = difflib.get_close_matches(text.partition(":")[0].lower(), DATASET_NAMES, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown data set {text!r}: {hint}choose one of {names}, or give the path of a file or folder"
