"""One pass of a pair, x → guide → z → model, with one log-probability per particle, image and site.

The whole of `probgen.inference` stands on this: the ELBO, the importance-weighted bound and their gradients
are sums over its sites. It refuses pairs whose numbers would not be what they seem.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from probgen.errors import UserError

Program = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Site:
    """A `pyro.sample` statement after one pass; k particles, b images.

    p, q: its distribution in the model, and in the guide (None where observed).
    log_p, log_q: log-probabilities in nats, summed over everything but particles and images.
    reduce: sums any tensor of the site's batch shape to `k b`.
    mask: that of `poutine.mask`, already applied to log_p and log_q.
    guide_position: its place in the guide's order, None where observed.
    """

    name: str
    observed: bool
    value: Tensor
    p: Any
    q: Any
    log_p: Float[Tensor, "k b"]
    log_q: Float[Tensor, "k b"] | None
    reduce: Callable[[Tensor], Tensor]
    mask: Tensor | bool | None
    guide_position: int | None


def as_real(x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """Stored grey levels (uint8) as the floating-point whole numbers that programs are handed."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def owner(program: Program) -> Any:
    """The pair that a bound method `pair.model` or `pair.guide` belongs to; a module is its own."""
    return getattr(program, "__self__", program)


@contextmanager
def evaluating(*programs: Program) -> Iterator[None]:
    """In `eval()` mode inside (dropout off, KL weight 1), in the mode it was in afterwards."""
    modules = {id(m): m for m in map(owner, programs) if isinstance(m, nn.Module)}.values()
    modes = [(m, m.training) for top in modules for m in top.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trace_pair(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    num_particles: int = 1,
    *,
    training: bool = False,
    detach: bool = False,
) -> list[Site]:
    """Draw z from the guide, score x and z under both programs, image by image, `num_particles` times.

    A pair that declares `broadcasts = True` (its only plate is the one over images, at dim −1, and its
    networks take leading dimensions) is run once with particles as an outer plate, so that they share the
    encoder's work; any other pair sees the batch repeated.

    training: apply the scales that sites carry (a KL weight, say); otherwise a scale is refused.
    detach: treat the drawn z as constants, without a gradient path to the guide.

    Raises UserError, naming the site, for a pair whose terms would be wrong.
    """
    x = as_real(x)
    num_images = len(x)
    broadcasts = num_particles > 1 and bool(getattr(owner(model), "broadcasts", False))
    if broadcasts:
        model = pyro.plate("particles", num_particles, dim=-2)(model)
        guide = pyro.plate("particles", num_particles, dim=-2)(guide)
    elif num_particles > 1:
        x = x.repeat(num_particles, *[1] * (x.dim() - 1))
    guide_trace = poutine.trace(guide).get_trace(x)
    if detach:
        guide_trace.detach_()
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    guide_nodes, model_nodes = sample_sites(guide_trace), sample_sites(model_trace)
    check_same_latents(model_nodes, guide_nodes)
    reducers = {}
    for name, node in [*guide_nodes.items(), *model_nodes.items()]:
        if not training:
            check_density(name, node)
        reducers[name] = site_reducer(name, node, len(x), num_particles, num_images, broadcasts)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    order = {name: position for position, name in enumerate(guide_nodes)}
    return [
        Site(
            name=name,
            observed=node["is_observed"],
            value=node["value"],
            p=node["fn"],
            q=guide_nodes[name]["fn"] if name in order else None,
            log_p=reducers[name](node["log_prob"]),
            log_q=reducers[name](guide_nodes[name]["log_prob"]) if name in order else None,
            reduce=reducers[name],
            mask=node["mask"],
            guide_position=order.get(name),
        )
        for name, node in model_nodes.items()
    ]


def score(program: Program, x: Shaped[Tensor, "b *shape"], values: dict[str, Tensor]) -> dict[str, Float[Tensor, " b"]]:
    """Log-probability of each random site of a program whose latent sites take the given values.

    Differentiable in the values. Raises UserError, naming the site, for a program whose numbers would be wrong.
    """
    trace = poutine.trace(poutine.condition(program, data=values)).get_trace(x)
    trace.compute_log_prob()
    scores = {}
    for name, node in sample_sites(trace).items():
        check_density(name, node)
        scores[name] = site_reducer(name, node, len(x), 1, len(x), False)(node["log_prob"])[0]
    return scores


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The random sites in program order: no parameters, no deterministic values, no subsampling."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node) and not node["infer"].get("_deterministic")
    }


def check_same_latents(model_nodes: dict[str, Any], guide_nodes: dict[str, Any]) -> None:
    """Model and guide must agree on which sites are latent."""
    latent = {name for name, node in model_nodes.items() if not node["is_observed"]}
    if missing := latent - guide_nodes.keys():
        raise UserError(
            f"the guide has no site {sorted(missing)[0]!r}, which is latent in the model: sample it in the guide, "
            "or observe it in the model (obs=…)"
        )
    if invented := guide_nodes.keys() - latent:
        raise UserError(
            f"the guide samples {sorted(invented)[0]!r}, which is no latent site of the model (those are "
            f"{sorted(latent)}): give both the same name"
        )


def check_density(name: str, node: dict[str, Any]) -> None:
    """No scaling, no subsampling, no improper prior: the log-probability is the one the equation means."""
    if isinstance(node["fn"], ImproperUniform):
        raise UserError(f"site {name!r} has an improper prior: the pair defines no p(x), and no bound on it")
    scale = node["scale"]
    if bool((scale != 1).any() if isinstance(scale, Tensor) else scale != 1):
        raise UserError(
            f"site {name!r} has its log-probability scaled by {float(torch.as_tensor(scale).max()):g} "
            "(poutine.scale, or a subsampling plate), expected 1: evaluate on whole batches, unscaled"
        )


def site_reducer(
    name: str, node: dict[str, Any], plate_size: int, num_particles: int, num_images: int, broadcasts: bool
) -> Callable[[Tensor], Tensor]:
    """How to sum a tensor of the site's batch shape over all but particles and images."""
    fn, frames = node["fn"], [f for f in node["cond_indep_stack"] if f.vectorized and f.size == plate_size]
    if not frames or len(fn.batch_shape) < -frames[0].dim:
        raise UserError(
            f"site {name!r}: the log-probability has shape {tuple(fn.batch_shape)}, expected one number for "
            f"each of the {num_images} images: sample it inside `with pyro.plate('images', len(x))`"
        )
    plates = {f.dim for f in node["cond_indep_stack"] if f.vectorized}
    if extra := [d for d in range(-len(fn.batch_shape), 0) if d not in plates and fn.batch_shape[d] != 1]:
        raise UserError(
            f"site {name!r}: batch shape {tuple(fn.batch_shape)} came, expected {(num_images,)}, one entry per "
            f"image: declare the other {len(extra)} as one event with .to_event({len(extra)})"
        )
    image_dim = frames[0].dim
    keep = {image_dim, -2} if broadcasts else {image_dim}

    def reduce(log_prob: Tensor) -> Tensor:
        log_prob = log_prob.expand(fn.batch_shape)
        others = [d for d in range(-log_prob.dim(), 0) if d not in keep]
        total = log_prob.sum(others) if others else log_prob
        return total.reshape(num_particles, num_images)

    return reduce
