"""Which images are in which batch: a pure function of the seed and the step."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from probgen.errors import UserError

EPOCHS_APART = 1_000_003  # seeds of two runs meet only after that many epochs


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
