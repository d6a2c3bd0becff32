"""A density and its gradient with one exponential: the same numbers, at every logit."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from probgen.inference.compiled import rewriting
from probgen.inference.compiled.backend import compiled
from probgen.inference.compiled.recording import interpreted, record

LOGITS = torch.tensor([0.0, -0.0, 1e-30, 0.3, -0.3, 5.0, -5.0, 17.0, -17.0, 80.0, -80.0, 200.0, -200.0, 1e30, -1e30])
TARGETS = torch.tensor([0.0, 1.0, 0.25])


def loss_and_gradient(x, t):
    """Of each pixel: −log Bernoulli(t | σ(x)), and σ(x) − t by torch's own gradient."""
    x = x.detach().requires_grad_()
    loss = cross_entropy(x, t, reduction="none")
    return [loss, *torch.autograd.grad(loss.sum(), x)]


def probabilities_first(x, t):
    """σ(x), asked for before the loss."""
    return [torch.sigmoid(x), cross_entropy(x, t, reduction="none")]


def grid(dtype):
    """Every logit with every target."""
    return [tensor.to(dtype).contiguous() for tensor in torch.meshgrid(LOGITS, TARGETS, indexing="ij")]


def count(graph, name):
    """How often an operation is in a graph."""
    return sum(name in str(node.target) for node in graph.graph.nodes)


def differs(results, expected, x):
    """Whether any number is off by more than the rounding of 1 or of its logit."""
    room = 4 * torch.finfo(x.dtype).eps * (1 + x.abs())
    return any(bool(((a - b).abs() > room).any()) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [loss_and_gradient, probabilities_first])
def test_one_exponential_gives_the_same_loss_and_probabilities(function, dtype):
    x, t = grid(dtype)
    graph = record(function, [x, t])
    assert count(graph, "aten.sigmoid") == count(graph, "binary_cross_entropy") == 1
    expected = function(x, t)
    rewritten = rewriting.with_shared_exponentials(graph)
    assert count(rewritten, "aten.exp.") == 1
    assert count(rewritten, "aten.sigmoid") == count(rewritten, "binary_cross_entropy") == 0
    rewritten.graph.lint()
    assert not differs(interpreted(rewritten)(x, t), expected, x)


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none(logit):
    x, t = torch.full((3,), logit), TARGETS.clone()
    rewritten = interpreted(rewriting.with_shared_exponentials(record(loss_and_gradient, [x, t])))
    for ours, torchs in zip(rewritten(x, t), loss_and_gradient(x, t), strict=True):
        assert torch.equal(ours.isfinite(), torchs.isfinite())


def test_a_wrong_sign_of_the_exponent_is_noticed(monkeypatch):
    monkeypatch.setattr(rewriting.aten.abs, "default", torch.ops.aten.neg.default, raising=True)
    x, t = grid(torch.float32)
    rewritten = rewriting.with_shared_exponentials(record(loss_and_gradient, [x, t]))
    assert differs(interpreted(rewritten)(x, t), loss_and_gradient(x, t), x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, t: [cross_entropy(x, t, reduction="none")],  # its gradient is not asked for
        lambda x, t: [cross_entropy(x, t, weight=t + 1, reduction="none"), torch.sigmoid(x)],
        lambda x, t: [cross_entropy(x, t, pos_weight=t + 2, reduction="none"), torch.sigmoid(x)],
        lambda x, t: [cross_entropy(x, t), torch.sigmoid(x)],  # a mean
        lambda x, t: [cross_entropy(x, t, reduction="none"), torch.sigmoid(x + 1)],  # other logits
    ],
    ids=["alone", "weighted", "positives weighted", "mean", "other logits"],
)
def test_everything_else_is_left_alone(function):
    graph = record(function, grid(torch.float32))
    before = str(graph.graph)
    assert str(rewriting.with_shared_exponentials(graph).graph) == before


def test_in_half_precision_the_loss_is_left_alone():
    """Where torch rounds between its steps, fewer steps are other numbers."""
    graph = record(loss_and_gradient, grid(torch.bfloat16))
    before = str(graph.graph)
    assert str(rewriting.with_shared_exponentials(graph).graph) == before


def test_machine_code_is_of_the_rewritten_graph_and_gives_the_same(monkeypatch):
    x, t = (tensor.repeat(100, 1) for tensor in grid(torch.float32))
    asked, rewrite = [], rewriting.with_shared_exponentials
    monkeypatch.setattr(
        "probgen.inference.compiled.backend.with_shared_exponentials", lambda graph: asked.append(1) or rewrite(graph)
    )
    run = compiled(record(loss_and_gradient, [x, t]), [x, t])
    assert asked
    assert not differs(run(x, t), loss_and_gradient(x, t), x)
