"""MNIST, Fashion-MNIST, KMNIST and CIFAR-10 through torchvision, as one uint8 tensor each."""

import contextlib
import http.client
import pickle
import socket
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probgen.data.split import RawData, contiguous_splits
from probgen.errors import UserError

IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""Name → torchvision's class, which is also the folder under the data directory."""
IDX_FILES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
"""File → its size in bytes."""
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

_TIMEOUT_S = 15.0
# What a download without a network, a full disk or a broken archive raises.
_DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, zlib.error, tarfile.TarError)
# What torchvision's readers raise on a file that is not what its name says.
_READ_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AssertionError,
    pickle.UnpicklingError,
)


def load_benchmark(name: str, data_dir: Path) -> RawData:
    """The official test split; the last 10,000 training images (CIFAR-10: 5,000) are valid.

    What is not under `data_dir` is downloaded to it.

    Raises:
        UserError: not there and no download possible; a file that is truncated or corrupt.
    """
    import torchvision  # takes a second to import: only here

    dataset = getattr(torchvision.datasets, IDX_FOLDERS.get(name, "CIFAR10"))
    if not all(path.is_file() for path in benchmark_files(name, data_dir)):
        _download(name, dataset, data_dir)
    for path in benchmark_files(name, data_dir):
        _check_file(name, path)
    images, labels = zip(*(_read(name, dataset, data_dir, train) for train in (True, False)), strict=True)
    splits = contiguous_splits(*benchmark_sizes(name))
    return RawData(torch.cat(images), splits, 256, labels=torch.cat(labels))


def benchmark_sizes(name: str) -> tuple[int, int, int]:
    """Numbers of train, valid and test images."""
    return (50_000, 10_000, 10_000) if name in IDX_FOLDERS else (45_000, 5_000, 10_000)


def benchmark_files(name: str, data_dir: Path) -> list[Path]:
    """The files that torchvision reads."""
    if name in IDX_FOLDERS:
        return [data_dir / IDX_FOLDERS[name] / "raw" / file for file in IDX_FILES]
    return [data_dir / CIFAR_FOLDER / file for file in CIFAR_FILES]


def _read(name: str, dataset: Any, data_dir: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Images (n c h w) and labels (n) of one of torchvision's two splits."""
    folder = benchmark_files(name, data_dir)[0].parent
    try:
        # CIFAR-10 comes as pickles, but torchvision opens them only after `_check_integrity` and
        # `_load_meta` have compared each file's MD5 with its own table, also with download=False: no
        # foreign pickle is read.
        source = dataset(data_dir, train=train, download=False)
    except _READ_ERRORS as error:
        raise UserError(f"{name}: the files in {folder} are corrupt ({_last_line(error)}): {_REPAIR}") from error
    images = torch.as_tensor(source.data)
    images = images.unsqueeze(1) if name in IDX_FOLDERS else images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(source.targets, dtype=torch.int64)
    count = sum(benchmark_sizes(name)[:2]) if train else benchmark_sizes(name)[2]
    shape = (count, 1, 28, 28) if name in IDX_FOLDERS else (count, 3, 32, 32)
    if tuple(images.shape) != shape or labels.shape != (count,) or not 0 <= labels.min() <= labels.max() <= 9:
        raise UserError(
            f"{name}: images {tuple(images.shape)} and labels {tuple(labels.shape)} came from "
            f"{folder}, expected images {shape} with a label 0 … 9 each: {_REPAIR}"
        )
    return images, labels


_REPAIR = "delete this folder, and it is downloaded again, or put sound files there"


def _check_file(name: str, path: Path) -> None:
    """Name the file that is truncated or corrupt, which torchvision's own message does not."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if name in IDX_FOLDERS:
        size, expected = path.stat().st_size, IDX_FILES[path.name]
        if size != expected:
            raise UserError(
                f"{path} is truncated or corrupt: {size} bytes, expected {expected}: "
                "delete it, and it is downloaded again, or put a sound file there"
            )
        return
    sums = dict(CIFAR10.train_list + CIFAR10.test_list + [[CIFAR10.meta["filename"], CIFAR10.meta["md5"]]])
    if not check_integrity(path, sums[path.name]):
        raise UserError(
            f"{path} is truncated or corrupt, MD5 not {sums[path.name]}; being a pickle, it is not opened: "
            "delete it, and it is downloaded again, or put a sound file there"
        )


def _download(name: str, dataset: Any, data_dir: Path) -> None:
    try:
        with _quiet_and_impatient():
            dataset(data_dir, train=True, download=True)
    except (*_DOWNLOAD_ERRORS, *_READ_ERRORS) as error:
        folder = data_dir / IDX_FOLDERS[name] / "raw" if name in IDX_FOLDERS else data_dir
        files = " ".join(f"{file}[.gz]" for file in IDX_FILES) if name in IDX_FOLDERS else CIFAR_ARCHIVE
        raise UserError(
            f"{name} is not in {folder} and could not be downloaded ({_last_line(error)}): "
            f"put {files} there, or name the directory that has {'them' if name in IDX_FOLDERS else 'it'} "
            "by data_dir or PROBGEN_DATA"
        ) from error


def _last_line(error: BaseException) -> str:
    """The reason without torchvision's list of mirrors."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


@contextlib.contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """Keep torchvision off stdout, and a network that does not answer from hanging for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
