"""The user's own images from a .npz or .npy file, split 80/10/10."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probgen.data.arrays import (
    as_bchw,
    check_header,
    check_labels,
    check_size,
    find_levels,
    one_line,
    to_uint8,
)
from probgen.data.folder import IMAGE_SUFFIXES, load_folder
from probgen.data.split import RawData, random_splits, tenths
from probgen.errors import UserError

# What NumPy and zipfile raise on a file that is not what its name says.
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def load_path(path: Path) -> RawData:
    """Images from a .npz file, a .npy file or a folder.

    Raises:
        UserError: nothing there, another kind of file, or content that cannot be used.
    """
    if path.is_dir():
        return load_folder(path)
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder: give a .npz or .npy file or a folder of images")
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy"):
        hint = f", e.g. its folder {path.parent}" if suffix in IMAGE_SUFFIXES else ""
        raise UserError(
            f"{path}: cannot read {suffix or 'a file without suffix'}: give a .npz or .npy file or a folder "
            f"of images{hint}"
        )
    try:
        start = _first_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error
    if not start:
        raise UserError(f"{path} is empty (0 bytes): write the file anew")
    return load_npz(path) if suffix == ".npz" else load_npy(path)


def load_npz(path: Path) -> RawData:
    """`images` (n h w | n h w c | n c h w; whole numbers), optional `labels` (n) and `levels` (scalar).

    Without `levels` there are 2 if no value exceeds 1, else 256.

    Raises:
        UserError: truncated or corrupt, no `images`, pickled objects, values or shapes that are no images.
    """
    arrays = _read_npz(path)
    source = f"{path}: images"
    images = to_uint8(as_bchw(arrays["images"], source), source)
    levels = find_levels(images, _declared_levels(arrays, path), source)
    labels = check_labels(arrays["labels"], len(images), f"{path}: labels") if "labels" in arrays else None
    splits = random_splits(len(images), *tenths(len(images), str(path)))
    return RawData(torch.from_numpy(np.ascontiguousarray(images)), splits, levels, labels=labels)


def load_npy(path: Path) -> RawData:
    """One array of images (n h w | n h w c | n c h w); a uint8 array stays in its file, memory-mapped.

    To know whether there are 2 or 256 levels, the file is read up to the first value above 1, in pieces.

    Raises:
        UserError: truncated or corrupt, pickled objects, or values and shapes that are no images.
    """
    source = str(path)
    try:
        with open(path, "rb") as stream:
            shape, dtype = _read_header(stream, source)
        if dtype != np.uint8:
            check_size(shape, np.dtype(np.uint8), source)
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False) if 0 not in shape else np.empty(shape)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"{path} {_diagnosis(path)} ({one_line(error)}): write it anew with np.save") from error
    images = to_uint8(as_bchw(mapped, source), source)
    levels = find_levels(images, None, source)
    splits = random_splits(len(images), *tenths(len(images), source))
    return RawData(images if dtype == np.uint8 else torch.from_numpy(images), splits, levels)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays that we know, each looked at before it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "images" not in names:
                raise UserError(
                    f"{path} holds {', '.join(names[:10]) or 'nothing'}, expected an array `images`: "
                    "write it with np.savez(path, images=…, labels=…)"
                )
            return {name: _read_member(archive, name, path) for name in names if name in _MEMBERS}
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"{path} {_diagnosis(path)} ({one_line(error)}): write it anew with np.savez") from error


_MEMBERS = ("images", "labels", "levels")


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    source = f"{path}: {name}"
    with archive.open(f"{name}.npy") as stream:
        shape, dtype = _read_header(stream, source)
    check_size(shape, dtype, source)
    held = archive.getinfo(f"{name}.npy").file_size
    if held < math.prod(shape) * dtype.itemsize:
        raise UserError(f"{source} declares {shape} {dtype} but holds {held} bytes only: write it anew with np.savez")
    with archive.open(f"{name}.npy") as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _read_header(stream: Any, source: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that a .npy file declares; a ValueError where there is no such header.

    `stream` is anything with `read`: a member of an archive is no `IO[bytes]` at run time.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # 3.0 serves field names in Unicode, and records are no images
        raise UserError(f"{source} is a .npy of version {version}, expected 1.0 or 2.0: write a plain array of numbers")
    check_header(shape, dtype, source)
    return shape, dtype


def _declared_levels(arrays: dict[str, np.ndarray], path: Path) -> int | None:
    if "levels" not in arrays:
        return None
    levels = arrays["levels"]
    if levels.size != 1 or levels.dtype.kind not in "ui":
        raise UserError(f"{path}: levels is {levels.dtype} {levels.shape}, expected one integer such as 256")
    return int(levels.item())


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(6)


def _diagnosis(path: Path) -> str:
    """What is wrong with a .npz or .npy file that cannot be read."""
    start, suffix = _first_bytes(path), path.suffix.lower()
    if start.startswith(b"\x80"):
        return "is a pickle, which is refused and never unpickled"
    kind = {b"PK": ".npz", b"\x93N": ".npy"}.get(start[:2])
    if kind is None:
        return f"is not a {suffix} file"
    return "is truncated or corrupt" if kind == suffix else f"is a {kind} file by its content"
