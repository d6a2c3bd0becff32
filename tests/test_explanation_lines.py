"""What holds between two lines of a derivation, and what a verdict says."""

import math

import pytest
from derivations import line, sampled

from probgen.errors import UserError
from probgen.explanations import elbo
from probgen.explanations.lines import Chain, Derivation, added, compare, minus
from probgen.explanations.topics import topic_named


@pytest.mark.parametrize(
    ("before", "relation", "after", "holds"),
    [
        (1.0, "=", 1.0 + 1e-9, True),
        (1.0, "=", 1.0 + 1e-7, False),
        (1e6, "=", 1e6 + 1e-3, True),
        (1e6, "=", 1e6 + 1e-1, False),
        (0.0, "=", 1e-12, True),
        (1.0, "=", math.nan, False),
        (1.0, "≥", 0.5, True),
        (1.0, "≥", 1.0, True),
        (1.0, "≥", 1.001, False),
        (1.0, "≤", 2.0, True),
        (1.0, "≤", 0.999, False),
        (1.0, "≤", math.nan, False),
        (1.0, "≠", 1.1, True),
        (1.0, "≠", 1.0, False),
        (1.0, "=", math.inf, False),
        (1.0, "≥", math.inf, False),
        (1.0, "≤", -math.inf, False),
        (1.0, "≠", math.inf, False),
        (math.inf, "=", math.inf, False),
        (sampled(1.0, math.nan), "=", 1.0, False),
        (1.0, "≥", sampled(0.5, math.nan), False),
        (sampled(1.0, 0.1), "=", 1.4, True),
        (sampled(1.0, 0.1), "=", 1.6, False),
        (sampled(1.0, 0.3), "=", sampled(3.0, 0.4), True),
        (sampled(1.0, 0.3), "=", sampled(3.6, 0.4), False),
        (sampled(1.0, 0.1), "≥", 1.4, True),
        (sampled(1.0, 0.1), "≥", 1.6, False),
        (sampled(1.0, 0.1), "≠", 1.4, False),
        (sampled(1.0, 1e-14), "=", 1.0 + 1e-12, True),
        (None, "=", 1.0, None),
        (1.0, "≥", None, None),
    ],
)
def test_a_relation_holds_within_rounding_or_five_standard_errors(before, relation, after, holds):
    assert compare(line("", before), line(relation, after)).holds is holds


def test_differences_are_told_in_their_own_unit():
    exact = compare(line("", 2.0), line("=", 2.5))
    assert (exact.difference, exact.standard_errors) == (0.5, None)
    drawn = compare(line("", sampled(2.0, 0.3)), line("=", sampled(3.0, 0.4)))
    assert drawn.difference == pytest.approx(1.0)
    assert drawn.standard_errors == pytest.approx(2.0)


def test_sums_of_independent_numbers():
    total = added(1.0, sampled(2.0, 0.3), minus(sampled(5.0, 0.4)))
    assert total.value == pytest.approx(-2.0)
    assert total.stderr == pytest.approx(0.5)


def derivation(*numbers, relation="="):
    first, *rest = numbers
    return Derivation("kl", "", (Chain("", (line("", first), *(line(relation, n) for n in rest))),))


def test_the_verdict_counts_and_tells_the_largest_difference():
    found = derivation(1.0, 1.0, 1.0 + 2e-12, sampled(1.1, 0.1))
    assert found.holds
    assert found.verdict == (
        "3 equals signs; largest difference 2.0e-12 nats between exact lines, 1.0 standard errors between sampled ones"
    )
    assert derivation(1.0, 0.0, relation="≥").verdict == "1 inequality"
    assert derivation(1.0, None).verdict == "1 without a number on both sides"
    broken = derivation(1.0, 1.5, 1.5)
    assert not broken.holds
    assert broken.verdict.endswith("; 1 of these DOES NOT HOLD")
    assert derivation(1.0, 2.0, 3.0).verdict.endswith("; 2 of these DO NOT HOLD")
    assert [row["holds"] for row in broken.to_json()["chains"][0]["lines"]] == [None, False, True]


def test_topics_are_found_by_name():
    assert topic_named("elbo").module is elbo
    with pytest.raises(UserError, match="unknown topic 'elbow': did you mean 'elbo'"):
        topic_named("elbow")
