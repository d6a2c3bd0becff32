"""Discriminators of a GAN: an image in, one logit out, positive where it takes the image for a real one.

    D(x, y) = ψ(h(x)) + ⟨embedding(y), h(x)⟩        the second term only where there are classes

Images come in [−1, 1], or vectors as they are. With packing, D judges several images at once.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, cat, nn
from torch.distributions import Distribution
from torch.nn.utils.parametrizations import spectral_norm

from probgen.errors import UserError
from probgen.layers.generators import check_batch, check_labels, dcgan_sizes, dcgan_start, dense, resnet_sizes, widths
from probgen.layers.residual import SLOPE, ResidualBlock, fixup

Norm = Literal["none", "batch", "spectral"]


class Discriminator(nn.Module):
    """What all discriminators share: packs, the statistic of the batch, the last layer and the classes.

    body: packs → the f = `num_features` activations h of the last hidden layer.
    packing: images in a pack, joined along their channels, or along the vector (Lin et al. 2018, PacGAN).
    minibatch_statistics: the last layer sees how much the batch varies, too.
    num_classes: labels are 0 … num_classes − 1.

    Raises UserError for packing with classes: a pack has no label.
    """

    def __init__(
        self, body: nn.Sequential, num_features: int, packing: int, minibatch_statistics: bool, num_classes: int | None
    ) -> None:
        super().__init__()
        if packing > 1 and num_classes is not None:
            raise UserError(
                f"packing={packing} came with {num_classes} classes, but a pack may hold images of several: "
                "set packing=1, or leave the classes out"
            )
        self.packing, self.minibatch_statistics, self.num_classes = packing, minibatch_statistics, num_classes
        self.body = body
        self.last = nn.Linear(num_features + minibatch_statistics, 1)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, num_features)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=num_features**-0.5)  # the second term starts no larger than h

    def forward(self, x: Float[Tensor, "b *image"], y: Int64[Tensor, " b"] | None = None) -> Float[Tensor, " p"]:
        """The logit of each pack of consecutive images; a pack is one image unless packing is more than 1.

        Raises UserError where packs do not come out even, labels are missing, came without classes, or (where
        distributions validate their arguments: not in training, which looks at all labels before) are not of a class,
        and where batch norm would be trained on a single pack.
        """
        check_labels(y, self.num_classes, len(x), numbers=Distribution._validate_args)
        if len(x) % self.packing:
            raise UserError(
                f"{len(x)} images came, expected a multiple of packing={self.packing}: "
                "take another batch_size, or set packing=1"
            )
        h = self.hidden(x.unflatten(0, (-1, self.packing)).flatten(1, 2))
        seen = cat([h, spread(h).expand(len(h), 1)], 1) if self.minibatch_statistics else h
        logit = self.last(seen).squeeze(1)
        # Miyato and Koyama 2018, equation 3
        return logit if self.embedding is None else logit + (self.embedding(y) * h).sum(1)

    def features(self, x: Float[Tensor, "b *image"]) -> Float[Tensor, "b f"]:
        """h(x), the activations of the last hidden layer: the logit is affine in them and in the batch's statistic.

        With packing, each image is packed with copies of itself, so that there is one h for each image. In
        training mode batch norm learns from these images, too, and UserError is raised for a single one.
        """
        return self.hidden(x.repeat_interleave(self.packing, 0).unflatten(0, (-1, self.packing)).flatten(1, 2))

    def hidden(self, packs: Float[Tensor, "p *pack"]) -> Float[Tensor, "p f"]:
        """Apply the body."""
        check_batch(self, len(packs), "image" if self.packing == 1 else f"pack of {self.packing} images")
        return self.body(packs)


class MLPDiscriminator(Discriminator):
    """Dense layers of the widths `hidden`, each with an activation of `GAN_ACTIVATIONS` behind it.

    image_shape: (c, h, w), or (n,) for vectors. norm: `spectral` in all layers, or `batch` in the hidden layers
    after the first. Raises UserError for batch norm where there is one hidden layer only.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        *,
        norm: Norm = "none",
        packing: int = 1,
        minibatch_statistics: bool = False,
        num_classes: int | None = None,
    ) -> None:
        if norm == "batch" and len(hidden) < 2:
            raise UserError(
                f"batch norm came with hidden={tuple(hidden)}, expected two layers or more, since the first has none: "
                "take norm none, or add a layer"
            )
        sizes = [packing * math.prod(image_shape), *hidden]
        body = nn.Sequential(nn.Flatten(), *dense(sizes, activation, norm))
        super().__init__(body, hidden[-1], packing, minibatch_statistics, num_classes)
        normalize(self, norm)


