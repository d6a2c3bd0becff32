"""Losses that are no numbers, found without waiting for the device at each step."""

import torch
from torch import Tensor


class Latch:
    """Turns at the first loss that is nan or infinite, and from then on holds the optimizer still.

    optimizer: one of torch's fused ones, which skip a step while their `found_inf` is 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device | str) -> None:
        self.turned = torch.zeros((), device=device)
        self.finite_steps = torch.zeros((), dtype=torch.float64, device=device)
        optimizer.found_inf = self.turned  # type: ignore[attr-defined]

    def start(self, steps_done: int) -> None:
        """Not turned, after so many steps with a finite loss."""
        self.turned.zero_()
        self.finite_steps.fill_(steps_done)

    def note(self, loss: Tensor) -> None:
        """Look at a step's loss, on the device."""
        bad = (~torch.isfinite(loss.detach())).float().view(())
        self.turned.copy_(torch.maximum(self.turned, bad))
        self.finite_steps += 1 - self.turned

    def bad_step(self) -> int | None:
        """The step, counted from 1, whose loss was no number; None without one. Waits for the device."""
        return int(self.finite_steps) + 1 if bool(self.turned) else None
