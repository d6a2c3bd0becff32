"""Neural networks, without any probability: features in, features out."""

from probgen.layers.cursor import Cursor, Wave
from probgen.layers.diagonal_lstm import DiagonalBiLSTMNetwork
from probgen.layers.discriminators import DCGANDiscriminator, MLPDiscriminator, ResNetDiscriminator
from probgen.layers.generators import GAN_ACTIVATIONS, DCGANGenerator, MLPGenerator, ResNetGenerator
from probgen.layers.lstm import LanguageLSTM
from probgen.layers.networks import ACTIVATIONS, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from probgen.layers.pixelcnn import GatedPixelCNNNetwork, PixelCNNNetwork
from probgen.layers.raster_lstm import RasterLSTMNetwork
from probgen.layers.row_lstm import RowLSTMNetwork

__all__ = [
    "ACTIVATIONS",
    "GAN_ACTIVATIONS",
    "ConvDecoder",
    "ConvEncoder",
    "Cursor",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DiagonalBiLSTMNetwork",
    "GatedPixelCNNNetwork",
    "LanguageLSTM",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "PixelCNNNetwork",
    "RasterLSTMNetwork",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "RowLSTMNetwork",
    "Wave",
]
