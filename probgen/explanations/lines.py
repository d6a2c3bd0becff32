"""A derivation as data: lines that follow from each other, each with a number computed by its own expression.

a  = b      holds where |b − a| ≤ 1e-8 · max(1, |a|, |b|), or, where one of them is sampled, ≤ 5 standard errors
a  ≥ b      holds where b ≤ a, up to the same slack; ≤ and ≠ likewise

Nothing holds of a number, or of a standard error, that is not finite.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probgen.inference.estimates import Estimate

Relation = Literal["", "=", "≥", "≤", "≠"]
Number = float | Estimate | None

TOLERANCE = 1e-8  # of exact numbers, relative, and absolute below one
MOST_ERRORS = 5.0  # standard errors between two sampled numbers that are still called equal


@dataclass(frozen=True)
class Line:
    """One line of a derivation.

    relation: to the line before; empty in the first.
    number: of this line, by its own expression; an `Estimate` where it is sampled, None where it cannot be computed.
    reason: for the step, in a few words. by: the function that computes the number; empty where it is as written.
    """

    relation: Relation
    formula: str
    number: Number
    reason: str
    by: str = ""

    @property
    def value(self) -> float | None:
        """The number without its error."""
        return self.number.value if isinstance(self.number, Estimate) else self.number

    @property
    def stderr(self) -> float:
        """Standard error of the number, 0 of an exact one; of an estimate that is right to rounding, 0 too."""
        if not isinstance(self.number, Estimate):
            return 0.0
        error = self.number.stderr
        return 0.0 if error <= TOLERANCE * max(1.0, abs(self.number.value)) else error


@dataclass(frozen=True)
class Check:
    """How a line compares with the one before.

    difference: its number minus that of the line before; standard_errors: the size of that in its own standard error,
    None between exact numbers. holds: whether the relation does; None where one of the two has no number.
    """

    difference: float | None = None
    standard_errors: float | None = None
    holds: bool | None = None


def compare(before: Line, line: Line) -> Check:
    """Whether a line's relation to the one before holds, and by how much; never for an infinite number or nan."""
    if before.value is None or line.value is None:
        return Check()
    difference, error = line.value - before.value, math.hypot(before.stderr, line.stderr)
    if not all(map(math.isfinite, (before.value, line.value, error))):
        return Check(difference, None, False)  # a slack relative to an infinite number would allow anything
    slack = TOLERANCE * max(1.0, abs(before.value), abs(line.value))
    if error > 0:
        slack = MOST_ERRORS * error
    holds = {
        "=": abs(difference) <= slack,
        "≥": difference <= slack,
        "≤": difference >= -slack,
        "≠": abs(difference) > slack,
    }[line.relation]
    return Check(difference, abs(difference) / error if error > 0 else None, holds)


@dataclass(frozen=True)
class Chain:
    """Lines of one unit that follow from each other, under a title; `remark` is what they come to."""

    title: str
    lines: tuple[Line, ...]
    unit: str = "nats"
    remark: str = ""

    @property
    def checks(self) -> list[Check]:
        """One for each line; that of the first is empty."""
        return [Check(), *(compare(before, line) for before, line in pairwise(self.lines))]


@dataclass(frozen=True)
class Derivation:
    """What `probgen explain` shows: an opening, chains of lines, and what is to be remembered.

    opening: what is shown, and on which model, with its numbers.
    """

    topic: str
    opening: str
    chains: tuple[Chain, ...]
    closing: str = ""

    def checked(self) -> Iterator[tuple[Chain, Line, Check]]:
        """Every line that follows from another."""
        for chain in self.chains:
            yield from zip([chain] * len(chain.lines[1:]), chain.lines[1:], chain.checks[1:], strict=True)

    @property
    def holds(self) -> bool:
        """Whether every relation between two numbers does."""
        return all(check.holds is not False for _, _, check in self.checked())

    @property
    def verdict(self) -> str:
        """`8 equals signs; largest difference 3.6e-15 nats between exact lines, 1.2 standard errors …`."""
        found = list(self.checked())
        equal = [(chain, check) for chain, line, check in found if line.relation == "=" and check.holds is not None]
        others = [check for _, line, check in found if line.relation != "=" and check.holds is not None]
        exact = [(abs(c.difference or 0.0), chain.unit) for chain, c in equal if c.standard_errors is None]
        errors = [c.standard_errors for _, c in equal if c.standard_errors is not None]
        told = [f"{small(max(exact)[0])} {max(exact)[1]}".rstrip() + " between exact lines"] if exact else []
        told += [f"{max(errors):.1f} standard errors between sampled ones"] if errors else []
        sentence = f"{counted(len(equal), 'equals sign')}; largest difference {', '.join(told)}" if equal else ""
        if others:
            sentence += f"; {counted(len(others), 'inequality', 'inequalities')}"
        if missing := sum(check.holds is None for _, _, check in found):
            sentence += f"; {missing} without a number on both sides"
        failed = sum(check.holds is False for _, _, check in found)
        return sentence.lstrip("; ") + (f"; {failed} of these DO NOT HOLD" if failed > 1 else failed * DOES_NOT)

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines and for the table."""
        return {
            "topic": self.topic,
            "opening": self.opening,
            "chains": [chain_record(chain) for chain in self.chains],
            "closing": self.closing,
            "verdict": self.verdict,
            "holds": self.holds,
        }


DOES_NOT = "; 1 of these DOES NOT HOLD"


def chain_record(chain: Chain) -> dict[str, Any]:
    """A chain with a record for each line."""
    lines = [
        {
            "relation": line.relation,
            "formula": line.formula,
            "value": line.value,
            "stderr": line.stderr or None,
            "reason": line.reason,
            "by": line.by,
            "difference": check.difference,
            "standard_errors": check.standard_errors,
            "holds": check.holds,
        }
        for line, check in zip(chain.lines, chain.checks, strict=True)
    ]
    return {"title": chain.title, "unit": chain.unit, "lines": lines, "remark": chain.remark}


def small(value: float) -> str:
    """`3.6e-15`, or `0`."""
    return f"{value:.1e}" if value else "0"


def counted(number: int, one: str, several: str = "") -> str:
    """`1 equals sign`, `8 equals signs`."""
    return f"{number} {one if number == 1 else several or one + 's'}"


# --- sampled numbers


def mean_of(draws: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent draws, with its standard error."""
    return Estimate.of(draws, "estimate")


def added(*parts: float | Estimate) -> Estimate:
    """The sum of numbers that were drawn independently: their standard errors add in quadrature."""
    errors = [part.stderr for part in parts if isinstance(part, Estimate)]
    value = sum(part.value if isinstance(part, Estimate) else part for part in parts)
    number, error = (torch.tensor([t], dtype=torch.float64) for t in (value, math.hypot(*errors)))
    return Estimate.of(number, "estimate", noise=error)


def minus(part: Estimate) -> Estimate:
    """−part."""
    return Estimate.of(-part.per_image, part.kind, part.particles, part.noise)
