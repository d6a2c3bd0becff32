"""On a GPU: all kernels of a compiled function in one launch.

A small network's kernels take less time than Python takes to launch them; a CUDA graph launches them all at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from probgen.inference.compiled.recording import Step

WARM_UP = 3  # runs before the capture, as torch asks for: libraries choose their kernels in them


class Captured:
    """`run`, captured as a CUDA graph at its first call and launched afterwards.

    run: a function of `held` tensors, which are read and written where they lie, and of others, which are copied to
        where the graph reads them. Its results are overwritten by the next call, but for the scalars.
    held: how many of the inputs are of the first kind. When one lies elsewhere than before, the graph is captured anew.
    """

    def __init__(self, run: Step, held: int) -> None:
        self.run, self.held = run, held
        self.places: list[int] = []
        self.launch: Callable[[], Any] = lambda: None
        self.read: list[Tensor] = []
        self.results: list[Tensor] = []

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The results of `run(*inputs)`."""
        held, others = inputs[: self.held], inputs[self.held :]
        places = [tensor.data_ptr() for tensor in held]
        if places != self.places:
            self.capture(held, others)
            self.places = places
        for place, other in zip(self.read, others, strict=True):
            place.copy_(other, non_blocking=True)
        self.launch()
        return [result.clone() if result.dim() == 0 else result for result in self.results]

    def capture(self, held: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Record the launches; what the runs before it wrote to `held` is undone, and so are their draws."""
        self.read = [tensor.clone() for tensor in others]
        inputs, before = [*held, *self.read], [tensor.detach().clone() for tensor in held]
        with torch.random.fork_rng():
            self.launch, self.results = captured(self.run, inputs)
        with torch.no_grad():
            for tensor, was in zip(held, before, strict=True):
                tensor.copy_(was)


def captured(run: Step, inputs: Sequence[Tensor]) -> tuple[Callable[[], Any], list[Tensor]]:
    """What launches the graph of `run(*inputs)`, and where its results will be."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run(*inputs)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(*inputs)
    return graph.replay, results
