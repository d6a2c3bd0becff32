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
from pyro.distributions import Delta, ImproperUniform
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from probgen.errors import UserError

Program = Callable[[Tensor], Any]
PARTICLES = "_particles"  # our own plate, outside the images'


@dataclass(frozen=True)
class Site:
    """A `pyro.sample` statement after one pass; k particles, b images.

    value, drawn: its value, as the program has it, and as `k b …`; nothing, `k b 0`, where it has all values at once.
    p, q: its distribution in the model, and in the guide (None where observed).
    log_p, log_q: log-probabilities in nats, summed over everything but particles and images.
    reduce: sums any tensor of the site's batch shape to `k b`.
    mask: that of `poutine.mask`, already applied to log_p and log_q.
    guide_position: its place in the guide's order, None where observed.
    summed_out: the latents that log_p sums over; observed sites under one sum are one, of the name `x, y`.
    enumerated: whether the guide's expectation over it is a sum; all numbers are then averages over its values.
    """

    name: str
    observed: bool
    value: Tensor
    drawn: Tensor
    p: Any
    q: Any
    log_p: Float[Tensor, "k b"]
    log_q: Float[Tensor, "k b"] | None
    reduce: Callable[[Tensor], Tensor]
    mask: Tensor | bool | None
    guide_position: int | None
    summed_out: tuple[str, ...] = ()
    enumerated: bool = False


def as_real(x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """Stored grey levels (uint8) as the floating-point whole numbers that programs are handed."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def check_images(x: Tensor) -> None:
    """Raise UserError for a batch without images."""
    if len(x) == 0:
        raise UserError("no images came, expected one or more")


def owner(program: Any) -> Any:
    """The pair that a bound method `pair.model` or `pair.guide` belongs to; a module is its own."""
    return getattr(program, "__self__", program)


def modules_of(pair: Any) -> list[nn.Module]:
    """A module itself; of any other object the modules among its attributes."""
    if isinstance(pair, nn.Module):
        return [pair]
    return [value for value in getattr(pair, "__dict__", {}).values() if isinstance(value, nn.Module)]


@contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """In `eval()` mode inside (dropout off, KL weight 1), in the mode it was in afterwards."""
    modules = {id(m): m for program in programs for m in modules_of(owner(program))}.values()
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
    enumerate_guide: bool = False,
) -> list[Site]:
    """Draw z from the guide, score x and z under both programs, image by image, `num_particles` times.

    A pair that declares `broadcasts = True` (its only plate is the one over images, at dim −1, and its
    networks take leading dimensions) is run once with particles as an outer plate, so that they share the
    encoder's work; any other pair sees the batch repeated.

    training: apply the scales that sites carry (a KL weight, say); otherwise a scale is refused.
    detach: treat the drawn z as constants, without a gradient path to the guide.
    enumerate_guide: average over all values of the guide's sites that are marked for enumeration, instead of drawing
        them. Latents of the model that are so marked, and unknown to the guide, are summed out in any case.

    Raises UserError, naming the site, for a pair whose terms would be wrong.
    """
    x = as_real(x)
    num_images = len(x)
    broadcasts = num_particles > 1 and bool(getattr(owner(model), "broadcasts", False))
    if broadcasts:
        model = pyro.plate(PARTICLES, num_particles, dim=-2)(model)
        guide = pyro.plate(PARTICLES, num_particles, dim=-2)(guide)
    elif num_particles > 1:
        x = x.repeat(num_particles, *[1] * (x.dim() - 1))
    guide_trace = poutine.trace(guide).get_trace(x)
    if detach:
        guide_trace.detach_()
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    guide_nodes, model_nodes = sample_sites(guide_trace), sample_sites(model_trace)
    check_same_latents(model_nodes, guide_nodes)
    plate = image_plate([*guide_nodes.values(), *model_nodes.values()], model, x)
    if not training:
        for name, node in [*model_nodes.items(), *guide_nodes.items()]:
            check_density(name, node)
    reducers = {}
    for name, node in [*guide_nodes.items(), *model_nodes.items()]:
        reducers[name] = site_reducer(name, node, plate, num_particles, num_images)
    again = enumerate_guide and marked(guide_nodes)
    if again or marked(model_nodes).keys() - guide_nodes.keys():
        from probgen.inference.enumeration import enumerated_sites

        programs, shape = (model, guide if again else guide_trace), (num_particles, num_images)
        score_function = training and enumerate_guide
        return enumerated_sites(*programs, x, guide_nodes | model_nodes, plate, shape, score_function=score_function)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    order = {name: position for position, name in enumerate(guide_nodes)}
    return [
        Site(
            name=name,
            observed=node["is_observed"],
            value=node["value"],
            drawn=in_front(node, plate, num_particles, num_images),
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
    conditioned = poutine.condition(program, data=values)
    trace = poutine.trace(conditioned).get_trace(x)
    nodes = sample_sites(trace)
    plate = image_plate(list(nodes.values()), program, x)
    reducers = {}
    for name, node in nodes.items():
        check_density(name, node)
        reducers[name] = site_reducer(name, node, plate, 1, len(x))
    if marked(nodes):
        from probgen.inference.enumeration import enumerated_score

        return enumerated_score(conditioned, x, nodes, plate, values.keys())
    trace.compute_log_prob()
    return {name: reducers[name](node["log_prob"])[0] for name, node in nodes.items()}


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The random sites in program order: no parameters, no deterministic values, no subsampling."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node) and not node["infer"].get("_deterministic")
    }


def marked(nodes: dict[str, Any]) -> dict[str, Any]:
    """The latent sites that are marked for enumeration."""
    return {n: node for n, node in nodes.items() if node["infer"].get("enumerate") and not node["is_observed"]}


def check_same_latents(model_nodes: dict[str, Any], guide_nodes: dict[str, Any]) -> None:
    """Model and guide must agree on which sites are latent; those that are summed out of the model are not drawn."""
    latent = {name for name, node in model_nodes.items() if not node["is_observed"]}
    if missing := latent - guide_nodes.keys() - marked(model_nodes).keys():
        name = min(missing)
        listed = model_nodes[name]["fn"].has_enumerate_support
        hint = ", or sum it out (infer={'enumerate': 'parallel'} at the site)" if listed else ""
        raise UserError(
            f"the guide has no site {name!r}, which is latent in the model: sample it in the guide, "
            f"or observe it in the model (obs=…){hint}"
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
    if isinstance(innermost(node["fn"]), Delta) and not node["is_observed"]:
        raise UserError(
            f"site {name!r} is a point (Delta), which has no density: there is no bound on log p(x) from it; train so, "
            "but evaluate with a guide that has a spread (a Normal, say)"
        )
    scale = node["scale"]
    if bool((scale != 1).any() if isinstance(scale, Tensor) else scale != 1):
        raise UserError(
            f"site {name!r} has its log-probability scaled by {float(torch.as_tensor(scale).max()):g} "
            "(poutine.scale, or a subsampling plate), expected 1: evaluate on whole batches, unscaled"
        )


def innermost(fn: Any) -> Any:
    """The distribution without what wraps it: events declared, masks, expansions."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def image_plate(nodes: list[dict[str, Any]], model: Program, x: Tensor) -> str | None:
    """The name of the plate over images: the one around all sites whose size is that of the batch.

    Where another has that size by chance, a batch of another size tells them apart. None without one.
    """
    found = [{f.name for f in n["cond_indep_stack"] if f.vectorized and f.size == len(x)} for n in nodes]
    names = set.intersection(*found) - {PARTICLES} if found else set()
    if len(names) > 1:
        other = x[:1] if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1))
        with torch.random.fork_rng(), torch.no_grad():
            again = sample_sites(poutine.trace(model).get_trace(other)).values()
        names &= {f.name for n in again for f in n["cond_indep_stack"] if f.vectorized and f.size == len(other)}
    return min(names, default=None)


