"""Discrete latents summed over their values instead of drawn, image by image.

    marked in the model, not in the guide   log p(x, z) = log Σ_c p(c) p(x, z | c)
    marked in the guide                     E_q[f(c, z)] = Σ_c q(c | x) E_q(z | c, x)[f(c, z)]

A site is marked as everywhere in Pyro, by `infer={"enumerate": "parallel"}`. Its values then lie along an axis of
their own, to the left of all plates, which the program's tensors carry on by broadcasting; both sums are exact.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.contraction import Sums
from probgen.inference.traces import PARTICLES, Program, Site, in_front, marked, sample_sites

Nodes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Factor:
    """log p of one site of the model, or of all observed ones under one sum; and the sites that it sums out."""

    names: tuple[str, ...]
    log_p: Float[Tensor, "k b"]
    summed_out: tuple[str, ...]


def enumerated_sites(
    model: Program,
    guide: Program | poutine.Trace,
    x: Tensor,
    nodes: Nodes,
    plate: str | None,
    shape: tuple[int, int],
    *,
    score_function: bool,
) -> list[Site]:
    """What `trace_pair` returns, for a pair with marked sites that ran well without enumeration.

    guide: the program, or a trace of it, whose marked sites are then draws. nodes: the sites of that first run.
    plate: that over images. shape: particles and images. score_function: let gradients pass through draws that are
        not reparameterized.
    """
    first, broadcasts = first_axis(nodes), PARTICLES in {f.name for n in nodes.values() for f in n["cond_indep_stack"]}
    traced = isinstance(guide, poutine.Trace)
    drawn = guide.nodes if isinstance(guide, poutine.Trace) else {}
    with marks_told({name: node for name, node in marked(nodes).items() if name not in drawn}):
        trace = guide if traced else poutine.trace(EnumMessenger(first)(guide)).get_trace(x)
        model = poutine.replay(EnumMessenger(first if traced else None)(model), trace=trace)
        traces = [prune_subsample_sites(t) for t in (poutine.trace(model).get_trace(x), trace)]
        keep = {PARTICLES: shape[0], plate: shape[1]} if broadcasts else {plate: math.prod(shape)}
        sums = Sums(traces[0], traces[1], keep, shape, score_function)
    guide_nodes = sample_sites(traces[1])
    return [site_of(factor, sums, guide_nodes, plate) for factor in factors(sums, guide_nodes.keys())]


def first_axis(nodes: Nodes) -> int:
    """The first axis to the left of all plates."""
    return -1 - max((-f.dim for node in nodes.values() for f in node["cond_indep_stack"] if f.vectorized), default=0)


def site_of(factor: Factor, sums: Sums, guide_nodes: Nodes, plate: str | None) -> Site:
    """A factor of the model beside the guide's, which is averaged over the enumerated sites as it is."""
    name = factor.names[0]
    node, q = sums.nodes[name], guide_nodes.get(name)
    own, symbols, plates = node if q is None else q, node["infer"]["_dim_to_symbol"], sums.plates(node)
    drawn = sums.home.keys().isdisjoint(own["packed"]["log_prob"]._pyro_dims)
    return Site(
        name=", ".join(factor.names),
        observed=q is None,
        value=node["value"],
        drawn=in_front(own, plate, *sums.shape) if drawn else torch.empty(*sums.shape, 0),
        p=node["fn"],
        q=None if q is None else q["fn"],
        log_p=factor.log_p,
        log_q=None if q is None else sums.expect(name, q["packed"]["log_prob"], sums.plates(q)),
        reduce=lambda tensor: sums.expect(name, packed.pack(tensor, symbols), plates),
        mask=node["mask"],
        guide_position=None if q is None else list(guide_nodes).index(name),
        summed_out=factor.summed_out,
        enumerated=q is not None and "_enumerate_symbol" in q["infer"],
    )


