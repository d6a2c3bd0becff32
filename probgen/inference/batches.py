"""Which images are in which batch, and what is drawn of them: a pure function of the seed and the step."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.randomness import own_randomness
from probgen.inference.traces import as_real

EPOCHS_APART = 1_000_003  # seeds of two runs meet only after that many epochs
MOST_AT_ONCE, BYTES_AT_ONCE = 64, 2**20  # batches that are fetched together, and stored bytes in them
OF_BATCHES = 1  # sets their streams apart from others of the same seed


@runtime_checkable
class Images(Protocol):
    """A set of images that gives any rows of itself."""

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, rows: Tensor) -> Tensor:
        """The images of those rows."""


class TensorImages:
    """A tensor as `Images`."""

    def __init__(self, images: Shaped[Tensor, "n *shape"], labels: Int64[Tensor, "*labels"] | None = None) -> None:
        if labels is not None and labels.shape != images.shape[:1]:
            raise UserError(f"labels of shape {tuple(labels.shape)} came, expected {(len(images),)}, one for an image")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *shape"]:
        """The images of those rows."""
        return self.images.index_select(0, rows.to(self.images.device))


def share(rows: Int64[Tensor, " b"], rank: int, world: int) -> Int64[Tensor, " n"]:
    """The rows of a batch that process `rank` of `world` takes: each row goes to one, their numbers differ by one."""
    return rows if world == 1 else rows[rank::world]


class BatchOrder:
    """Rows of batch t: places t·B … (t+1)·B − 1 of an endless row of shuffled epochs.

    Each epoch visits every image once. Batches are all of one size (an epoch's remainder is filled from the
    next epoch), and depend on nothing but the seed, so that training resumes anywhere.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self.batch_size = min(batch_size, num_images)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def steps_for(self, epochs: float) -> int:
        """Steps after which every image was seen `epochs` times."""
        return math.ceil(epochs * self.num_images / self.batch_size)

    def rows(self, step: int) -> Int64[Tensor, " b"]:
        """The rows of batch number `step`, counted from 0."""
        start = step * self.batch_size
        epoch, offset = divmod(start, self.num_images)
        rows = self._permutation(epoch)[offset : offset + self.batch_size]
        if missing := self.batch_size - len(rows):
            rows = torch.cat([rows, self._permutation(epoch + 1)[:missing]])
        return rows

    def _permutation(self, epoch: int) -> Int64[Tensor, " n"]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * EPOCHS_APART + epoch) % 2**63)
            self._epoch, self._order = epoch, torch.randperm(self.num_images, generator=generator)
        return self._order


class Batches:
    """The batches of a run, as programs are handed them: each a pure function of the seed, the step and the process.

    What `images` draws by chance, as dynamic binarization does, comes of streams of their own, the global generators
    stay where they are. Batches of small images are fetched several at once: each call of torch or NumPy has a price,
    which for a small network's step is as high as that of the arithmetic. Bytes become floats here: every kernel of a
    compiled step that read bytes would turn them into floats anew, at ten times the time of torch's own conversion.

    images: the training set, its images on `device` or to be moved there. order: whose rows. with_labels: whether a
    batch is images and their labels.
    """

    def __init__(self, images: Images, order: BatchOrder, device: torch.device, *, with_labels: bool) -> None:
        self.images, self.order, self.device, self.with_labels = images, order, device, with_labels
        self.at: tuple[int, int, int] | None = None
        self.fetched: list[tuple[Tensor, ...]] = []
        with own_randomness(0):  # what an image weighs, without a trace of having asked
            one = images.batch(torch.zeros(1, dtype=torch.int64))
        self.at_once = min(MOST_AT_ONCE, max(1, BYTES_AT_ONCE // max(1, one.nbytes * order.batch_size)))

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, ...]:
        """The batch of a step, of which process `rank` of `world` has its share; labels where they are wanted."""
        block, place = divmod(step, self.at_once)
        if self.at != (block, rank, world):
            self.fetched, self.at = self.block(block, rank, world), (block, rank, world)
        return self.fetched[place]

    def block(self, number: int, rank: int, world: int) -> list[tuple[Tensor, ...]]:
        """As many batches as are fetched at once."""
        steps = range(number * self.at_once, (number + 1) * self.at_once)
        rows = [share(self.order.rows(step), rank, world) for step in steps]
        with own_randomness(stream(self.order.seed, rank, number)):
            images = as_real(self.images.batch(torch.cat(rows)).to(self.device))
        parts = [images, *self.labels(torch.cat(rows))]
        return list(zip(*(part.split([len(each) for each in rows]) for part in parts), strict=True))

    def labels(self, rows: Int64[Tensor, " n"]) -> list[Tensor]:
        """Those of the rows, if they are wanted."""
        if not self.with_labels:
            return []
        labels: Tensor = self.images.labels  # type: ignore[attr-defined]
        return [labels[rows.to(labels.device)].to(self.device)]


def stream(seed: int, rank: int, block: int) -> int:
    """The seed of what a process draws of a block of batches."""
    return int(np.random.SeedSequence([seed % 2**63, rank, block], spawn_key=(OF_BATCHES,)).generate_state(1)[0])


def batches_of(pair: Any, images: Images, order: BatchOrder, device: torch.device) -> Batches:
    """Batches of images, and of their labels to a pair that takes them. Raises UserError where it would get none."""
    takes_labels = getattr(pair, "takes_labels", False)
    if takes_labels and getattr(images, "labels", None) is None:
        raise UserError(f"{type(pair).__name__} takes labels, but the training images came without")
    return Batches(images, order, device, with_labels=takes_labels)
