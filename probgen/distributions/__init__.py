"""Probability distributions that torch and Pyro lack."""

from probgen.distributions.causality import check_causal
from probgen.distributions.conditionals import Conditional
from probgen.distributions.factored import FactoredImage
from probgen.distributions.forcing import GivenConditions, StudentForcedSequence, student_forced
from probgen.distributions.gaussians import DequantizedMultivariateNormal
from probgen.distributions.labelled import LabelledImage
from probgen.distributions.pixels import DequantizedNormal, DiscretizedLogistic
from probgen.distributions.sequences import FactoredSequence

__all__ = [
    "Conditional",
    "DequantizedMultivariateNormal",
    "DequantizedNormal",
    "DiscretizedLogistic",
    "FactoredImage",
    "FactoredSequence",
    "GivenConditions",
    "LabelledImage",
    "StudentForcedSequence",
    "check_causal",
    "student_forced",
]