def factors(sums: Sums, own: Collection[str]) -> list[Factor]:
    """log p(x, z) as a sum of these, in program order; enumerated sites that are not `own` are summed out.

    Latents z_1, z_2 and observed sites x, y under one sum become log p(z_1), log p(z_2 | z_1), log p(x, y | z_1, z_2).
    """
    axes = {n: node["infer"].get("_enumerate_symbol") for n, node in sums.nodes.items() if n not in own}
    axes = {name: axis for name, axis in axes.items() if axis is not None}
    found: list[Factor] = []
    for names in connected(sums.nodes, set(axes.values())):
        if summed := tuple(name for name in names if name in axes):
            found += factors_of_sum(sums, names, summed, own)
        else:
            node = sums.nodes[names[0]]
            found.append(Factor((names[0],), sums.expect(names[0], node["packed"]["log_prob"], sums.plates(node)), ()))
    return sorted(found, key=lambda factor: list(sums.nodes).index(factor.names[0]))


def factors_of_sum(sums: Sums, names: list[str], summed: tuple[str, ...], own: Collection[str]) -> list[Factor]:
    """The factors of the sites under one sum: each latent's given those before it, then all that is observed."""
    if summed == tuple(names):
        if sums.home.keys().isdisjoint(sums.nodes[names[0]]["packed"]["unscaled_log_prob"]._pyro_dims):
            return []  # a single value
        raise UserError(
            f"site {names[0]!r} is enumerated, but no other site carries its values on, expected one that depends "
            "on it: keep axes on the left when reshaping, or leave the site out"
        )
    latent, observed = ([n for n in names if n not in summed and (n in own) is one] for one in (True, False))
    found, seen, before = [], list(summed), None
    for step in [*([name] for name in latent), *([observed] if observed else [])]:
        seen += step
        total = sums.joint(seen, summed)
        log_p = total if before is None else torch.where(before == -math.inf, 0, total - before)
        found.append(Factor(tuple(step), log_p, summed))
        before = total
    return found


def connected(nodes: Nodes, axes: set[str]) -> list[list[str]]:
    """The sites under one sum, in program order; a site without any of the axes stands alone."""
    groups: list[tuple[set[str], list[str]]] = []
    for name, node in nodes.items():
        own = axes & set(node["packed"]["unscaled_log_prob"]._pyro_dims)
        touching = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        groups.append((own.union(*(g[0] for g in touching)), [n for g in touching for n in g[1]] + [name]))
    order = list(nodes)
    return [sorted(names, key=order.index) for _, names in groups]


def enumerated_score(
    program: Program, x: Tensor, nodes: Nodes, plate: str | None, own: Collection[str]
) -> dict[str, Tensor]:
    """What `score` returns, for a program with marked sites whose other latents are conditioned on: `own`."""
    with marks_told(marked(nodes)):
        trace = prune_subsample_sites(poutine.trace(EnumMessenger(first_axis(nodes))(program)).get_trace(x))
        sums = Sums(trace, None, {plate: len(x)}, (1, len(x)))
    return {", ".join(factor.names): factor.log_p[0] for factor in factors(sums, own)}


@contextmanager
def marks_told(sites: Nodes) -> Iterator[None]:
    """Refuse marks that cannot be followed; a program that fails with enumeration only is told so, in one line."""
    for name, node in sites.items():
        check_mark(name, node)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        what = " ".join(lines[:2]) if lines[0].startswith("Error while") else lines[0]
        raise UserError(
            f"enumerating {', '.join(map(repr, sites))}, all values at once along an axis on the left, the program "
            f"fails ({type(error).__name__}: {what}), expected tensors that broadcast over such an axis: count axes "
            "from the right (x[..., 0], .sum(-1)), expand before torch.cat, or take the mark away"
        ) from error


def check_mark(name: str, node: dict[str, Any]) -> None:
    """In parallel, over all values, of a distribution that can list them."""
    infer, fn = node["infer"], node["fn"]
    if infer["enumerate"] != "parallel":
        raise UserError(
            f"site {name!r} is marked for {infer['enumerate']!r} enumeration, expected 'parallel': set "
            "infer={'enumerate': 'parallel'}"
        )
    if infer.get("num_samples") is not None:
        raise UserError(
            f"site {name!r} is marked for enumeration with num_samples={infer['num_samples']}, expected all of its "
            "values: leave num_samples out"
        )
    if not fn.has_enumerate_support:
        kind = f"{type(fn.base_dist).__name__} in an event" if hasattr(fn, "base_dist") else type(fn).__name__
        raise UserError(
            f"site {name!r} is marked for enumeration, but a {kind} has no list of values, expected one discrete "
            "variable (Categorical, Bernoulli, …): take the mark away, or put the entries of an event into a plate"
        )
