"""What a recorded graph does twice and need do once.

    e = exp(−|x|):   −log Bernoulli(t | σ(x)) = max(x, 0) − x t + log(1 + e),   σ(x) = (1 if x ≥ 0 else e) / (1 + e)

A Bernoulli's density and its gradient are two operations of torch's, each with an exponential of its own. In machine
code they are one loop over the pixels, and exponential and logarithm are most of its time.
"""

import torch
from torch import Tensor, fx

aten = torch.ops.aten
PRECISE = (torch.float32, torch.float64)  # in bfloat16 1 + e is 1 for an e of 1/300


def with_shared_exponentials(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph, in place, with one exponential where σ(x) is asked for beside the cross-entropy of the same logits x.

    log(1 + e) stands for log1p(e): the loss of a pixel differs by up to the rounding of 1, and of x where x and x t
    nearly cancel.
    """
    for loss in graph.graph.find_nodes(op="call_function", target=aten.binary_cross_entropy_with_logits.default):
        probabilities = [node for node in uses_of(loss.args[0]) if node.target is aten.sigmoid.default]
        if probabilities and is_plain(loss):
            share(graph.graph, loss, probabilities)
    graph.recompile()
    return graph


def uses_of(value: object) -> list[fx.Node]:
    """The nodes that take a value of the graph; none take a constant."""
    return list(value.users) if isinstance(value, fx.Node) else []


def is_plain(loss: fx.Node) -> bool:
    """Whether it is a loss for each pixel, without weights, of logits and targets of one shape and precise type."""
    held = [node.meta.get("val") for node in loss.args[:2] if isinstance(node, fx.Node)]
    kinds = [(value.dtype, value.shape) for value in held if isinstance(value, Tensor)]
    if loss.kwargs or loss.args[2:] != (None, None, 0) or len(kinds) != 2:
        return False
    return kinds[0] == kinds[1] and kinds[0][0] in PRECISE


def share(graph: fx.Graph, loss: fx.Node, probabilities: list[fx.Node]) -> None:
    """Put e before the first of them; loss and probabilities come of it."""
    x, t = loss.args[:2]
    call = graph.call_function
    with graph.inserting_before(min([loss, *probabilities])):
        e = call(aten.exp.default, (call(aten.neg.default, (call(aten.abs.default, (x,)),)),))
        whole = call(aten.add.Tensor, (e, 1))
    with graph.inserting_before(loss):
        linear = call(aten.sub.Tensor, (call(aten.clamp_min.default, (x, 0)), call(aten.mul.Tensor, (x, t))))
        replace(graph, loss, call(aten.add.Tensor, (linear, call(aten.log.default, (whole,)))))
    for sigma in probabilities:
        with graph.inserting_before(sigma):
            part = call(aten.where.ScalarSelf, (call(aten.ge.Scalar, (x, 0)), 1.0, e))
            replace(graph, sigma, call(aten.div.Tensor, (part, whole)))


def replace(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Let all that used the old node use the new one."""
    old.replace_all_uses_with(new)
    graph.erase_node(old)
