"""Grey images to zeros and ones, in the three ways of the literature."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from probgen.errors import UserError

BINARIZATIONS = ("none", "threshold", "static", "dynamic")
_STATIC_SEED = 20_080_501
_CHUNK_PIXELS = 2**20


@dataclass(frozen=True)
class Binarizer:
    """Zeros and ones from images of `levels` grey levels.

    `threshold`: 1 where x ≥ (levels-1)/2. `static`: x_bin ~ Bernoulli(x/(levels-1)), drawn once and for all:
    pixel j of image number i is decided by number i·(c·h·w)+j of one PCG64 stream of fixed seed, thus the
    draw is the same on every machine and whatever the batches are. `dynamic`: the same law, drawn anew at
    every call from torch's global generator.
    """

    methods: ClassVar[tuple[str, ...]] = BINARIZATIONS[1:]

    method: str
    levels: int

    def __call__(self, images: UInt8[Tensor, "b c h w"], rows: Int64[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """The binary images; `rows` are the images' numbers in the data set, which the static draw needs."""
        top = self.levels - 1
        if self.method == "threshold":
            return (images >= (top + 1) // 2).to(torch.uint8)
        if self.method == "dynamic":
            return _fresh_draw(images, top)
        binary = _static_draw(images.numpy(force=True), rows.numpy(force=True), top)
        return torch.from_numpy(binary).to(images.device)


def check_binarize(binarize: str, levels: int | None, name: str) -> None:
    """Refuse what `binarize` cannot mean for data of this many grey levels (None: points in the plane).

    Raises:
        UserError: an unknown choice; any choice but "none" for points; "dynamic" for binary images.
    """
    if binarize not in BINARIZATIONS:
        raise UserError(f"unknown binarization {binarize!r}: choose one of {', '.join(BINARIZATIONS)}")
    if levels is None and binarize != "none":
        raise UserError(f"{name} holds points in the plane, which have no grey levels: leave binarize at 'none'")
    if levels == 2 and binarize == "dynamic":
        raise UserError(
            f"{name} is already binary, so there is no intensity to draw from: use binarize='none' instead of 'dynamic'"
        )


def _fresh_draw(images: UInt8[Tensor, "b c h w"], top: int) -> UInt8[Tensor, "b c h w"]:
    """Bernoulli(x/top) per pixel, from torch's global generator."""
    if images.device.type == "cpu" and top in (16, 255):
        return torch.from_numpy(_one_byte_each(images.numpy(), top))
    return (torch.rand(images.shape, device=images.device) * top < images).to(torch.uint8)


def _one_byte_each(images: np.ndarray, top: int) -> np.ndarray:
    """u < x, u from a byte: exactly with probability x/top.

    top 16: u uniform on 0 … 15. top 255: u uniform on 0 … 255 but for x, of which x lie below; that is, u is drawn
    again where it is x. Eight u come from one of torch's numbers: to draw was the dearest part of a batch.
    """
    grey = images.reshape(-1)
    words = torch.empty(-(-grey.size // 8), dtype=torch.int64).random_(-(2**63), None)
    u = words.numpy().view(np.uint8)[: grey.size]
    if top == 16:
        u &= 15
        return np.less(u, grey).view(np.uint8).reshape(images.shape)
    binary, ties = np.less(u, grey), np.flatnonzero(u == grey)
    while len(ties):
        again, bound = torch.randint(256, (len(ties),)).numpy(), grey[ties]
        binary[ties], ties = again < bound, ties[again == bound]
    return binary.view(np.uint8).reshape(images.shape)


def _static_draw(images: np.ndarray, rows: np.ndarray, top: int) -> np.ndarray:
    """Bernoulli(x/top) per pixel, the uniform numbers found by the image's number."""
    binary = np.empty(images.shape, np.uint8)
    flat, drawn = images.reshape(len(images), -1), binary.reshape(len(images), -1)
    size = flat.shape[1]
    step = max(1, _CHUNK_PIXELS // size)
    for start in range(0, len(images), step):
        chunk = slice(start, start + step)
        # u < x/top in float64: exact for x = 0 and x = top, and the same on every machine.
        np.less(_uniforms(rows[chunk], size), flat[chunk] / top, out=drawn[chunk], casting="unsafe")
    return binary


def _uniforms(rows: np.ndarray, size: int) -> np.ndarray:
    """Numbers i·size … (i+1)·size-1 of the stream for each i in `rows`: shape (len(rows), size)."""
    bits = np.random.PCG64(_STATIC_SEED)
    generator = np.random.Generator(bits)
    bits.advance(int(rows[0]) * size)
    if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return generator.random((len(rows), size))
    uniforms, position = np.empty((len(rows), size)), int(rows[0])
    for place, row in enumerate(rows.tolist()):
        bits.advance((row - position) * size)  # a double takes one step of the generator; back is allowed
        uniforms[place] = generator.random(size)
        position = row + 1
    return uniforms
