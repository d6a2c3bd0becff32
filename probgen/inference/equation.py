"""A pair prints its own equation: read off the program, so that code and formula cannot disagree.

Which site depends on which is found by running the program on tensors that remember where they came from
(Pyro's provenance tracking); distributions and plates come from the trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from probgen.inference.traces import Program, as_real, evaluating

DATA = "\0data"  # the tag of the images that a program is handed
NO_DENSITY = ("ImproperUniform", "Unit")  # Unit is the distribution behind `pyro.factor`
GREEK = ("alpha", "beta", "gamma", "epsilon", "theta", "lambda", "mu", "sigma", "phi", "psi")


@dataclass(frozen=True)
class Factor:
    """One site as a factor: p(name | parents).

    role: `latent`, `observed`, or `deterministic` (a function of its parents, no density).
    distribution: its name; shape: of one value; plates: names of the plates around it.
    """

    name: str
    role: str
    parents: tuple[str, ...]
    distribution: str
    shape: tuple[int, ...]
    plates: tuple[str, ...]


@dataclass(frozen=True)
class Equation:
    """The factors of a model and its guide in program order; `str()` is for the terminal, `latex` for the page."""

    model: tuple[Factor, ...]
    guide: tuple[Factor, ...]

    @property
    def latent(self) -> tuple[str, ...]:
        """Names of the latent sites, in the model's order."""
        return tuple(f.name for f in self.model if f.role == "latent")

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
        random = [f for f in self.model if f.role != "deterministic"]
        functions = [f for f in self.model if f.role == "deterministic"]
        if any(f.distribution in NO_DENSITY for f in random):
            return [f"{style.name(f.name)} = {style.function(f)}" for f in functions]
        lines = [f"{style.density('p', [*self.observed, *self.latent])} = {style.product('p', random)}"]
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
        likelihood = [style.factor("p", f) for f in self.model if f.role == "observed"]
        logs = " + ".join(f"{style.log} {factor}" for factor in likelihood)
        if not self.latent:
            return f"{left} = {logs}"
        guide = style.density("q", self.latent, self.observed)
        prior = style.density("p", self.latent)
        posterior = style.density("p", self.latent, self.observed)
        return f"{left} = {style.expect(logs)} {style.minus} {style.kl(guide, prior)} + {style.kl(guide, posterior)}"


class Unicode:
    """Formulas as plain text."""

    log, minus, bar, dot = "log", "−", " | ", " · "

    def name(self, name: str) -> str:
        """A site's symbol."""
        return name

    def density(self, letter: str, names: Sequence[str], given: Sequence[str] = ()) -> str:
        """`p(x, z | y)`."""
        right = self.bar + ", ".join(map(self.name, given)) if given else ""
        return f"{letter}({', '.join(map(self.name, names))}{right})"

    def factor(self, letter: str, factor: Factor) -> str:
        """`p(x | parents)`."""
        return self.density(letter, [factor.name], factor.parents)

    def product(self, letter: str, factors: Sequence[Factor]) -> str:
        """`p(z) · p(x | z)`."""
        return self.dot.join(self.factor(letter, f) for f in factors)

    def function(self, factor: Factor) -> str:
        """`f(z)`: a deterministic site."""
        return f"f({', '.join(map(self.name, factor.parents))})"

    def expect(self, inside: str) -> str:
        """`E_q[…]`."""
        return f"E_q[{inside}]"

    def kl(self, left: str, right: str) -> str:
        """`KL(… ‖ …)`."""
        return f"KL({left} ‖ {right})"


class Latex(Unicode):
    """Formulas for a page."""

    log, minus, bar, dot = "\\log", "-", " \\mid ", "\\, "

    def name(self, name: str) -> str:
        """`z_1` as z with an index, `mu` as the Greek letter, longer words upright."""
        stem, _, index = name.partition("_")
        stem = f"\\{stem}" if stem in GREEK else stem if len(stem) == 1 else f"\\mathrm{{{stem}}}"
        return f"{stem}_{{{index.replace('_', ',')}}}" if index else stem

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
    observed = [f.name for f in p if f.role == "observed"]
    return Equation(
        tuple(with_data(f, [name for name in observed if name != f.name]) for f in p),
        tuple(with_data(f, observed) for f in q),
    )


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
    deterministic = bool(node["infer"].get("_deterministic"))
    fn = node["fn"].base_dist if deterministic else node["fn"]
    found = get_provenance(fn.log_prob(node["value"])) - {name}
    value = detach_provenance(node["value"])
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    event = len(fn.event_shape)
    return Factor(
        name,
        "deterministic" if deterministic else "observed" if node["is_observed"] else "latent",
        tuple(sorted(found, key=lambda parent: order.index(parent) if parent in order else -1)),
        type(base).__name__,
        tuple(value.shape[value.dim() - event :]),
        tuple(f.name for f in node["cond_indep_stack"]),
    )
