"""The data sets by name: what each one is, and whether its files are here."""

import os
from dataclasses import dataclass
from pathlib import Path

from probgen.data.benchmarks import CIFAR_ARCHIVE, CIFAR_FOLDER, IDX_FOLDERS, benchmark_files, benchmark_sizes
from probgen.data.binarized_mnist import BINARIZED_SPLIT, binarized_candidates
from probgen.data.digits import DIGITS_SPLIT
from probgen.data.glyphs import GLYPH_NAMES
from probgen.data.split import tenths
from probgen.data.sprites import SPRITE_COUNT, SPRITE_FACTORS
from probgen.data.stacked import STACKED_FACTORS, STACKED_NAME, STACKED_SPLIT
from probgen.data.text import TEXT_NAMES
from probgen.data.toys import TOY_COUNT, TOY_HELD_OUT

COUNTED_NAMES = ("sprites", "ring", "grid", "moons", "spiral", STACKED_NAME)
"""Data sets that are drawn, and take a size: `sprites:5000`."""


@dataclass(frozen=True)
class DatasetInfo:
    """One line of the list of data sets.

    `size`: images in train, valid and test. `shape`: (c, h, w), (2,) for points, or (length,) for texts.
    `levels`: grey levels, None for points, symbols of texts. `labels`: number of classes, None without labels.
    `here`: whether it loads without a download; `where`: the directory in which its files are looked for, or how it
    comes about.
    """

    name: str
    size: tuple[int, int, int]
    shape: tuple[int, ...]
    levels: int | None
    labels: int | None
    factors: tuple[str, ...]
    here: bool
    where: str
    description: str


def default_data_dir() -> Path:
    """PROBGEN_DATA if set, else `probgen` in XDG_CACHE_HOME (an absolute path) or in ~/.cache."""
    chosen = os.environ.get("PROBGEN_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "")  # the XDG specification: ignore a relative one
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "probgen"


def describe_datasets(data_dir: str | Path | None = None) -> list[DatasetInfo]:
    """All data sets by name, without loading one: of files only the existence is looked at."""
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    return [
        *_built_in(),
        *_toys(),
        _stacked_mnist(root),
        *(_benchmark(name, root) for name in _BENCHMARKS),
        _binarized_mnist(root),
        _sea_log(),
    ]


def _built_in() -> list[DatasetInfo]:
    held_out = tenths(SPRITE_COUNT, "sprites")
    sprites = (SPRITE_COUNT - sum(held_out), *held_out)
    text = f"drawn glyphs with known factors; sprites:NUM for another number than {SPRITE_COUNT}"
    return [
        DatasetInfo(
            "digits",
            DIGITS_SPLIT,
            (1, 8, 8),
            17,
            10,
            (),
            True,
            "with scikit-learn",
            "small handwritten digits",
        ),
        DatasetInfo(
            "sprites",
            sprites,
            (1, 28, 28),
            256,
            len(GLYPH_NAMES),
            SPRITE_FACTORS,
            True,
            "drawn on demand",
            text,
        ),
    ]


def _toys() -> list[DatasetInfo]:
    kinds = {
        "ring": (8, "8 Gaussians on a circle, density known"),
        "grid": (25, "25 Gaussians on a 5×5 grid, density known"),
        "moons": (2, "two interleaved half circles with noise"),
        "spiral": (2, "two spiral arms with noise"),
    }
    size = (TOY_COUNT, TOY_HELD_OUT, TOY_HELD_OUT)
    return [
        DatasetInfo(name, size, (2,), None, labels, (), True, "drawn on demand", f"{text}; {name}:NUM trains on NUM")
        for name, (labels, text) in kinds.items()
    ]


_BENCHMARKS = {
    "mnist": "handwritten digits",
    "fashion-mnist": "pictures of clothes",
    "kmnist": "cursive Japanese characters",
    "cifar10": "colour photographs",
}
BENCHMARK_NAMES = tuple(_BENCHMARKS)
DATASET_NAMES = ("digits", *COUNTED_NAMES, *BENCHMARK_NAMES, "binarized-mnist", *TEXT_NAMES)


def _benchmark(name: str, root: Path) -> DatasetInfo:
    files = benchmark_files(name, root)
    if name in IDX_FOLDERS:
        shape, where = (1, 28, 28), files[0].parent
        here = all(file.is_file() or file.with_name(file.name + ".gz").is_file() for file in files)
    else:
        shape, where = (3, 32, 32), root / CIFAR_FOLDER
        here = all(file.is_file() for file in files) or (root / CIFAR_ARCHIVE).is_file()
    return DatasetInfo(name, benchmark_sizes(name), shape, 256, 10, (), here, str(where), _BENCHMARKS[name])


def _stacked_mnist(root: Path) -> DatasetInfo:
    mnist = _benchmark("mnist", root)
    text = f"three digits of MNIST as colours, 1000 modes; {STACKED_NAME}:NUM trains on NUM"
    shape, factors = (3, *mnist.shape[1:]), STACKED_FACTORS
    return DatasetInfo(STACKED_NAME, STACKED_SPLIT, shape, 256, 1000, factors, mnist.here, mnist.where, text)


def _binarized_mnist(root: Path) -> DatasetInfo:
    here = all(any(path.is_file() for path in binarized_candidates(root, split)) for split in BINARIZED_SPLIT)
    train, valid, test = BINARIZED_SPLIT.values()
    where, text = str(root / "binarized_mnist"), "MNIST in zeros and ones, as in Larochelle & Murray (2011)"
    return DatasetInfo("binarized-mnist", (train, valid, test), (1, 28, 28), 2, None, (), here, where, text)


def _sea_log() -> DatasetInfo:
    text = "sentences of a harbour, by characters; sea-log:words by words"
    return DatasetInfo("sea-log", (577, 71, 71), (66,), 45, None, (), True, "with this package", text)
