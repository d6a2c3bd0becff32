"""Sums over the values of enumerated sites, image by image, on Pyro's packed tensors: one symbol for each axis.

log p(x) = log Σ_c Π_i p_i          a plate within the sum multiplies first
E_q[f]   = Σ_c q(c | x) f(c)        q(c | x): the product of the guide's factors in the plates around f
"""

import functools
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.traces import sample_sites

Plates = frozenset[str]  # one symbol each


class ExactLogRing(LogRing):
    """Sums of products in log space, one axis after the other.

    Pyro's own multiplies exponentials of factors that were scaled one by one, and says log 0 where two of them
    favour different values by more than 103 nats (float32).
    """

    def sumproduct(self, terms: Sequence[Any], dims: Collection[str]) -> Any:
        """log Σ_dims exp Σ terms, first over the axis whose factors have the fewest others."""
        terms = list(terms)
        while left := set(dims).intersection(set().union(*(t._pyro_dims for t in terms))):
            axes = {d: set().union(*(t._pyro_dims for t in terms if d in t._pyro_dims)) for d in left}
            dim = min(sorted(left), key=lambda d: len(axes[d]))
            product = added([t for t in terms if dim in t._pyro_dims])
            place = product._pyro_dims.index(dim)
            summed = named(product.logsumexp(place), product._pyro_dims.replace(dim, ""))
            terms = [t for t in terms if dim not in t._pyro_dims] + [summed]
        return added(terms)


def named(tensor: Any, dims: str) -> Any:
    """A tensor with symbols for its axes."""
    tensor._pyro_dims = dims
    return tensor


def added(terms: Sequence[Any]) -> Any:
    """The sum of packed tensors."""
    terms = packed.broadcast_all(*terms)
    return named(functools.reduce(torch.add, terms), terms[0]._pyro_dims)


class Sums:
    """The sums of one pass.

    model, guide: traces with all values of the enumerated sites; without a guide nothing is averaged.
    keep: the plates that remain, outermost first, and their sizes; they are reshaped to `shape`.
    score_function: let gradients pass through the draws of sites that are not reparameterized.
    """

    def __init__(
        self,
        model: poutine.Trace,
        guide: poutine.Trace | None,
        keep: Mapping[str | None, int],
        shape: tuple[int, int],
        score_function: bool = False,
    ) -> None:
        self.shape, self.symbols, self.nodes = shape, dict[str, str](), sample_sites(model)
        self.home: dict[str, tuple[str, Plates]] = {}  # of an enumerated axis: its site, the plates around that
        self.weights: list[tuple[Plates, Any]] = []
        for trace in (model,) if guide is None else (guide, model):
            trace.compute_log_prob()
            trace.pack_tensors(self.symbols)
            for name, node in sample_sites(trace).items():
                if axis := node["infer"].get("_enumerate_symbol"):
                    self.home[axis] = name, self.plates(node)
        for node in () if guide is None else sample_sites(guide).values():
            log_q = node["packed"]["unscaled_log_prob"]
            if "_enumerate_symbol" in node["infer"]:
                self.weights.append((self.plates(node), log_q))
            elif score_function and not node["fn"].has_rsample:
                self.weights.append((self.plates(node), named(log_q - log_q.detach(), log_q._pyro_dims)))
        self.keep = {self.symbols[str(name)]: size for name, size in keep.items()}

    def plates(self, node: dict[str, Any]) -> Plates:
        """The plates around a site."""
        return frozenset(self.symbols[f.name] for f in node["cond_indep_stack"] if f.vectorized)

    def expect(self, name: str, term: Any, plates: Plates) -> Float[Tensor, "k b"]:
        """Σ_c q(c | x) f(c), the other plates summed, for a packed f of site `name`."""
        self.check(name, term, plates)
        if factors := [log_q for around, log_q in self.weights if around <= plates]:
            others = set().union(*(q._pyro_dims for q in factors)) - set(term._pyro_dims) - plates
            weight = packed.exp(ExactLogRing().sumproduct(factors, others))
            weight, term = packed.broadcast_all(weight, term)
            term = named(weight * torch.where(weight > 0, term, 0), term._pyro_dims)  # 0 · log 0 = 0
        term = LogRing().product(term, set(term._pyro_dims) - self.keep.keys())
        dims = term._pyro_dims
        sizes = [size if d in dims else 1 for d, size in self.keep.items()]
        term = term.permute([dims.index(d) for d in self.keep if d in dims]).reshape(sizes)
        return term.expand(*self.keep.values()).reshape(self.shape)

    def check(self, name: str, term: Any, plates: Plates) -> None:
        """A site may depend on enumerated sites of its own plates only."""
        for axis in term._pyro_dims:
            site, around = self.home.get(axis, ("", plates))
            if inner := [plate for plate, symbol in self.symbols.items() if symbol in around - plates]:
                raise UserError(
                    f"site {name!r} depends on {site!r}, which is enumerated in plate {inner[0]!r}, and stands outside "
                    f"of it, expected one sum for each entry of the plate: move {name!r} into it, or take the mark "
                    f"of {site!r} away"
                )

    def joint(self, names: Sequence[str], summed: Collection[str]) -> Float[Tensor, "k b"]:
        """log Σ_c Π p over some sites of the model, the `summed` ones among them summed out."""
        tree: OrderedDict[Plates, list[Any]] = OrderedDict()
        for name in names:
            node, parts = self.nodes[name], self.nodes[name]["packed"]
            log_p = parts["unscaled_log_prob"]
            log_p = log_p if name in summed else packed.scale_and_mask(log_p, mask=parts["mask"])
            self.check(name, log_p, self.plates(node))
            tree.setdefault(self.plates(node), []).append(log_p)
        axes = {self.nodes[name]["infer"]["_enumerate_symbol"] for name in summed}
        try:
            found = contract_tensor_tree(tree, axes, ring=ExactLogRing())
        except NotImplementedError as error:
            raise UserError(
                f"sites {', '.join(map(repr, names))}: enumerated sites in two plates that cross, expected plates "
                "inside each other: take the mark of one away"
            ) from error
        total = sum(self.expect(", ".join(names), t, plates) for plates, terms in found.items() for t in terms)
        return self.common_scale(names) * torch.as_tensor(total)

    def common_scale(self, names: Sequence[str]) -> float:
        """The factor of `poutine.scale` outside of the logarithm: one for all sites under one sum."""
        scales = {s for name in names for s in torch.as_tensor(self.nodes[name]["scale"]).unique().tolist()}
        if len(scales) > 1:
            raise UserError(
                f"sites {', '.join(map(repr, names))} are summed over together but scaled by {sorted(scales)}, "
                "expected one poutine.scale around all of them"
            )
        return scales.pop()
