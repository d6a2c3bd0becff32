"""Generators of a GAN: noise z (and a label y) in, an image G(z) or G(z, y) out, dense, convolutional and residual.

Images come out in [−1, 1], through tanh; vectors, such as points of a plane, as they are.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, cat, nn
from torch.distributions import Distribution
from torch.nn.modules.batchnorm import _BatchNorm

from probgen.errors import UserError
from probgen.layers.networks import ACTIVATIONS, pyramid
from probgen.layers.residual import SLOPE, ResidualBlock, fixup

GAN_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    **ACTIVATIONS,
    "leaky-relu": functools.partial(nn.LeakyReLU, SLOPE),
}


class Generator(nn.Module):
    """What all generators share: labels join the noise, batch norm has images to look at, tanh ends an image.

    body: code → image, without the tanh; the code is z, with a learned embedding of y as long as z behind it where
        there are classes.
    """

    def __init__(
        self, body: nn.Sequential, latent_dim: int, image_shape: Sequence[int], num_classes: int | None
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.body = body
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, latent_dim)

    def forward(self, z: Float[Tensor, "b latent"], y: Int64[Tensor, " b"] | None = None) -> Float[Tensor, "*shape"]:
        """G(z) or G(z, y), shape `b *image_shape`.

        Raises UserError where labels are missing, came without classes, or (where distributions validate their
        arguments: not in training, which looks at all labels before) are not of a class, and where batch norm would
        be trained on a single image.
        """
        check_labels(y, self.num_classes, len(z), numbers=Distribution._validate_args)
        check_batch(self, len(z))
        code = z if self.embedding is None else cat([z, self.embedding(y)], 1)
        image = self.body(code)
        return image.tanh() if len(self.image_shape) == 3 else image


class MLPGenerator(Generator):
    """Dense layers of the widths `hidden`, with an activation of `GAN_ACTIVATIONS` between them.

    latent_dim: numbers in z. image_shape: (c, h, w), or (n,) for vectors. num_classes: labels are 0 … num_classes − 1.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        num_classes: int | None = None,
    ) -> None:
        sizes = [code_dim(latent_dim, num_classes), *hidden]
        last = nn.Linear(sizes[-1], math.prod(image_shape))
        body = nn.Sequential(*dense(sizes, activation), last, nn.Unflatten(1, tuple(image_shape)))
        super().__init__(body, latent_dim, image_shape, num_classes)


