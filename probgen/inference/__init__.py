"""Training and measuring any Pyro model/guide pair."""

from probgen.inference.annealing import ais
from probgen.inference.bayes import class_log_joint, class_posterior
from probgen.inference.bidirectional import bdmc
from probgen.inference.diagnosis import Diagnosis
from probgen.inference.diagnostics import diagnose
from probgen.inference.elbo import elbo_terms
from probgen.inference.equation import Equation, equation
from probgen.inference.estimates import Estimate, bits_per_dim
from probgen.inference.evidence import entropy, exact, iwae
from probgen.inference.fit import fit
from probgen.inference.gaps import inference_gaps
from probgen.inference.gradients import compare_gradients
from probgen.inference.graph import graph
from probgen.inference.information import cross_entropy, kl_divergence
from probgen.inference.predict import sample
from probgen.inference.probe import linear_probe
from probgen.inference.terms import ElboTerms
from probgen.inference.trainer import TrainConfig, Trainer, TrainingError

__all__ = [
    "Diagnosis",
    "ElboTerms",
    "Equation",
    "Estimate",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "ais",
    "bdmc",
    "bits_per_dim",
    "class_log_joint",
    "class_posterior",
    "compare_gradients",
    "cross_entropy",
    "diagnose",
    "elbo_terms",
    "entropy",
    "equation",
    "exact",
    "fit",
    "graph",
    "inference_gaps",
    "iwae",
    "kl_divergence",
    "linear_probe",
    "sample",
]