class DCGANDiscriminator(Discriminator):
    """Convolutions that halve the side, leaky ReLU behind each (Radford et al. 2016, section 3).

    hidden: channels from the image inwards; the last counts for all further levels. norm: `spectral` in all layers,
    or `batch` in all but the first and the last. Raises UserError unless the sides are 28 to 64.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        *,
        norm: Norm = "batch",
        packing: int = 1,
        minibatch_statistics: bool = False,
        num_classes: int | None = None,
    ) -> None:
        sizes = dcgan_sizes(image_shape)
        channels = [packing * image_shape[0], *widths(hidden, len(sizes) - 1)]
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            normed = norm == "batch" and level > 0
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not normed)]
            layers += [*([nn.BatchNorm2d(outputs)] if normed else []), nn.LeakyReLU(SLOPE)]
        num_features = channels[-1] * math.prod(sizes[-1])
        super().__init__(nn.Sequential(*layers, nn.Flatten()), num_features, packing, minibatch_statistics, num_classes)
        dcgan_start(self)
        normalize(self, norm)


class ResNetDiscriminator(Discriminator):
    """Residual blocks, one for each size, with averages of 2×2 pixels between them: the mirror of `ResNetGenerator`.

    hidden: channels from the image inwards; the last counts for all further levels. norm: `spectral` in all layers,
    or `none`, where blocks start as their skips (see `fixup`). Raises UserError for norm=batch, and unless the data
    are images of at least 8 pixels a side.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        *,
        norm: Norm = "none",
        packing: int = 1,
        minibatch_statistics: bool = False,
        num_classes: int | None = None,
    ) -> None:
        if norm == "batch":
            raise UserError("batch norm came with network=resnet, which starts without: take norm none or spectral")
        sizes = resnet_sizes(image_shape)
        channels = widths(hidden, len(sizes))
        layers: list[nn.Module] = [nn.Conv2d(packing * image_shape[0], channels[0], 3, padding=1)]
        layers += [ResidualBlock(channels[0], channels[0])]
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.AvgPool2d(2, ceil_mode=True), ResidualBlock(inputs, outputs)]
        layers += [nn.LeakyReLU(SLOPE), nn.Flatten()]
        num_features = channels[-1] * math.prod(sizes[-1])
        super().__init__(nn.Sequential(*layers), num_features, packing, minibatch_statistics, num_classes)
        fixup(self, zero=norm != "spectral")
        normalize(self, norm)


def spread(h: Float[Tensor, "p f"]) -> Float[Tensor, ""]:
    """The mean over features of their standard deviation over the batch; 0 for a batch of one.

    Karras et al. 2018, section 3. The 1e-8 under the root keeps its gradient finite where all images are alike.
    """
    return (h.var(0, correction=0) + 1e-8).sqrt().mean() * (len(h) > 1)


def normalize(network: nn.Module, norm: Norm) -> None:
    """For `spectral`, divide each weight matrix by its largest singular value (Miyato et al. 2018, equation 8).

    The embedding of labels is a matrix as any other. Done last: a weight can be given a start only before.
    """
    for layer in list(network.modules()):
        if norm == "spectral" and isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
            spectral_norm(layer)
