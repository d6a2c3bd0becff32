"""Hamiltonian Monte Carlo on many independent chains at once (Neal 2011).

One chain for each row: chains do not know of each other, have each their own step size, and are accepted
or rejected one by one.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

State = Sequence[Tensor]  # one tensor for each latent site, chains in front
LogDensity = Callable[[State], Tensor]  # state ↦ log-density of each chain


class Dynamics:
    """How chains move on a log-density: its gradient by autograd."""

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density

    def __call__(self, state: State) -> Float[Tensor, " n"]:
        """The log-density of each chain."""
        return self.log_density(state)

    def value_and_gradient(self, state: State) -> tuple[Float[Tensor, " n"], list[Tensor]]:
        """The log-density of each chain, and its gradient in the state."""
        return value_and_gradient(self.log_density, state)

    def leapfrog(
        self, state: State, momentum: State, gradient: State, step_size: Float[Tensor, " n"]
    ) -> tuple[list[Tensor], list[Tensor], Float[Tensor, " n"], list[Tensor]]:
        """One step from `state`, where the gradient is known: state, momentum, log-density and gradient after it."""
        momentum = kick(momentum, gradient, step_size)
        state = drift(state, momentum, step_size)
        value, gradient = self.value_and_gradient(state)
        return state, kick(momentum, gradient, step_size), value, gradient


def hmc_transition(
    log_density: LogDensity | Dynamics, state: State, step_size: Float[Tensor, " n"], num_leapfrog: int
) -> tuple[list[Tensor], Float[Tensor, " n"]]:
    """One transition that leaves exp(log_density) invariant; the new state, and each chain's acceptance probability.

    p ~ N(0, I); leapfrog steps of H(z, p) = −log_density(z) + ½‖p‖²; accept with min(1, e^{H(old) − H(new)}).
    Each transition takes steps of its own size, uniform on ½ … 1½ of `step_size`: were all alike, all trajectories
    on a Gaussian could close on themselves, and the chain stay on its ellipse (Neal 2011, section 3.2).
    """
    dynamics = log_density if isinstance(log_density, Dynamics) else Dynamics(log_density)
    step_size = step_size * torch.empty_like(step_size).uniform_(0.5, 1.5)
    momentum = [torch.randn_like(z) for z in state]
    value, gradient = dynamics.value_and_gradient(state)
    old = value - kinetic(momentum)
    new_state, new_momentum = list(state), list(momentum)
    for _ in range(num_leapfrog):
        new_state, new_momentum, value, gradient = dynamics.leapfrog(new_state, new_momentum, gradient, step_size)
    log_ratio = torch.nan_to_num(value - kinetic(new_momentum) - old, nan=-torch.inf)
    accepted = torch.rand_like(log_ratio).log() < log_ratio
    chosen = [torch.where(per_row(accepted, z), new, z) for new, z in zip(new_state, state, strict=True)]
    return chosen, log_ratio.clamp_max(0).exp()


def value_and_gradient(log_density: LogDensity, state: State) -> tuple[Float[Tensor, " n"], list[Tensor]]:
    """The log-density of each chain, and its gradient in the state."""
    leaves = [z.detach().requires_grad_() for z in state]
    with torch.enable_grad():
        value = log_density(leaves)
        gradient = torch.autograd.grad(value.sum(), leaves)
    return value.detach(), list(gradient)


def kick(momentum: State, gradient: State, step_size: Float[Tensor, " n"]) -> list[Tensor]:
    """The momentum after half a step along the gradient."""
    return [p + 0.5 * per_row(step_size, g) * g for p, g in zip(momentum, gradient, strict=True)]


def drift(state: State, momentum: State, step_size: Float[Tensor, " n"]) -> list[Tensor]:
    """The state after a step along the momentum."""
    return [z + per_row(step_size, p) * p for z, p in zip(state, momentum, strict=True)]


def kinetic(momentum: State) -> Float[Tensor, " n"]:
    """½‖p‖² of each chain."""
    return torch.stack([0.5 * p.reshape(len(p), -1).square().sum(1) for p in momentum]).sum(0)


def per_row(numbers: Tensor, like: Tensor) -> Tensor:
    """One number for each chain, shaped to multiply its whole state."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))
