"""A pair prints its own equation: read off the program, so that code and formula cannot disagree.

Which site depends on which is found by running the program on tensors that remember where they came from
(Pyro's provenance tracking); distributions and plates come from the trace.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.distributions.implicit import Implicit
from probgen.inference.traces import Program, as_real, evaluating, marked

DATA = "\0data"  # the tag of the images that a program is handed
NO_DENSITY = ("ImproperUniform", "Unit")  # Unit is the distribution behind `pyro.factor`
GREEK = ("alpha", "beta", "gamma", "epsilon", "theta", "lambda", "mu", "sigma", "phi", "psi")


@dataclass(frozen=True)
class Factor:
    """One site as a factor: p(name | parents).

    role: `latent`, `summed out` (latent, marked for enumeration and unknown to the guide), `observed`,
        `deterministic` (a function of its parents, no density), or `implicit` (made by a sampler, no density).
    distribution: its name; shape: of one value; plates: names of the plates around it.
    chain: whether the distribution is itself a product of conditionals, Π_i p(x_i | x_<i); `label`: the name of a
        label that it sums over.
    """

    name: str
    role: str
    parents: tuple[str, ...]
    distribution: str
    shape: tuple[int, ...]
    plates: tuple[str, ...]
    chain: bool = False
    label: str | None = None


@dataclass(frozen=True)
class Equation:
    """The factors of a model and its guide in program order; `str()` is for the terminal, `latex` for the page."""

    model: tuple[Factor, ...]
    guide: tuple[Factor, ...]

    @property
    def latent(self) -> tuple[str, ...]:
        """Names of the latent sites, in the model's order; without those that are summed out."""
        return tuple(f.name for f in self.model if f.role == "latent")

    @property
    def summed_out(self) -> tuple[str, ...]:
        """Names of the latent sites that the model sums over."""
        return tuple(f.name for f in self.model if f.role == "summed out")

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observed sites."""
        return tuple(f.name for f in self.model if f.role == "observed")

    def __str__(self) -> str:
        return "\n".join(self.lines(Unicode()))

    @property
    def latex(self) -> str:
        """An `aligned` block, for use inside `$$ … $$`."""
        rows = [line.replace(" = ", " &= ", 1) for line in self.lines(Latex())]
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        """What a notebook shows."""
        return f"$$\n{self.latex}\n$$"

    def lines(self, style: "Unicode | Latex") -> list[str]:
        """The joint, the guide, the implicit functions, and log p(x) with its terms.

        An improper prior or a `pyro.factor` makes no density: then only the functions remain.
        """
        random = [f for f in self.model if f.role not in ("deterministic", "implicit")]
        functions = [f for f in self.model if f.role in ("deterministic", "implicit")]
        if any(f.role == "implicit" for f in functions):
            drawn = [f"{style.name(f.name)} {style.drawn_from} {style.factor('p', f)}" for f in random]
            return drawn + [f"{style.name(f.name)} = {style.function(f)}" for f in functions]
        if any(f.distribution in NO_DENSITY for f in random):
            return [f"{style.name(f.name)} = {style.function(f)}" for f in functions]
        joint = style.total(self.summed_out, style.product("p", random))
        lines = [f"{style.density('p', [*self.observed, *self.latent])} = {joint}"]
        if self.guide:
            joint = style.density("q", self.latent, self.observed)
            product = style.product("q", self.guide)
            lines.append(joint if joint == product else f"{joint} = {product}")
        lines += [f"{style.name(f.name)} = {style.function(f)}" for f in functions]
        if self.observed:
            lines.append(self.evidence(style))
        return lines

    def evidence(self, style: "Unicode | Latex") -> str:
        """log p(x) as the ELBO's two terms and the third, or exactly where nothing is latent."""
        left = f"{style.log} {style.density('p', self.observed)}"
        if not self.latent:
            return f"{left} = {' + '.join(map(style.log_of, self.likelihood(style)))}"
        first, second, third = self.terms(style)
        return f"{left} = {first} {style.minus} {second} + {third}"

    def terms(self, style: "Unicode | Latex") -> tuple[str, str, str]:
        """The expected log-likelihood, the KL to the prior, and the KL to the posterior."""
        guide = style.density("q", self.latent, self.observed)
        prior = style.density("p", self.latent)
        posterior = style.density("p", self.latent, self.observed)
        logs = " + ".join(map(style.log_of, self.likelihood(style)))
        return style.expect(logs), style.kl(guide, prior), style.kl(guide, posterior)

    def likelihood(self, style: "Unicode | Latex") -> list[str]:
        """Whose logarithms add up to log p(x | z): p(x | parents) of each observed site, or a sum Σ_c of products.

        Where p(z) is part of that sum, the factor of x is what remains of it: p(x | z).
        """
        parts = []
        for group in self.under_one_sum():
            names = [f.name for f in group]
            summed, latent, seen = (
                [f.name for f in group if f.role == r] for r in ("summed out", "latent", "observed")
            )
            given = [name for name in self.latent if name in latent or any(name in f.parents for f in group)]
            given += [n for n in self.observed if n not in names and any(n in f.parents for f in group)]
            if seen:
                whole = style.total(summed, style.product("p", group))
                parts.append(style.density("p", seen, given) if summed and latent else whole)
        return parts

    def under_one_sum(self) -> list[list[Factor]]:
        """The random factors, those together that share a site which is summed out."""
        groups: list[tuple[set[str], list[Factor]]] = []
        for f in self.model:
            if f.role != "deterministic":
                own = {f.name, *f.parents} & set(self.summed_out)
                touching = [group for group in groups if group[0] & own]
                groups = [group for group in groups if not group[0] & own]
                groups.append((own.union(*(g[0] for g in touching)), [p for g in touching for p in g[1]] + [f]))
        place = list(self.model).index
        return sorted((sorted(group, key=place) for _, group in groups), key=lambda group: place(group[0]))


