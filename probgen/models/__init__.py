"""The models: each file one family, opened by its equation."""

from probgen.models.autoencoder import Autoencoder
from probgen.models.contracts import AdversarialObjective, Kind, Objective
from probgen.models.gan import GAN
from probgen.models.gaussian import MultivariateGaussian
from probgen.models.language import LanguageModel
from probgen.models.pixelcnn import GatedPixelCNN, PixelCNN
from probgen.models.pixelrnn import DiagonalBiLSTM, RasterLSTM, RowLSTM
from probgen.models.ppca import ProbabilisticPCA
from probgen.models.vae import VAE

__all__ = [
    "GAN",
    "VAE",
    "AdversarialObjective",
    "Autoencoder",
    "DiagonalBiLSTM",
    "GatedPixelCNN",
    "Kind",
    "LanguageModel",
    "MultivariateGaussian",
    "Objective",
    "PixelCNN",
    "ProbabilisticPCA",
    "RasterLSTM",
    "RowLSTM",
]
