"""Adam, by torch's fused kernel and without the Python around it."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FusedAdam(torch.optim.Adam):
    """θ ← θ − lr · m̂ / (√v̂ + ε), m and v the moving averages of ∇ and ∇² (Kingma and Ba 2015, algorithm 1).

    The numbers, the state and its `state_dict` are those of `torch.optim.Adam(…, fused=True)`. Its `step` looks at
    every parameter anew and groups them, which for a small network takes longer than the arithmetic; `move` does so
    once.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__(list(parameters), lr=lr, betas=betas, fused=True)
        self.moving: list[Tensor] = []
        self.moments: tuple[list[Tensor], ...] = ()
        self.counts: Any = torch.empty(0)

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor | None]) -> None:
        """One step, on a gradient for each parameter, of its layout in memory; one without a gradient stays."""
        group = self.param_groups[0]
        found = [gradient for gradient in gradients if gradient is not None]
        parameters = [p for p, gradient in zip(group["params"], gradients, strict=True) if gradient is not None]
        same = len(parameters) == len(self.moving) and all(map(operator.is_, parameters, self.moving))
        if not same or not parameters or getattr(self, "found_inf", None) is not None:
            self.move_as_torch(gradients)
            self.remember(parameters)
            return
        means, squares, steps = self.moments
        self.counts += 1
        torch._fused_adam_(
            parameters,
            found,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def move_as_torch(self, gradients: Sequence[Tensor | None]) -> None:
        """The same by torch, which looks for gradients in `grad`."""
        parameters = self.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.step()
        for parameter in parameters:
            parameter.grad = None

    def remember(self, parameters: list[Tensor]) -> None:
        """Note the state of the parameters that have a gradient."""
        self.moving, states = parameters, [self.state[parameter] for parameter in parameters]
        # Each parameter counts its steps; as views of one tensor all counts rise at once, soonest by NumPy.
        steps = torch.stack([state["step"] for state in states]) if states else torch.empty(0)
        self.counts = steps.numpy() if steps.device.type == "cpu" else steps
        for state, step in zip(states, steps.unbind(), strict=True):
            state["step"] = step
        self.moments = tuple([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; of another `torch.optim.Adam` too, whose parameters may lie otherwise in memory."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = laid_out(state[name], parameter)
        self.moving = []


def clipped(gradients: Sequence[Tensor | None], most: float, norm: Tensor | None = None) -> list[Tensor | None]:
    """g · min(1, most / ‖g‖), the numbers of `torch.nn.utils.clip_grad_norm_`; `norm` where ‖g‖ is known."""
    found = [gradient for gradient in gradients if gradient is not None]
    norm = nn.utils.get_total_norm(found) if norm is None else norm
    scaled = iter(torch._foreach_mul(found, (most / (norm + 1e-6)).clamp(max=1.0)) if found else ())
    return [None if gradient is None else next(scaled) for gradient in gradients]


def all_laid_out(found: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients in the layout of their parameters.

    torch's fused optimizers read parameter and gradient in the order of memory: in another layout, such as
    `channels_last`, each number would be moved by another one's gradient.
    """
    return [None if g is None else laid_out(g, p) for g, p in zip(found, parameters, strict=True)]


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in the order of another's memory."""
    if tensor.is_contiguous() and like.is_contiguous():  # soonest seen
        return tensor
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)
