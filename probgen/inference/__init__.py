"""Training and measuring any Pyro model/guide pair."""

from probgen.inference.annealing import ais, bdmc
from probgen.inference.elbo import elbo_terms
from probgen.inference.equation import Equation, equation
from probgen.inference.estimates import Estimate, bits_per_dim
from probgen.inference.evidence import exact, iwae
from probgen.inference.fit import fit
from probgen.inference.terms import ElboTerms
from probgen.inference.trainer import TrainConfig, Trainer, TrainingError

__all__ = [
    "ElboTerms",
    "Equation",
    "Estimate",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "ais",
    "bdmc",
    "bits_per_dim",
    "elbo_terms",
    "equation",
    "exact",
    "fit",
    "iwae",
]
