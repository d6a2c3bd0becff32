"""The 8×8 digits that come with scikit-learn: a real data set that needs no download."""

import numpy as np
import torch

from probgen.data.split import RawData, random_splits

DIGITS_SPLIT = (1257, 180, 360)


def load_digits_data() -> RawData:
    """1,797 images 1×8×8 of 17 grey levels with labels 0 … 9: 1,257 train, 180 valid, 360 test.

    Source: the test set of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, 1998).
    """
    from sklearn.datasets import load_digits  # takes a second to import: only here

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return RawData(images, random_splits(sum(DIGITS_SPLIT), *DIGITS_SPLIT[1:]), 17, labels=labels)