class Unicode:
    """Formulas as plain text."""

    log, minus, bar, dot, drawn_from = "log", "−", " | ", " · ", "~"
    every, all_of = "Π_i ", "Σ_i "

    def name(self, name: str) -> str:
        """A site's symbol."""
        return name

    def density(self, letter: str, names: Sequence[str], given: Sequence[str] = ()) -> str:
        """`p(x, z | y)`."""
        right = self.bar + ", ".join(map(self.name, given)) if given else ""
        return f"{letter}({', '.join(map(self.name, names))}{right})"

    def factor(self, letter: str, factor: Factor) -> str:
        """`p(x | parents)`, or by the chain rule `Π_i p(x_i | x_<i, parents)`."""
        if not factor.chain:
            return self.density(letter, [factor.name], factor.parents)
        labels = (factor.label,) if factor.label else ()
        before = self.bar + ", ".join([self.entry(factor.name, "<i"), *map(self.name, (*factor.parents, *labels))])
        product = f"{self.every}{letter}({self.entry(factor.name, 'i')}{before})"
        return self.total(labels, f"{self.density(letter, labels)} {product}") if labels else product

    def entry(self, name: str, index: str) -> str:
        """`x_i`, and `x_<i`: all before it."""
        return f"{self.name(name)}_{index}"

    def log_of(self, product: str) -> str:
        """`log …`; of a product over i the sum of the logarithms."""
        if product.startswith(self.every):
            return f"{self.all_of}{self.log} {product.removeprefix(self.every)}"
        return f"{self.log} {product}"

    def product(self, letter: str, factors: Sequence[Factor]) -> str:
        """`p(z) · p(x | z)`."""
        return self.dot.join(self.factor(letter, f) for f in factors)

    def total(self, names: Sequence[str], product: str) -> str:
        """`Σ_c …`: the sum over some sites; the product itself over none."""
        index = ",".join(map(self.name, names))
        return f"Σ_{{{index}}} {product}" if len(names) > 1 else f"Σ_{index} {product}" if names else product

    def function(self, factor: Factor) -> str:
        """`f(z)`: a deterministic site."""
        letter = "G" if factor.role == "implicit" else "f"
        return f"{letter}({', '.join(map(self.name, factor.parents))})"

    def expect(self, inside: str) -> str:
        """`E_q[…]`."""
        return f"E_q[{inside}]"

    def kl(self, left: str, right: str) -> str:
        """`KL(… ‖ …)`."""
        return f"KL({left} ‖ {right})"


