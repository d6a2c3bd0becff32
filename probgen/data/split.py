"""What a model is trained on: integer images in storage, and a batch of them on demand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from probgen.data.binarize import Binarizer, check_binarize
from probgen.errors import UserError

Rows = slice | Tensor
"""Which rows of the storage: a slice stays a view, an int64 tensor of row numbers is looked up."""


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, with their labels and factors.

    `storage` holds integer images `b c h w` (uint8), or points `b 2` (float32). It is a tensor, or a
    memory-mapped array: then `rows` says which of its images belong to the split, and nothing is read
    before `batch` asks for it. `binarizer` is what `batch` still has to apply (None: nothing).
    """

    storage: Tensor | np.ndarray
    labels: Int64[Tensor, "b"] | None = None
    factors: dict[str, Tensor] | None = None
    rows: Int64[Tensor, "b"] | None = None
    binarizer: Binarizer | None = None
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.storage) if self.rows is None else len(self.rows)

    @property
    def images(self) -> Shaped[Tensor, "b ..."]:
        """All images of the split, `b c h w` uint8 (points: `b 2` float32).

        Of a memory-mapped file this reads the whole split into memory; `batch` reads only its rows.
        Under dynamic binarization these are the grey images, for the draw belongs to a batch.
        """
        if isinstance(self.storage, Tensor) and self.rows is None and not self._fixed:
            return self.storage
        return self._read(torch.arange(len(self)), draw=False)

    def batch(self, rows: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """The images `n c h w` of the given rows (0 … len-1, in any order) as a model sees them.

        Dynamic binarization draws anew from torch's global generator at every call.

        Raises:
            IndexError: a row outside 0 … len-1.
        """
        return self._read(rows, draw=True)

    def to(self, device: torch.device | str) -> "Split":
        """The split on `device`; memory-mapped images stay in their file and each batch is moved."""
        device = torch.device(device)
        factors = self.factors and {name: value.to(device) for name, value in self.factors.items()}
        labels = None if self.labels is None else self.labels.to(device)
        storage = self.storage.to(device) if isinstance(self.storage, Tensor) else self.storage
        return replace(self, storage=storage, labels=labels, factors=factors, device=device)

    @property
    def _fixed(self) -> bool:
        return self.binarizer is not None and self.binarizer.method != "dynamic"

    def _read(self, rows: Int64[Tensor, "n"], draw: bool) -> Shaped[Tensor, "n ..."]:
        if self.rows is not None:
            rows = self.rows.index_select(0, rows.to(self.rows.device))
        if isinstance(self.storage, Tensor):
            images = self.storage.index_select(0, rows.to(self.storage.device))
        else:
            images = torch.from_numpy(np.ascontiguousarray(self.storage[rows.numpy(force=True)]))
        if self.binarizer is not None and (draw or self._fixed):
            images = self.binarizer(images, rows)
        return images if self.device is None else images.to(self.device)


@dataclass(frozen=True, eq=False)
class Modes:
    """The modes of a mixture of equal Gaussians in the plane: `centers` (m 2) and their common `sigma`."""

    centers: Float32[Tensor, "m 2"]
    sigma: float


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in three splits, with all that a fair comparison has to know of it.

    `levels` is the number of grey levels of the images that a model sees (2 after any binarization), None
    for points in the plane; `image_shape` is (c, h, w), or (2,) for points; `factor_names` is empty where
    no generative factors are known. Toys of known density carry `log_density` ((b 2) → (b), in nats) and
    their `modes`. Texts carry their `vocabulary`; their shape is (length,), their levels its symbols.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    levels: int | None
    image_shape: tuple[int, ...]
    binarize: str = "none"
    factor_names: tuple[str, ...] = ()
    log_density: Callable[[Float[Tensor, "b 2"]], Float[Tensor, "b"]] | None = None
    modes: Modes | None = None
    vocabulary: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int | None:
        """Labels are 0 … num_classes − 1; None where there are none."""
        labels = [split.labels for split in (self.train, self.valid, self.test) if split.labels is not None]
        return max(int(part.max()) for part in labels) + 1 if labels else None

    @property
    def facts(self) -> dict[str, Any]:
        """What a model is built for."""
        names = ("image_shape", "levels", "num_classes", "vocabulary")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class RawData:
    """What a loader returns: all images in one storage, and the rows of train, valid and test.

    `images` is a uint8 tensor `n c h w`, a memory-mapped uint8 array of that shape, or float32 points `n 2`;
    or numbered symbols `n length` of a `vocabulary`.
    """

    images: Tensor | np.ndarray
    splits: tuple[Rows, Rows, Rows]
    levels: int | None
    labels: Int64[Tensor, "n"] | None = None
    factors: dict[str, Tensor] | None = None
    log_density: Callable[[Float[Tensor, "b 2"]], Float[Tensor, "b"]] | None = None
    modes: Modes | None = None
    vocabulary: tuple[str, ...] | None = None


def random_splits(count: int, valid: int, test: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of train, valid and test: the permutation of `RandomState(0)`, cut in this order.

    The legacy generator, because NumPy froze its stream: the same split in every version.
    """
    order = torch.from_numpy(np.random.RandomState(0).permutation(count)).long()
    train = count - valid - test
    return order[:train], order[train : train + valid], order[train + valid :]


def contiguous_splits(train: int, valid: int, test: int) -> tuple[slice, slice, slice]:
    """The rows in the order in which they came: first train, then valid, then test."""
    return slice(0, train), slice(train, train + valid), slice(train + valid, train + valid + test)


def tenths(count: int, source: str) -> tuple[int, int]:
    """Sizes of valid and test where a tenth of the images goes to each, at least one image.

    Raises:
        UserError: fewer than three images, one for each split.
    """
    if count < 3:
        raise UserError(
            f"{source} holds {count} image{'s' * (count != 1)}, and train, valid and test need one each: "
            "give at least 3 images"
        )
    return max(1, count // 10), max(1, count // 10)


def assemble(name: str, raw: RawData, binarize: str) -> ImageData:
    """Binarize the images and cut them into the three splits.

    Raises:
        UserError: an unknown binarization, or one that makes no sense for these data.
    """
    check_binarize(binarize, raw.levels, name)
    if raw.vocabulary is not None and binarize != "none":
        raise UserError(f"{name} is a text, which has no grey levels to binarize: leave binarize at 'none'")
    fixed, dynamic = None, None
    if binarize != "none" and raw.levels is not None and raw.levels > 2:
        # Under "dynamic" valid and test are drawn once, so that two evaluations score the same images.
        fixed = Binarizer("static" if binarize == "dynamic" else binarize, raw.levels)
        dynamic = Binarizer("dynamic", raw.levels) if binarize == "dynamic" else None
    train, valid, test = (
        _cut(raw, rows, binarizer) for rows, binarizer in zip(raw.splits, (dynamic or fixed, fixed, fixed), strict=True)
    )
    return ImageData(
        name=name,
        train=train,
        valid=valid,
        test=test,
        levels=raw.levels if binarize == "none" else 2,
        image_shape=tuple(raw.images.shape[1:]),
        binarize=binarize,
        factor_names=tuple(raw.factors or ()),
        log_density=raw.log_density,
        modes=raw.modes,
        vocabulary=raw.vocabulary,
    )


def _cut(raw: RawData, rows: Rows, binarizer: Binarizer | None) -> Split:
    labels = None if raw.labels is None else raw.labels[rows]
    factors = raw.factors and {name: value[rows] for name, value in raw.factors.items()}
    numbers = torch.arange(len(raw.images))[rows]
    if not isinstance(raw.images, Tensor):
        return Split(raw.images, labels, factors, rows=numbers, binarizer=binarizer)
    images = raw.images[rows]
    if binarizer is not None and binarizer.method != "dynamic":
        # In memory a fixed binarization is paid once; a mapped file pays it per batch, with the same result.
        images, binarizer = binarizer(images, numbers), None
    return Split(images, labels, factors, binarizer=binarizer)
