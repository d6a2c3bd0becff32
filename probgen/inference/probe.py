"""How much a linear reading of some features tells about labels: logistic regression on standardized features.

    p(y | f) = softmax(W (f − mean) / std + b)

with the mean and standard deviation of each training feature; a feature that is constant there counts for nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from probgen.errors import UserError

MOST_ITERATIONS = 2_000


@dataclass(frozen=True)
class Probe:
    """The share of test labels that a linear classifier gets right.

    stderr: binomial standard error of that share, over test images; it is 0 where all are right or all are wrong.
    chance: the share of the commonest label among the test labels.
    """

    accuracy: float
    stderr: float
    chance: float
    num_features: int
    num_train: int
    num_test: int

    def to_json(self) -> dict[str, Any]:
        """The fields for machines."""
        return dict(vars(self))

    def __str__(self) -> str:
        """`93.1% ± 0.6%`."""
        return f"{self.accuracy:.1%} ± {self.stderr:.1%}"


def linear_probe(
    train: Float[Tensor, "n f"],
    labels: Int[Tensor, " _"],
    test: Float[Tensor, "m _"],
    test_labels: Int[Tensor, " _"],
) -> Probe:
    """Fit on the training features and labels, count on the test ones: the same numbers give the same probe.

    The fit has an L2 penalty of weight 1 on W, scikit-learn's default.

    Raises UserError for lengths at odds, numbers that are not finite, or labels of one class only.
    """
    check(train, labels, "train")
    check(test, test_labels, "test")
    if train.shape[1] != test.shape[1]:
        raise UserError(f"{test.shape[1]} test features came, expected {train.shape[1]}, as there are for training")
    if len(labels.unique()) < 2:
        raise UserError(f"{len(labels)} training labels of one class came, expected two classes or more")
    right = classify(train, labels, test) == test_labels.cpu().numpy()
    accuracy = float(right.mean())
    return Probe(
        accuracy,
        stderr=math.sqrt(accuracy * (1 - accuracy) / len(right)),
        chance=float(test_labels.unique(return_counts=True)[1].max()) / len(right),
        num_features=train.shape[1],
        num_train=len(labels),
        num_test=len(right),
    )


def check(features: Tensor, labels: Tensor, which: str) -> None:
    """One label for each row, one row or more, all numbers finite."""
    if len(features) != len(labels) or len(labels) == 0:
        raise UserError(f"{len(features)} {which} rows and {len(labels)} labels came, expected as many of both, not 0")
    if features.shape[1] == 0:
        raise UserError(f"{which} rows of 0 features came, expected 1 or more")
    if not features.isfinite().all():
        wrong = int((~features.isfinite()).any(1).sum())
        raise UserError(f"{wrong} of {len(features)} {which} rows have a feature that is nan or infinite")


def classify(train: Tensor, labels: Tensor, test: Tensor) -> Any:
    """The labels that the fitted classifier gives to the test rows, as an array."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import: only here
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, seen = (features.detach().cpu().double().numpy() for features in (train, test))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_ITERATIONS))
    return classifier.fit(known, labels.cpu().numpy()).predict(seen)