class Latex(Unicode):
    """Formulas for a page."""

    log, minus, bar, dot, drawn_from = "\\log", "-", " \\mid ", "\\, ", "\\sim"
    every, all_of = "\\prod_i ", "\\sum_i "

    def name(self, name: str) -> str:
        """`z_1` as z with an index, `mu` as the Greek letter, longer words upright."""
        stem, _, index = name.partition("_")
        stem = f"\\{stem}" if stem in GREEK else stem if len(stem) == 1 else f"\\mathrm{{{stem}}}"
        return f"{stem}_{{{index.replace('_', ',')}}}" if index else stem

    def entry(self, name: str, index: str) -> str:
        """`x_i`, `x_{<i}`; of a name that has an index, `x_{1,i}`."""
        own = self.name(name)
        if own.endswith("}") and "_{" in own:
            return f"{own[:-1]},{index}}}"
        return f"{own}_{index}" if len(index) == 1 else f"{own}_{{{index}}}"

    def total(self, names: Sequence[str], product: str) -> str:
        """`Σ_c …`."""
        return f"\\sum_{{{', '.join(map(self.name, names))}}} {product}" if names else product

    def expect(self, inside: str) -> str:
        """`E_q[…]`."""
        return f"\\mathbb{{E}}_q\\left[{inside}\\right]"

    def kl(self, left: str, right: str) -> str:
        """`KL(… ‖ …)`."""
        return f"\\mathrm{{KL}}\\left({left} \\,\\|\\, {right}\\right)"


def equation(model: Program, guide: Program, x: Shaped[Tensor, "b *shape"]) -> Equation:
    """The equation of a Pyro pair, from the program itself.

    x: a few images of the right shape; the random state is left as it was. The guide's dependence on the
    images is written as dependence on the observed sites.
    """
    with evaluating(model, guide):
        guide_trace = poutine.trace(guide).get_trace
        q = factors(guide, as_real(x))
        with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
            drawn = guide_trace(as_real(x))
        p = factors(poutine.replay(model, trace=drawn), as_real(x))
    guided = {f.name for f in q}
    p, q = ([replace(f, role="latent") if is_drawn(f, guided) else f for f in part] for part in (p, q))
    observed = [f.name for f in p if f.role == "observed"]
    return Equation(
        tuple(with_data(f, [name for name in observed if name != f.name]) for f in p),
        tuple(with_data(f, observed) for f in q),
    )


def is_drawn(factor: Factor, guided: Collection[str]) -> bool:
    """Marked for enumeration, but in the guide, whose draws it has."""
    return factor.role == "summed out" and factor.name in guided


def with_data(factor: Factor, names: Sequence[str]) -> Factor:
    """The factor with its dependence on the images spelled as the sites that hold them."""
    parents = [p for p in factor.parents if p != DATA]
    parents += [name for name in names if DATA in factor.parents and name not in parents]
    return Factor(**{**vars(factor), "parents": tuple(parents)})


def factors(program: Program, x: Tensor) -> list[Factor]:
    """Each site of one program with the sites that its distribution was computed from."""
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
        tagged = ProvenanceTensor(x, frozenset({DATA}))
        with TrackProvenance(include_deterministic=True):
            trace = poutine.trace(program).get_trace(tagged)
        nodes = {k: n for k, n in trace.nodes.items() if n["type"] == "sample" and not site_is_subsample(n)}
        return [describe(name, node, list(nodes)) for name, node in nodes.items()]


def describe(name: str, node: dict[str, Any], order: Sequence[str]) -> Factor:
    """One site of a tagged trace."""
    deterministic, implicit = bool(node["infer"].get("_deterministic")), isinstance(node["fn"], Implicit)
    fn = node["fn"].base_dist if deterministic else node["fn"]
    found = get_provenance(fn.value if implicit else fn.log_prob(node["value"])) - {name}
    value = detach_provenance(node["value"])
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    event = len(fn.event_shape)
    latent = "summed out" if marked({name: node}) else "latent"
    role = (
        "implicit" if implicit else "deterministic" if deterministic else "observed" if node["is_observed"] else latent
    )
    return Factor(
        name,
        role,
        tuple(sorted(found, key=lambda parent: order.index(parent) if parent in order else -1)),
        type(base).__name__,
        tuple(value.shape[value.dim() - event :]),
        tuple(f.name for f in node["cond_indep_stack"]),
        bool(getattr(base, "is_chain", False)),
        getattr(base, "label_name", None),
    )
