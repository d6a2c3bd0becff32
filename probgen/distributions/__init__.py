"""Probability distributions that torch and Pyro lack."""

from probgen.distributions.causality import check_causal
from probgen.distributions.conditionals import Conditional
from probgen.distributions.factored import FactoredImage
from probgen.distributions.gaussians import DequantizedMultivariateNormal
from probgen.distributions.pixels import DequantizedNormal, DiscretizedLogistic

__all__ = [
    "Conditional",
    "DequantizedMultivariateNormal",
    "DequantizedNormal",
    "DiscretizedLogistic",
    "FactoredImage",
    "check_causal",
]
