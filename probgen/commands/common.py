"""What several commands need: a run with its model, data, device and seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.data import ImageData, Split, load_data
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.models.contracts import NO_DENSITY, Kind, kind_of
from probgen.runs import Run, load


@dataclass(frozen=True)
class OpenedRun:
    """A trained model and where it came from."""

    run: Run
    model: Any
    device: torch.device

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(c, h, w), or (2,) for toys."""
        return self.run.config.image_shape

    @property
    def levels(self) -> int | None:
        """Number of grey levels, None for real-valued data."""
        return self.run.config.levels

    def data(self, data_dir: Path | None = None) -> ImageData:
        """The data set that the run was trained on. Raises UserError when it has another shape by now."""
        config = self.run.config
        data = load_data(config.data, data_dir=data_dir or config.data_dir, binarize=config.binarize)
        check_data(data, config.image_shape, config.levels, config.vocabulary)
        return data

    def split(self, name: str, data_dir: Path | None = None, num: int | None = None) -> Tensor:
        """The first `num` images of a split (all of them without it), on the run's device."""
        split = self.whole_split(name, data_dir)
        rows = torch.arange(len(split) if num is None else min(num, len(split)))
        return split.batch(rows).to(self.device)

    def spread(self, name: str, num: int, data_dir: Path | None = None) -> tuple[Tensor, Tensor | None]:
        """`num` images evenly spread over a split, and their labels: some files are sorted."""
        split = self.whole_split(name, data_dir)
        rows = torch.linspace(0, len(split) - 1, min(num, len(split))).round().long()
        return split.batch(rows).to(self.device), None if split.labels is None else split.labels[rows]

    def whole_split(self, name: str, data_dir: Path | None) -> Split:
        """A split by its name."""
        if name not in ("train", "valid", "test"):
            raise UserError(f"split {name!r} came, expected train, valid or test")
        split: Split = getattr(self.data(data_dir), name)
        return split


def open_run(path: Path, model: str | None, device: str, seed: int | None = None) -> OpenedRun:
    """Load a run; with a seed, seed every generator."""
    chosen = choose_device(device)
    run = Run.open(path)
    loaded = load(path, model, device=str(chosen))
    if seed is not None:
        pyro.set_rng_seed(seed)
    return OpenedRun(run, loaded, chosen)


def choose_device(name: str) -> torch.device:
    """`auto`: the GPU where there is one. Raises UserError for a device that isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} came, expected auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices found): use --device cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} came, expected auto, cpu or cuda")
    return device


def check_data(
    data: ImageData, image_shape: tuple[int, ...], levels: int | None, vocabulary: tuple[str, ...] | None = None
) -> None:
    """The data are of the shape, levels and vocabulary that the run was trained on."""
    if (data.vocabulary or vocabulary) and (data.image_shape, data.vocabulary) != (tuple(image_shape), vocabulary):
        raise UserError(
            f"{data.name} has other symbols or longer sentences than the run was trained on: it has changed"
        )
    if (data.image_shape, data.levels) != (tuple(image_shape), levels):
        raise UserError(
            f"{data.name} has images of shape {data.image_shape} and {data.levels} levels, but the run was trained on "
            f"shape {tuple(image_shape)} and {levels} levels: the data have changed"
        )


def output_file(path: Path, *suffixes: str) -> Path:
    """A file to write, of one of these types. Raises UserError for another, or a place that can't be written."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path} came, expected a file that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}")
    if path.is_dir():
        raise UserError(f"{path} is a directory, expected a file name")
    return path


def check_num(num: int, most: int = 1_000_000) -> int:
    """A number of images that can be made."""
    if not 1 <= num <= most:
        raise UserError(f"--num {num} came, expected 1 to {most:,}")
    return num


def need_density(opened: OpenedRun, what: str) -> None:
    """Raise UserError for a model without a density, saying why there is no `what`."""
    kind = kind_of(opened.model)
    if kind in (Kind.NONE, Kind.IMPLICIT):
        raise UserError(f"there is no {what}: {NO_DENSITY if kind is Kind.IMPLICIT else opened.model.no_density}")


def save_picture(path: Path, picture: bytes) -> None:
    """Write a picture."""
    write_atomic(path, picture)
