"""Stacked MNIST: three digits as the colours of one image, 1,000 modes that can be counted."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probgen.data.benchmarks import load_benchmark
from probgen.data.split import RawData, contiguous_splits
from probgen.errors import UserError

STACKED_NAME = "stacked-mnist"
STACKED_SPLIT = (50_000, 5_000, 10_000)
STACKED_MAXIMUM = 1_000_000
STACKED_FACTORS = ("digit1", "digit2", "digit3")

_SEED = 3


def load_stacked_mnist(count: int | None, data_dir: Path) -> RawData:
    """x = (x1, x2, x3), three MNIST images drawn independently; label = 100·d1 + 10·d2 + d3.

    Metz et al. (2017), "Unrolled generative adversarial networks". `count` training images (default 50,000) of
    3×28×28 and 256 levels from the training images of `mnist`, and always the same 5,000 of its valid and 10,000
    of its test images, all drawn with replacement; factors: the three digits.

    Raises:
        UserError: a count below 1 or above a million; MNIST missing or broken, as `load_benchmark`.
    """
    count = STACKED_SPLIT[0] if count is None else count
    if not 1 <= count <= STACKED_MAXIMUM:
        raise UserError(f"{STACKED_NAME}:{count} is not possible: give 1 to {STACKED_MAXIMUM} training images")
    mnist = load_benchmark("mnist", data_dir)
    assert isinstance(mnist.images, Tensor)
    assert mnist.labels is not None
    sizes = (count, *STACKED_SPLIT[1:])
    parts = zip(mnist.splits, sizes, strict=True)
    rows = torch.cat([_draw(part, size, stream) for stream, (part, size) in enumerate(parts)])
    digits = mnist.labels[rows]
    images = mnist.images[rows.reshape(-1), 0].view(len(rows), 3, *mnist.images.shape[2:])
    factors = {name: digits[:, channel].clone() for channel, name in enumerate(STACKED_FACTORS)}
    labels = digits @ torch.tensor([100, 10, 1])
    return RawData(images, contiguous_splits(*sizes), 256, labels=labels, factors=factors)


def _draw(part: slice | Tensor, count: int, stream: int) -> Tensor:
    """Rows of MNIST (count 3) from one of its splits; a stream for each, so that none depends on another's size."""
    assert isinstance(part, slice)
    generator = np.random.Generator(np.random.PCG64([_SEED, stream]))
    return torch.from_numpy(part.start + generator.integers(part.stop - part.start, size=(count, 3)))
