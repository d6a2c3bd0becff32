"""Probability distributions that torch and Pyro lack."""

from probgen.distributions.gaussians import DequantizedMultivariateNormal
from probgen.distributions.pixels import DequantizedNormal, DiscretizedLogistic

__all__ = ["DequantizedMultivariateNormal", "DequantizedNormal", "DiscretizedLogistic"]
