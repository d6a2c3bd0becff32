"""What a contender hands to its worker process, and the sizes that all contenders of a row share."""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Work:
    """Something that can be done n times.

    run: does at least the steps it is asked for, waits for the last to end, returns how many it did. facts: what the
    contenders of a row have to agree in (`parameters`), and anything else to be told. parts: where a step is only the
    beginning of one, how many times as long a whole one takes.
    """

    run: Callable[[int], int]
    facts: dict[str, Any] = field(default_factory=dict)
    parts: float = 1.0


@dataclass(frozen=True)
class Case:
    """A variational autoencoder: pixels → hidden → 2·latent, latent → hidden → pixels, relu; and its training set.

    count images of `levels` grey levels, of which each batch draws its binary images anew.
    """

    side: int
    hidden: int
    latent: int
    batch: int
    count: int
    levels: int

    @property
    def pixels(self) -> int:
        return self.side**2

    @property
    def parameters(self) -> int:
        encoder = (self.pixels + 1) * self.hidden + (self.hidden + 1) * 2 * self.latent
        return encoder + (self.latent + 1) * self.hidden + (self.hidden + 1) * self.pixels

    def images(self) -> np.ndarray:
        """Random grey levels, uint8 of shape `count pixels`: speed does not depend on the values."""
        return np.random.default_rng(0).integers(0, self.levels, (self.count, self.pixels), dtype=np.uint8)

    def row_numbers(self) -> Iterator[np.ndarray]:
        """Rows of batch after batch, epochs shuffled; what is left at the end of an epoch is dropped."""
        generator = np.random.default_rng(0)
        while True:
            order = generator.permutation(self.count)
            yield from order[: self.count // self.batch * self.batch].reshape(-1, self.batch)


CASES = {
    "mnist": Case(side=28, hidden=400, latent=50, batch=256, count=60_000, levels=256),
    "digits": Case(side=8, hidden=128, latent=16, batch=128, count=1437, levels=17),
    "quick": Case(side=4, hidden=3, latent=2, batch=8, count=64, levels=17),
}
LEARNING_RATE = 1e-3


def check_bf16(case: str, device: str) -> None:
    """Raise NotImplementedError for a processor that would only imitate bfloat16, ten times slower; of x86 ones.

    Not for the case `quick`, in which times mean nothing.
    """
    import torch

    if case == "quick" or device != "cpu" or platform.machine() != "x86_64":
        return
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        raise NotImplementedError("not run: this processor has no bfloat16 arithmetic")
