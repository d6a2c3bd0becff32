"""MNIST's place taken by the small digits of scikit-learn, so that stacked images need no files."""

import functools

import pytest
import torch

from probgen.data import ImageData, load_data
from probgen.data.digits import load_digits_data
from probgen.data.split import RawData, contiguous_splits

SPLITS = contiguous_splits(1257, 180, 360)


@functools.cache
def small_mnist() -> RawData:
    """1,797 digits of 8 × 8 pixels and 17 of 256 levels, shuffled: the last ones were written by other hands."""
    digits = load_digits_data()
    order = torch.cat(digits.splits)
    return RawData(digits.images[order] * 15, SPLITS, 256, labels=digits.labels[order])


def load_fake(name: str, patch: pytest.MonkeyPatch, binarize: str = "none") -> ImageData:
    """A stacked data set of small digits."""
    with patch.context() as context:
        context.setattr("probgen.data.stacked.load_benchmark", lambda name, root: small_mnist())
        return load_data(name, binarize=binarize)
