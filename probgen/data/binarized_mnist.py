"""The statically binarized MNIST of the density-estimation literature.

Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks"; the split is that of
Larochelle & Murray (2011), "The neural autoregressive distribution estimator".
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from probgen.data.arrays import one_line
from probgen.data.split import RawData, contiguous_splits
from probgen.errors import UserError

BINARIZED_SPLIT = {"train": 50_000, "valid": 10_000, "test": 10_000}
_PIXELS = 28 * 28


def binarized_candidates(data_dir: Path, split: str) -> list[Path]:
    """Where the file of a split may lie, in order of preference."""
    name = f"binarized_mnist_{split}.amat"
    folders = (data_dir / "binarized_mnist", data_dir)
    return [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]


def load_binarized_mnist(data_dir: Path) -> RawData:
    """50,000 / 10,000 / 10,000 binary images 1×28×28 without labels.

    Raises:
        UserError: a file that is missing (there is no download), cannot be read, or is not what it should be.
    """
    sizes = tuple(BINARIZED_SPLIT.values())
    images = torch.empty(sum(sizes), 1, 28, 28, dtype=torch.uint8)
    splits = contiguous_splits(*sizes)
    for split, rows in zip(BINARIZED_SPLIT, splits, strict=True):
        path = next((path for path in binarized_candidates(data_dir, split) if path.is_file()), None)
        if path is None:
            raise UserError(
                f"binarized-mnist: binarized_mnist_{split}.amat not found: put binarized_mnist_"
                f"{{train,valid,test}}.amat (or .amat.gz) into {data_dir / 'binarized_mnist'}; "
                "there is no download for them"
            )
        images[rows] = read_amat(path, BINARIZED_SPLIT[split]).view(-1, 1, 28, 28)
    return RawData(images, splits, 2)


def read_amat(path: Path, count: int) -> UInt8[Tensor, "n 784"]:
    """Read `count` rows of 784 zeros and ones, each separated from the next by one blank.

    Raises:
        UserError: truncated, corrupt, of another shape, or with anything but zeros and ones in it.
    """
    raw = _read_bytes(path, limit=count * (2 * _PIXELS + 2) + 1)
    raw = raw if raw.endswith(b"\n") else raw + b"\n"
    width = raw.find(b"\n") + 1  # 2·784, or one more where each line ends in a blank or a carriage return
    if width not in (2 * _PIXELS, 2 * _PIXELS + 1) or len(raw) != count * width:
        raise UserError(
            f"{path}: {raw.count(10)} rows, the first of {len(raw[:width].split())} numbers, came; expected "
            f"{count} rows of {_PIXELS} zeros and ones separated by single blanks: get the file anew"
        )
    lines = np.frombuffer(raw, np.uint8).reshape(count, width)
    pixels = lines[:, : 2 * _PIXELS : 2]
    right = ((pixels | 1) == ord("1")).all(axis=1) & (lines[:, 1 : 2 * _PIXELS - 1 : 2] == ord(" ")).all(axis=1)
    right &= np.isin(lines[:, 2 * _PIXELS - 1 :], (ord(" "), ord("\r"), ord("\n"))).all(axis=1)
    if not right.all():
        row = int(np.argmin(right))
        raise UserError(
            f"{path}: row {row + 1} is not {_PIXELS} zeros and ones separated by single blanks: get the file anew"
        )
    return torch.from_numpy(pixels & 1)


def _read_bytes(path: Path, limit: int) -> bytes:
    """The unpacked bytes of the file, but never more than `limit`: a small archive can hold a huge one."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            return stream.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is truncated, corrupt or unreadable ({one_line(error)}): get the file anew") from error
