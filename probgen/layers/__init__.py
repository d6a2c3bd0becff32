"""Neural networks, without any probability: features in, features out."""

from probgen.layers.cursor import Cursor
from probgen.layers.diagonal_lstm import DiagonalBiLSTMNetwork
from probgen.layers.lstm import LanguageLSTM
from probgen.layers.networks import ACTIVATIONS, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from probgen.layers.pixelcnn import GatedPixelCNNNetwork, PixelCNNNetwork
from probgen.layers.raster_lstm import RasterLSTMNetwork
from probgen.layers.row_lstm import RowLSTMNetwork

__all__ = [
    "ACTIVATIONS",
    "ConvDecoder",
    "ConvEncoder",
    "Cursor",
    "DiagonalBiLSTMNetwork",
    "GatedPixelCNNNetwork",
    "LanguageLSTM",
    "MLPDecoder",
    "MLPEncoder",
    "PixelCNNNetwork",
    "RasterLSTMNetwork",
    "RowLSTMNetwork",
]
