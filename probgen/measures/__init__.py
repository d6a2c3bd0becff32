"""Measures of samples: how near what any model draws is to real images, without a likelihood.

Each number names the features it is a number of, its source, and how many samples there were; `reference` gives the
same measures of real images, the scale for reading them. Of codes, where the factors of the data are known, there is
`mutual_information_gap`.

>>> import torch
>>> from probgen.data import load_data
>>> ring = load_data("ring")
>>> collapsed = ring.modes.centers[:1] + 0.02 * torch.randn(1000, 2)  # draws from one of eight modes
>>> judge_samples(collapsed, ring)["modes"].value, reference(ring)["modes"].value
(1.0, 8.0)
"""

from probgen.measures.disentanglement import MutualInformationGap, mutual_information_gap
from probgen.measures.features import FeatureNetwork, feature_network
from probgen.measures.frechet import KernelDistance, frechet_distance, kernel_distance
from probgen.measures.manifold import PrecisionRecall, precision_recall
from probgen.measures.modes import DigitClassifier, ModeReport, count_modes, count_stacked_modes
from probgen.measures.report import Judgement, Measure, judge_samples, reference
from probgen.measures.two_sample import TwoSampleTest, two_sample_test

__all__ = [
    "DigitClassifier",
    "FeatureNetwork",
    "Judgement",
    "KernelDistance",
    "Measure",
    "ModeReport",
    "MutualInformationGap",
    "PrecisionRecall",
    "TwoSampleTest",
    "count_modes",
    "count_stacked_modes",
    "feature_network",
    "frechet_distance",
    "judge_samples",
    "kernel_distance",
    "mutual_information_gap",
    "precision_recall",
    "reference",
    "two_sample_test",
]
