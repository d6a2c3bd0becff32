"""Encoders (image to features) and decoders (features to image), dense and convolutional.

Every network takes any number of leading batch dimensions, so that k draws of z for each of b images, shape
k b d, are decoded in one call.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def glorot(network: nn.Module) -> None:
    """Weights uniform with variance 2 / (inputs + outputs), biases 0 (Glorot and Bengio 2010), in place.

    torch's own start is smaller: a decoder then ignores its input at first, and latent units die of it.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers of the given sizes with the activation between them, none after the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class MLPEncoder(nn.Module):
    """Image → features, through dense layers."""

    def __init__(self, image_shape: Sequence[int], num_features: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.image_dims = len(image_shape)
        self.layers = mlp([math.prod(image_shape), *hidden, num_features], activation)
        glorot(self)

    def forward(self, image: Float[Tensor, "*shape"]) -> Float[Tensor, "*b features"]:
        """Flatten the image, apply the layers."""
        return self.layers(image.flatten(-self.image_dims))


class MLPDecoder(nn.Module):
    """Features → image with `channels` numbers for each entry of the image, in front: `*b channels *image`."""

    def __init__(
        self,
        num_features: int,
        image_shape: Sequence[int],
        channels: int,
        hidden: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.output_shape = (channels, *image_shape)
        self.layers = mlp([num_features, *hidden, math.prod(self.output_shape)], activation)
        glorot(self)

    @property
    def output_bias(self) -> Tensor:
        """What the network says where its last features are 0: one number for each of `channels *image`."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last.bias.view(self.output_shape)

    def forward(self, features: Float[Tensor, "*b features"]) -> Float[Tensor, "*shape"]:
        """Apply the layers, fold the result into an image."""
        return self.layers(features).unflatten(-1, self.output_shape)


def pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from the whole image down to about 4 pixels a side, each half of the one before, rounded up."""
    sizes = [(height, width)]
    while min(sizes[-1]) > 5:
        h, w = sizes[-1]
        sizes.append((math.ceil(h / 2), math.ceil(w / 2)))
    return sizes


class ConvEncoder(nn.Module):
    """Image → features: 3×3 convolutions, halving the image until about 4 pixels a side remain."""

    def __init__(self, image_shape: Sequence[int], num_features: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        channels, height, width = image_shape
        sizes = pyramid(height, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden[0], 3, padding=1), ACTIVATIONS[activation]()]
        for level in range(1, len(sizes)):
            inputs, outputs = hidden[min(level - 1, len(hidden) - 1)], hidden[min(level, len(hidden) - 1)]
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
        outputs = hidden[min(len(sizes) - 1, len(hidden) - 1)]
        layers += [nn.Flatten(), nn.Linear(outputs * math.prod(sizes[-1]), num_features)]
        self.layers = nn.Sequential(*layers)
        glorot(self)

    def forward(self, image: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b features"]:
        """Convolve the images of all leading dimensions as one batch."""
        leading = image.shape[:-3]
        return self.layers(image.reshape(-1, *image.shape[-3:])).reshape(*leading, -1)


class ConvDecoder(nn.Module):
    """Features → image: the mirror of `ConvEncoder`, each step a nearest-neighbour enlargement, then 3×3.

    Enlarging before convolving leaves no checkerboard (Odena et al. 2016) and reaches odd sizes exactly.
    """

    def __init__(
        self,
        num_features: int,
        image_shape: Sequence[int],
        channels: int,
        hidden: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.output_shape = (channels, *image_shape)
        self.sizes = pyramid(*image_shape[1:])[::-1]
        widths = [hidden[min(level, len(hidden) - 1)] for level in range(len(self.sizes))][::-1]
        self.first = nn.Linear(num_features, widths[0] * math.prod(self.sizes[0]))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1)
            for inputs, outputs in zip(widths, [*widths[1:], widths[-1]], strict=True)
        )
        self.last = nn.Conv2d(widths[-1], channels * image_shape[0], 3, padding=1)
        self.activation = ACTIVATIONS[activation]()
        glorot(self)

    @property
    def output_bias(self) -> Tensor:
        """What the network says where its last features are 0: the same at every pixel, `channels c 1 1`."""
        assert self.last.bias is not None
        return self.last.bias.view(*self.output_shape[:2], 1, 1)

    def forward(self, features: Float[Tensor, "*b features"]) -> Float[Tensor, "*b channels c h w"]:
        """Decode the features of all leading dimensions as one batch."""
        leading = features.shape[:-1]
        image = self.first(features.reshape(-1, features.shape[-1])).unflatten(-1, (-1, *self.sizes[0]))
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            image = F.interpolate(image, size=size) if image.shape[-2:] != size else image
            image = convolution(self.activation(image))
        return self.last(self.activation(image)).reshape(*leading, *self.output_shape)