class DCGANGenerator(Generator):
    """Transposed convolutions that double the side, ReLU between them (Radford et al. 2016, section 3 and figure 1).

    hidden: channels from the image inwards; the last counts for all further levels. norm: batch norm in every layer
    but the last, or none. An odd side is twice the one below plus 1. Raises UserError unless the sides are 28 to 64.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        norm: Literal["none", "batch"],
        num_classes: int | None = None,
    ) -> None:
        sizes = dcgan_sizes(image_shape)[::-1]
        channels = [image_shape[0], *widths(hidden, len(sizes) - 1)][::-1]
        base, biased = (channels[0], *sizes[0]), norm != "batch"
        first = nn.Linear(code_dim(latent_dim, num_classes), math.prod(base), bias=biased)
        layers: list[nn.Module] = [first, nn.Unflatten(1, base)]
        for inputs, outputs, size in zip(channels[:-1], channels[1:], sizes[1:], strict=True):
            odd, last = (size[0] % 2, size[1] % 2), size == sizes[-1]
            layers += [] if biased else [nn.BatchNorm2d(inputs)]
            layers += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, odd, bias=biased or last)]
        super().__init__(nn.Sequential(*layers), latent_dim, image_shape, num_classes)
        dcgan_start(self.body)


class ResNetGenerator(Generator):
    """Residual blocks, one for each size, with nearest-neighbour enlargement between them and no normalization.

    Blocks start as their skips (see `fixup`), which is what lets normalization go, as in R3GAN (Huang et al. 2024,
    section 3). hidden: channels from the image inwards; the last counts for all further levels. Raises UserError
    unless the data are images of at least 8 pixels a side.
    """

    def __init__(
        self, latent_dim: int, image_shape: Sequence[int], hidden: Sequence[int], num_classes: int | None = None
    ) -> None:
        sizes = resnet_sizes(image_shape)[::-1]
        channels = widths(hidden, len(sizes))[::-1]
        base = (channels[0], *sizes[0])
        layers: list[nn.Module] = [nn.Linear(code_dim(latent_dim, num_classes), math.prod(base)), nn.Unflatten(1, base)]
        layers += [ResidualBlock(channels[0], channels[0])]
        for (inputs, outputs), size in zip(itertools.pairwise(channels), sizes[1:], strict=True):
            layers += [nn.Upsample(size=size), ResidualBlock(inputs, outputs)]
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(channels[-1], image_shape[0], 3, padding=1)]
        super().__init__(nn.Sequential(*layers), latent_dim, image_shape, num_classes)
        fixup(self.body)


def code_dim(latent_dim: int, num_classes: int | None) -> int:
    """Numbers in z, and as many again for the embedded label."""
    return latent_dim if num_classes is None else 2 * latent_dim


# --- what discriminators need too


def dense(sizes: Sequence[int], activation: str, norm: str = "none") -> list[nn.Module]:
    """Linear layers of the given sizes, the activation after each; batch norm in all but the first, if asked for."""
    layers: list[nn.Module] = []
    for level, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        normed = norm == "batch" and level > 0
        layers += [nn.Linear(inputs, outputs, bias=not normed), *([nn.BatchNorm1d(outputs)] if normed else [])]
        layers += [GAN_ACTIVATIONS[activation]()]
    return layers


def widths(hidden: Sequence[int], levels: int) -> list[int]:
    """Channels of each level from the image inwards: `hidden`, its last repeated."""
    return [hidden[min(level, len(hidden) - 1)] for level in range(levels)]


def dcgan_sizes(image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """Sizes from the whole image down to 4 to 7 pixels on the shorter side, each half the one before, rounded down.

    Raises UserError for vectors, and for sides outside 28 … 64.
    """
    check_image("dcgan", image_shape)
    height, width = image_shape[1:]
    if not (min(height, width) >= 28 and max(height, width) <= 64):
        raise UserError(
            f"network=dcgan came with images of {height}×{width} pixels, expected sides of 28 to 64: "
            "set network=resnet or network=mlp"
        )
    sizes = [(height, width)]
    while min(sizes[-1]) >= 8:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def resnet_sizes(image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """The `pyramid` of the image; raises UserError for vectors, and for sides of fewer than 8 pixels."""
    check_image("resnet", image_shape)
    height, width = image_shape[1:]
    if min(height, width) < 8:
        raise UserError(
            f"network=resnet came with images of {height}×{width} pixels, expected sides of 8 or more: set network=mlp"
        )
    return pyramid(height, width)


def check_image(network: str, image_shape: Sequence[int]) -> None:
    """Convolutions need images."""
    if len(image_shape) != 3:
        raise UserError(
            f"network={network} came with data of shape {tuple(image_shape)}, expected images c h w: set network=mlp"
        )


def dcgan_start(network: nn.Module) -> None:
    """Weights normal with mean 0 and standard deviation 0.02 (Radford et al. 2016, section 4), biases 0, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_labels(y: Int64[Tensor, " b"] | None, num_classes: int | None, num: int, *, numbers: bool = True) -> None:
    """Labels come where there are classes, and only there: `num` whole numbers, 0 … num_classes − 1.

    numbers: whether to look at the numbers too; what is recorded for the compiler must not.

    Raises UserError that tells what came and what is expected.
    """
    if y is None and num_classes is None:
        return
    if num_classes is None:
        raise UserError("labels came, but the network has no classes: leave them out, or set num_classes")
    expected = f"a whole number, 0 to {num_classes - 1}, for each image"
    if y is None:
        raise UserError(f"no labels came, but the network has classes: give {expected}")
    if not isinstance(y, Tensor) or y.dtype not in (torch.int64, torch.int32):
        came = f"dtype {y.dtype}" if isinstance(y, Tensor) else f"type {type(y).__name__}"
        raise UserError(f"labels of {came} came, expected a tensor of torch.int64: {expected}")
    if y.shape != (num,):
        raise UserError(f"labels of shape {tuple(y.shape)} came, expected {(num,)}: {expected}")
    if numbers and num and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise UserError(f"labels from {int(y.min())} to {int(y.max())} came, expected {expected}")


def check_batch(network: nn.Module, num: int, what: str = "image") -> None:
    """Batch norm of one image would compare it with itself only."""
    if num == 1 and any(layer.training and isinstance(layer, _BatchNorm) for layer in network.modules()):
        raise UserError(
            f"batch norm cannot be trained on a batch of one {what}: take a larger batch_size, or norm none"
        )
