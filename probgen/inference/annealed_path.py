"""The path of densities that annealing follows, in coordinates without bounds.

f_β(z) ∝ r(z)^{1−β} p(x, z)^β,   β from 0 (r: the prior, or the guide) to 1 (the posterior)
"""

from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform, biject_to

from probgen.errors import UserError
from probgen.inference.compiled.evaluation import Evaluation
from probgen.inference.compiled.recording import Step
from probgen.inference.hmc import Dynamics, State
from probgen.inference.traces import Program, marked, sample_sites, score


def bijection(name: str, support: Any) -> Transform:
    """From numbers without bounds to the site's; the support of a mixture is that of its components.

    Raises UserError where torch knows none.
    """
    if type(support).__name__ == "MixtureSameFamilyConstraint":
        support = support.base_constraint
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise UserError(
            f"site {name!r}: no bijection from the reals to {support} is known, and annealing needs one"
        ) from error


class AnnealedPath:
    """The path from r(z) to p(x, z), for a batch of images, in unconstrained coordinates u with z = T(u).

    The Jacobian of T is part of both ends, so that HMC moves freely whatever the support of z.
    """

    def __init__(self, model: Program, guide: Program | None, x: Tensor) -> None:
        self.model, self.guide, self.x = model, guide, x
        self.sites, again = self.draw(), self.draw()
        if not self.sites:
            raise UserError("the model has no latent site: log p(x) is exact, there is nothing to anneal")
        for name, node in self.sites.items():
            self.check_site(name, node, again[name])
        self.transforms = {name: bijection(name, node["fn"].support) for name, node in self.sites.items()}
        self.compiled: Step | None = None

    def prepare(self, evaluation: Evaluation, state: State, calls: int) -> None:
        """Follow the path without Pyro, if `evaluation` wants that of a path on which chains take so many steps.

        state: where chains start. The random state is left as it was.
        """
        if evaluation.wanted(calls, len(self.x)):
            momentum, gradient = [u.cos() for u in state], [u.sin() for u in state]  # anything, to try it
            step_size = torch.full_like(state[0].reshape(len(self.x), -1)[:, 0], 0.1)
            best = evaluation.best(self.step, self.inputs(0.5, state, momentum, gradient, step_size), self.x)
            self.compiled = None if best == self.step else best

    @torch.no_grad()
    def draw(self) -> dict[str, Any]:
        """The latent sites after a run of the guide, or of the model without one; not those that `score` sums out."""
        nodes = sample_sites(poutine.trace(self.guide or self.model).get_trace(self.x))
        summed = {} if self.guide else marked(nodes)
        return {name: node for name, node in nodes.items() if not node["is_observed"] and name not in summed}

    def check_site(self, name: str, node: dict[str, Any], again: dict[str, Any]) -> None:
        """Raise UserError for a discrete site, one outside the images' plate, one whose support is not fixed."""
        if node["fn"].support.is_discrete:
            raise UserError(f"site {name!r} is discrete: annealing moves continuous latents only")
        if node["value"].shape[:1] != self.x.shape[:1]:
            raise UserError(
                f"site {name!r}: a value of shape {tuple(node['value'].shape)} came, expected one for each of the "
                f"{len(self.x)} images in front: annealing needs the images' plate outermost"
            )
        unconstrained = bijection(name, node["fn"].support).inv(node["value"])
        if not torch.equal(*(bijection(name, n["fn"].support)(unconstrained) for n in (node, again))):
            raise UserError(f"the support of site {name!r} depends on another latent site: annealing needs a fixed one")

    def start(self) -> list[Tensor]:
        """u_0, from z_0 ~ r."""
        return self.unconstrained({name: node["value"] for name, node in self.draw().items()})

    def unconstrained(self, values: dict[str, Tensor]) -> list[Tensor]:
        """u = T⁻¹(z) of each site."""
        return [transform.inv(values[name]).detach() for name, transform in self.transforms.items()]

    def ends(self, state: State, x: Tensor | None = None) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """log r and log p(x, ·) at u, with the Jacobian; of the path's images, or as many others."""
        x = self.x if x is None else x
        pairs = list(zip(self.transforms.items(), state, strict=True))
        values = {name: transform(u) for (name, transform), u in pairs}
        jacobian = torch.stack(
            [
                transform.log_abs_det_jacobian(u, values[name]).reshape(len(u), -1).sum(1)
                for (name, transform), u in pairs
            ]
        ).sum(0)
        model = score(self.model, x, values)
        joint = torch.stack(list(model.values())).sum(0)
        start = score(self.guide, x, values) if self.guide else {name: model[name] for name in self.sites}
        return torch.stack(list(start.values())).sum(0) + jacobian, joint + jacobian

    def log_density(self, beta: float) -> Dynamics:
        """log f_β, and how chains move on it."""
        if self.compiled is not None:
            return CompiledDynamics(self, self.compiled, beta)

        def at(state: State) -> Tensor:
            start, joint = self.ends(state)
            return (1 - beta) * start + beta * joint

        return Dynamics(at)

    @torch.no_grad()
    def log_ratio(self, state: State) -> Float[Tensor, " n"]:
        """log p(x, z) − log r(z): how log f_β grows with β."""
        if self.compiled is not None:
            return CompiledDynamics(self, self.compiled, 0.0).at_rest(state)[1]
        start, joint = self.ends(state)
        return joint - start

    def inputs(
        self, beta: float, state: State, momentum: State, gradient: State, step_size: Float[Tensor, " n"]
    ) -> list[Tensor]:
        """All that `step` takes."""
        number = torch.tensor(beta, dtype=torch.float64, device=self.x.device)
        return [self.x, number, step_size, *state, *momentum, *gradient]

    def step(self, x: Tensor, beta: Tensor, step_size: Float[Tensor, " n"], *moving: Tensor) -> list[Tensor]:
        """One leapfrog step on log f_β of the images x, as a function of tensors alone.

        moving: state, momentum and gradient. Returns log f_β and log p − log r after the step, and these three.
        """
        count = len(self.transforms)
        found: list[Tensor] = []

        def at(state: State) -> Tensor:
            found.extend(self.ends(state, x))
            return (1 - beta) * found[0] + beta * found[1]

        state, momentum, gradient = (moving[i * count : (i + 1) * count] for i in range(3))
        new_state, new_momentum, value, new = Dynamics(at).leapfrog(state, momentum, gradient, step_size)
        return [value, (found[1] - found[0]).detach(), *new_state, *new_momentum, *new]


