"""Neural networks, without any probability: features in, features out."""

from probgen.layers.cursor import Cursor
from probgen.layers.networks import ACTIVATIONS, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from probgen.layers.pixelcnn import GatedPixelCNNNetwork, PixelCNNNetwork

__all__ = [
    "ACTIVATIONS",
    "ConvDecoder",
    "ConvEncoder",
    "Cursor",
    "GatedPixelCNNNetwork",
    "MLPDecoder",
    "MLPEncoder",
    "PixelCNNNetwork",
]
