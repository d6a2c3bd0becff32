"""The models: each file one family, opened by its equation."""

from probgen.models.autoencoder import Autoencoder
from probgen.models.contracts import Kind, Objective
from probgen.models.gaussian import MultivariateGaussian
from probgen.models.ppca import ProbabilisticPCA
from probgen.models.vae import VAE

__all__ = ["VAE", "Autoencoder", "Kind", "MultivariateGaussian", "Objective", "ProbabilisticPCA"]