class CompiledDynamics(Dynamics):
    """log f_β without Pyro; `run` does what `AnnealedPath.step` does."""

    def __init__(self, path: AnnealedPath, run: Step, beta: float) -> None:
        super().__init__(lambda state: self.at_rest(state)[0])
        self.path, self.run, self.beta = path, run, beta

    def at_rest(self, state: State) -> list[Tensor]:
        """What a step of length 0 gives: all numbers at `state` itself."""
        still = [torch.zeros_like(u) for u in state]
        step_size = still[0].reshape(len(still[0]), -1)[:, 0]
        return self.run(*self.path.inputs(self.beta, state, still, still, step_size))

    def value_and_gradient(self, state: State) -> tuple[Float[Tensor, " n"], list[Tensor]]:
        """The log-density of each chain, and its gradient in the state."""
        value, _, *moved = self.at_rest(state)
        return value, moved[-len(state) :]

    def leapfrog(
        self, state: State, momentum: State, gradient: State, step_size: Float[Tensor, " n"]
    ) -> tuple[list[Tensor], list[Tensor], Float[Tensor, " n"], list[Tensor]]:
        """One step from `state`, where the gradient is known: state, momentum, log-density and gradient after it."""
        value, _, *moved = self.run(*self.path.inputs(self.beta, state, momentum, gradient, step_size))
        count = len(state)
        return moved[:count], moved[count : 2 * count], value, moved[2 * count :]
