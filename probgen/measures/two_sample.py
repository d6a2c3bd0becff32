"""Can a classifier tell samples from data?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from probgen.errors import UserError


@dataclass(frozen=True)
class TwoSampleTest:
    """The accuracy of a classifier of samples against data: 0.5 means that they cannot be told apart.

    null_stderr: the standard error of the accuracy if they are alike, 1/(2√num_test).
    p_value: the probability of this accuracy or a higher one if they are alike.
    """

    accuracy: float
    null_stderr: float
    p_value: float
    neighbours: int
    num_train: int
    num_test: int

    @property
    def protocol(self) -> str:
        """How it was found."""
        return (
            f"accuracy of {self.neighbours} nearest neighbours telling samples from data (classifier two-sample test, "
            f"Lopez-Paz & Oquab 2017): trained on {self.num_train}, tested on {self.num_test} others, half of them "
            f"samples; 0.5 = cannot be told apart, standard error if so, p = {self.p_value:.2g}"
        )


def two_sample_test(samples: Float[Tensor, "n f"], real: Float[Tensor, "n f"], *, seed: int = 0) -> TwoSampleTest:
    """t̂ = (1/n_te) Σ 1[f(z_i) = l_i]; under equal distributions t̂ ~ N(1/2, 1/(4 n_te)) for large n_te.

    Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests", equation 2 and section 3.1. f: the vote of
    the ⌊√n_tr⌋ nearest neighbours. Half of the samples and half of the data train it, the others test it.

    Raises UserError for sets of different sizes, or of fewer than four.
    """
    from sklearn.neighbors import KNeighborsClassifier  # takes a second to import: only here

    if len(samples) != len(real) or len(samples) < 4:
        raise UserError(f"{len(samples)} samples and {len(real)} real ones came, expected as many of both, at least 4")
    train, test = halves(len(samples), seed)
    (x_train, y_train), (x_test, y_test) = (_labelled(samples, real, rows) for rows in (train, test))
    neighbours = math.isqrt(len(y_train))
    classifier = KNeighborsClassifier(neighbours, algorithm="brute").fit(x_train, y_train)
    accuracy = float((classifier.predict(x_test) == y_test).mean())
    error = 0.5 / math.sqrt(len(y_test))
    p_value = 0.5 * math.erfc((accuracy - 0.5) / error / math.sqrt(2))
    return TwoSampleTest(accuracy, error, p_value, neighbours, len(y_train), len(y_test))


def halves(count: int, seed: int) -> tuple[Int64[Tensor, "a"], Int64[Tensor, "a"]]:
    """Rows that train and rows that test, as many of both and none in common, at random."""
    order = torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).permutation(count))
    return order[: count // 2], order[count // 2 : 2 * (count // 2)]


def _labelled(
    samples: Float[Tensor, "n f"], real: Float[Tensor, "n f"], rows: Int64[Tensor, "a"]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both sets, and what they are: 0 data, 1 samples."""
    labels = np.repeat(np.array([0, 1]), len(rows))
    return torch.cat([real[rows], samples[rows]]).double().numpy(force=True), labels
