"""What the tests of derivations share."""

import functools

import torch

from probgen.explanations import TOPICS
from probgen.explanations.lines import Line, added, mean_of


def sampled(value, stderr):
    return added(value, mean_of(torch.tensor([-stderr, stderr], dtype=torch.float64)))


def line(relation, number):
    return Line(relation, "", number, "")


@functools.cache
def small(topic):
    return TOPICS[topic].module.small()


def neighbours(found, formula):
    """The numbers of the lines with this formula."""
    return [made.value for chain in found.chains for made in chain.lines if made.formula == formula]


def the_number(found, formula):
    return neighbours(found, formula)[0]
