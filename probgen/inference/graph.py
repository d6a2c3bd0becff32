"""A pair as a picture: its sites, which depends on which, and the plates around them, drawn by Pyro's renderer.

Solid arrows are the model's, p; dashed ones the guide's, q, as in Kingma and Welling (2014, figure 1). The relations
are those of the pair's `Equation`, so that formula and picture cannot disagree.
"""

from typing import TYPE_CHECKING

from pyro.infer.inspect import generate_graph_specification, render_graph

from probgen.errors import UserError
from probgen.inference.equation import Equation, Factor

if TYPE_CHECKING:
    import graphviz


def graph(equation: Equation) -> "graphviz.Digraph":
    """The pair as a `graphviz.Digraph`: `.source` is its text, `.render()` a file, and a notebook shows it.

    Raises UserError for plates that overlap, neither inside the other: Pyro cannot draw them.
    """
    names = [factor.name for factor in equation.model]
    plates = {plate: None for factor in equation.model for plate in factor.plates}
    relations = {
        "sample_sample": {f.name: [p for p in f.parents if p in names] for f in equation.model},
        "sample_dist": {f.name: kind_of(f) for f in equation.model},
        "plate_sample": {plate: [f.name for f in equation.model if plate in f.plates] for plate in plates},
        "observed": list(equation.observed),
    }
    try:
        drawn = render_graph(generate_graph_specification(relations), render_distributions=True)
    except NotImplementedError as error:
        raise UserError(f"no graph: plates of the model overlap ({str(error).split('.')[0]})") from error
    for factor in equation.guide:
        for parent in factor.parents:
            drawn.edge(parent, factor.name, style="dashed", constraint="false")
    return drawn


def kind_of(factor: Factor) -> str:
    """What Pyro writes beside a site."""
    return "Deterministic" if factor.role == "deterministic" else factor.distribution
