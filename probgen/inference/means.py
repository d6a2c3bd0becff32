"""Means over many steps, in memory that does not grow with their number."""

from typing import Any

import torch
from torch import Tensor

STEPS_HELD = 64  # added up together: cheaper than step by step, and on a GPU nothing waits


class Means:
    """The mean of each term over the steps since it was last taken; sums are float64, on the terms' device."""

    def __init__(self) -> None:
        self.held: list[dict[str, Any]] = []
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, terms: dict[str, Any]) -> None:
        """Note the terms of a step: numbers, or tensors of one."""
        self.held.append(terms)
        if len(self.held) == STEPS_HELD:
            self.fold()

    def fold(self) -> None:
        """Add what is held to the sums."""
        for name, last in self.held[-1].items() if self.held else ():
            device = torch.as_tensor(last).device  # what was loaded with a checkpoint is on the CPU
            part = torch.stack([number(terms[name]).to(device) for terms in self.held]).sum()
            self.sums[name] = self.sums[name].to(device) + part if name in self.sums else part
        self.steps += len(self.held)
        self.held = []

    def taken(self) -> dict[str, float]:
        """The means, in the order of the terms; the next are of later steps."""
        self.fold()
        means = {name: float(total) / self.steps for name, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """What the means will be made of; what is held stays apart, so that sums are taken in the same order."""
        held = [{name: number(term).clone() for name, term in terms.items()} for terms in self.held]
        return {"held": held, "sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.held, self.sums, self.steps = list(state["held"]), dict(state["sums"]), int(state["steps"])


def number(term: Any) -> Tensor:
    """A term as a float64 tensor of no dimensions."""
    return torch.as_tensor(term, dtype=torch.float64).detach().view(())
