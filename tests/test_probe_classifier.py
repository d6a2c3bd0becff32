"""The linear probe is logistic regression: it predicts what the minimum of the penalized cross-entropy does."""

import pytest
import torch
import torch.nn.functional as F
from laws import check_equal
from torch import Tensor

from probgen.inference.probe import classify


def minimum(train: Tensor, labels: Tensor, test: Tensor, penalty: float = 1.0) -> Tensor:
    """argmax of softmax(W f + b) at the minimum of Σ_n −log p(y_n | f_n) + penalty · ½ ‖W‖², f standardized."""
    mean, std = train.mean(0), train.std(0, unbiased=False)
    known, seen = (train - mean) / std, (test - mean) / std
    W = torch.zeros(int(labels.max()) + 1, train.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(len(W), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(known @ W.T + b, labels, reduction="sum") + penalty * W.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return (seen @ W.T + b).argmax(1).detach()


def test_the_probe_predicts_what_penalized_softmax_regression_does():
    labels = torch.arange(90) % 3
    train = torch.randn(90, 6, dtype=torch.float64) * torch.logspace(-2, 2, 6).double() + 0.3 * labels[:, None]
    test = torch.randn(4000, 6, dtype=torch.float64) * torch.logspace(-2, 2, 6).double() + 0.5
    came = torch.as_tensor(classify(train, labels, test))
    share = (came == minimum(train, labels, test)).double().mean()
    check_equal(share, 1.0, tolerance=1e-3)  # a point on the border may fall to either side
    for twin in (minimum(train, labels, test, penalty=100.0), minimum(train, labels.flip(0), test)):
        with pytest.raises(AssertionError):
            check_equal((came == twin).double().mean(), 1.0, tolerance=1e-3)