def in_front(node: dict[str, Any], plate: str | None, num_particles: int, num_images: int) -> Tensor:
    """A site's value with particles and images as its first two axes, the axes of other plates behind them."""
    fn, value = node["fn"], node["value"]
    dims = {f.name: f.dim for f in node["cond_indep_stack"] if f.vectorized}
    value = value.expand(fn.batch_shape + value.shape[value.dim() - len(fn.event_shape) :])
    event = len(fn.event_shape)
    places = [dims[name] - event for name in (PARTICLES, plate) if name in dims]
    value = value.movedim(places, tuple(range(len(places))))
    rest = value.shape[len(places) :]
    plain = [size for size, axis in zip(rest, range(len(rest)), strict=True) if size != 1 or axis >= len(rest) - event]
    return value.reshape(num_particles, num_images, *plain)


def site_reducer(
    name: str, node: dict[str, Any], plate: str | None, num_particles: int, num_images: int
) -> Callable[[Tensor], Tensor]:
    """How to sum a tensor of the site's batch shape over all but particles and images."""
    fn, dims = node["fn"], {f.name: f.dim for f in node["cond_indep_stack"] if f.vectorized}
    if plate is None or plate not in dims or len(fn.batch_shape) < -dims[plate]:
        raise UserError(
            f"site {name!r}: the log-probability has shape {tuple(fn.batch_shape)}, expected one number for "
            f"each of the {num_images} images: sample it inside `with pyro.plate('images', len(x))`"
        )
    shape = range(-len(fn.batch_shape), 0)
    if extra := [d for d in shape if d not in dims.values() and fn.batch_shape[d] != 1]:
        raise UserError(
            f"site {name!r}: batch shape {tuple(fn.batch_shape)} came, expected {(num_images,)}, one entry per "
            f"image: declare the other {len(extra)} as one event with .to_event({len(extra)})"
        )
    keep = {dims[plate], dims.get(PARTICLES)}

    def reduce(log_prob: Tensor) -> Tensor:
        log_prob = log_prob.expand(fn.batch_shape)
        others = [d for d in shape if d not in keep]
        total = log_prob.sum(others) if others else log_prob
        return total.reshape(num_particles, num_images)

    return reduce
