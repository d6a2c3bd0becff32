"""The networks that turn images into features."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

NUM_FEATURES = 64
LARGEST_SIDE = 32
VERSION = 1
"""Of the architectures: with another one the weights in the cache are not met."""


class ImageClassifier(nn.Module):
    """logits = V a + c, a = relu(W h + b), h two layers of convolution and pooling: p(label | image) = softmax(logits).

    The features are scale · a, the scale such that their mean variance over training images is 1.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, width = image_shape
        area = _pooled(height) * _pooled(width)
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.penultimate = nn.Linear(32 * area, NUM_FEATURES)
        self.last = nn.Linear(NUM_FEATURES, num_classes)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, images: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n k"]:
        """The logits of images of grey 0 … 1."""
        return self.last(self._activations(images))

    def features(self, images: Float32[Tensor, "n c h w"]) -> Float64[Tensor, "n f"]:
        """The last layer but one."""
        return self.scale * self._activations(images).double()

    def _activations(self, images: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n f"]:
        hidden = F.max_pool2d(F.relu(self.first(shrink(images))), 2, ceil_mode=True)
        hidden = F.max_pool2d(F.relu(self.second(hidden)), 2, ceil_mode=True)
        return F.relu(self.penultimate(hidden.flatten(1)))


class PixelComponents(nn.Module):
    """a = scale · Bᵀ (x - μ): the first principal components of the pixels x; the scale as that of ImageClassifier."""

    def __init__(self, image_shape: tuple[int, int, int], num_components: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, height, width = image_shape
        pixels = channels * min(height, LARGEST_SIDE) * min(width, LARGEST_SIDE)
        self.mean: Tensor
        self.basis: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(pixels, dtype=torch.float64))
        self.register_buffer("basis", torch.zeros(pixels, num_components, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def features(self, images: Float32[Tensor, "n c h w"]) -> Float64[Tensor, "n f"]:
        """The components of images of grey 0 … 1."""
        return self.scale * ((shrink(images).flatten(1).double() - self.mean) @ self.basis)


def shrink(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
    """Large images averaged down to 32 pixels a side: features that cost no more than those of small ones."""
    height, width = images.shape[2:]
    if max(height, width) <= LARGEST_SIDE:
        return images
    return F.adaptive_avg_pool2d(images, (min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)))


def _pooled(side: int) -> int:
    """The side of what two poolings leave, ⌈⌈side/2⌉/2⌉."""
    return -(-min(side, LARGEST_SIDE) // 4)
