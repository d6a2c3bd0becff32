"""Captured functions, with a stand-in for the GPU: what is read where, what is overwritten, what is undone."""

import pytest
import torch

from probgen.inference.compiled import cuda_graph
from probgen.inference.compiled.cuda_graph import Captured


def step(weight, count, x):
    """Writes to `count`, reads the rest."""
    count += 1
    return [(weight * x).sum(), weight * x, torch.rand(())]


def stand_in(run, inputs):
    """A graph's way: the inputs' addresses are fixed at capture, the results lie always at the same places."""
    for _ in range(3):
        run(*inputs)
    fixed = list(inputs)
    results = [result.clone() for result in run(*fixed)]

    def launch():
        for place, result in zip(results, run(*fixed), strict=True):
            place.copy_(result)

    return launch, results


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda_graph, "captured", stand_in)


def test_each_call_is_the_function():
    weight, count = torch.tensor([1.0, 2.0]), torch.zeros(())
    run = Captured(step, held=2)
    torch.manual_seed(0)
    kept = [run(weight, count, torch.tensor([x, 1.0])) for x in (1.0, 3.0, 5.0)]
    assert count == 3, "the runs before the capture are undone"
    assert [float(total) for total, *_ in kept] == [3.0, 5.0, 7.0], "scalars of earlier calls stay"
    torch.manual_seed(0)
    assert [float(noise) for *_, noise in kept] == [float(torch.rand(())) for _ in range(3)]


def test_weights_that_change_in_place_are_seen_and_those_that_move_are_captured_anew():
    weight, count, x = torch.tensor([1.0, 2.0]), torch.zeros(()), torch.ones(2)
    run = Captured(step, held=2)
    assert run(weight, count, x)[0] == 3
    weight.mul_(2)
    assert run(weight, count, x)[0] == 6
    moved = torch.tensor([5.0, 5.0])
    assert run(moved, count, x)[0] == 10
    assert count == 3


def test_a_graph_that_does_not_look_where_weights_lie_is_noticed():
    """The twin: always the first capture."""
    weight, count, x = torch.tensor([1.0, 2.0]), torch.zeros(()), torch.ones(2)
    run = Captured(step, held=2)
    run(weight, count, x)
    moved = torch.tensor([5.0, 5.0])
    run.places = [moved.data_ptr(), count.data_ptr()]
    assert run(moved, count, x)[0] != 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(monkeypatch):
    monkeypatch.undo()
    weight, count = torch.tensor([1.0, 2.0], device="cuda"), torch.zeros((), device="cuda")
    run = Captured(step, held=2)
    kept = [run(weight, count, torch.tensor([x, 1.0], device="cuda"))[0] for x in (1.0, 3.0)]
    assert [float(total) for total in kept] == [3.0, 5.0]
    assert count == 2
