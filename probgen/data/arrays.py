"""Foreign arrays to uint8 images: every doubt about their values and shapes is settled here."""

import math

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from probgen.errors import UserError

SIZE_LIMIT = 16 * 2**30
"""Bytes of an array that are read into memory at most; a uint8 .npy may be larger, it stays in its file."""

_CHUNK_BYTES = 2**24


def check_header(shape: tuple[int, ...], dtype: np.dtype, source: str) -> None:
    """Refuse an array by what its header declares, before a byte of its content is read.

    Raises:
        UserError: pickled objects, anything that is not a number, an impossible shape.
    """
    if dtype.hasobject:
        raise UserError(f"{source} holds pickled Python objects, which are refused and never unpickled: save numbers")
    if dtype.kind not in "biuf":
        raise UserError(f"{source} is an array of {dtype}, expected numbers (integers 0 … 255)")
    if any(size < 0 for size in shape):
        raise UserError(f"{source} declares the impossible shape {shape}: the file is corrupt")


def check_size(shape: tuple[int, ...], dtype: np.dtype, source: str) -> None:
    """Refuse what would not fit into memory.

    Raises:
        UserError: more than SIZE_LIMIT bytes.
    """
    size = math.prod(shape) * dtype.itemsize
    if size > SIZE_LIMIT:
        raise UserError(
            f"{source} declares {size / 2**30:,.0f} GiB {shape}, at most {SIZE_LIMIT // 2**30} GiB are read "
            "into memory: save the images as a uint8 .npy file, which is mapped instead"
        )


def as_bchw(array: np.ndarray, source: str) -> np.ndarray:
    """The same memory seen as `n c h w`: from n h w, n h w c or n c h w, c = 1 or 3.

    Of four axes the last one is taken for the channels if it is 1 or 3, else the second.

    Raises:
        UserError: another number of axes, another number of channels, no image, or images without a pixel.
    """
    if array.ndim not in (3, 4):
        raise UserError(
            f"{source} has the shape {array.shape}, expected n h w, n h w c or n c h w with 1 or 3 channels"
        )
    if len(array) == 0:
        raise UserError(f"{source} holds no image (shape {array.shape}): give at least 3")
    if 0 in array.shape:
        raise UserError(f"{source} holds images without a pixel (shape {array.shape})")
    if array.ndim == 3:
        return array[:, None]
    if array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    if array.shape[1] in (1, 3):
        return array
    raise UserError(
        f"{source} has the shape {array.shape}, in which neither the last nor the second axis is 1 or 3 "
        "channels: expected n h w, n h w c or n c h w"
    )


def to_uint8(array: np.ndarray, source: str) -> np.ndarray:
    """The array as uint8, itself if it is one, else copied piece by piece after a look at each value.

    Raises:
        UserError: NaN or infinite values, fractions, values below 0 or above 255.
    """
    if array.dtype == np.uint8:
        return array
    result = np.empty(array.shape, np.uint8)
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        chunk = array[start : start + step]
        _check_values(chunk, source)
        result[start : start + step] = chunk
    return result


def find_levels(array: np.ndarray, declared: int | None, source: str) -> int:
    """The number of grey levels: the declared one, else 2 if no value exceeds 1, else 256.

    Reads piece by piece, and without a declaration only up to the first value above 1.

    Raises:
        UserError: a declaration outside 2 … 256, or values above levels-1.
    """
    if declared is not None and not 2 <= declared <= 256:
        raise UserError(f"{source} declares {declared} grey levels, expected 2 … 256")
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        highest = int(array[start : start + step].max())
        if declared is None and highest > 1:
            return 256
        if declared is not None and highest >= declared:
            raise UserError(
                f"{source} holds the value {highest}, but {declared} levels are 0 … {declared - 1}: "
                "correct `levels` or the images"
            )
    return 2 if declared is None else declared


def check_labels(labels: np.ndarray, count: int, source: str) -> Int64[Tensor, "n"]:
    """Class labels as int64.

    Raises:
        UserError: not integers, not one for each image, or negative.
    """
    if labels.dtype.kind not in "bui":
        raise UserError(f"{source} are an array of {labels.dtype}, expected integers: use labels.astype(int)")
    if labels.shape != (count,):
        raise UserError(f"{source} have the shape {labels.shape}, expected one label for each image: ({count},)")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int64).max:
        raise UserError(f"{source} reach from {labels.min()} to {labels.max()}, expected class numbers 0, 1, 2, …")
    return torch.from_numpy(labels.astype(np.int64))


def one_line(error: BaseException) -> str:
    """The message of another library's exception without its line breaks; its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_values(chunk: np.ndarray, source: str) -> None:
    if chunk.dtype.kind == "b":
        return
    low, high = chunk.min(), chunk.max()
    # A NaN anywhere makes both extremes NaN.
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{source} holds NaN or infinite values, expected integers 0 … 255: clean the data")
    if low < 0 or high > 255:
        raise UserError(
            f"{source} holds values from {low:g} to {high:g}, expected integers 0 … 255: shift and scale the images"
        )
    if chunk.dtype.kind == "f" and not np.array_equal(chunk, np.trunc(chunk)):
        hint = "multiply by 255 and round" if high <= 1 else "round them"
        fraction = chunk[chunk != np.trunc(chunk)][0]
        raise UserError(f"{source} holds fractions such as {fraction:g}, expected integers 0 … 255: {hint}")
