"""Which generator and discriminator a GAN's options name."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import nn

from probgen.errors import UserError
from probgen.layers.discriminators import DCGANDiscriminator, MLPDiscriminator, ResNetDiscriminator
from probgen.layers.generators import DCGANGenerator, MLPGenerator, ResNetGenerator
from probgen.models.contracts import LossName, RegularizerName

PlayerNetwork = Literal["mlp", "dcgan", "resnet"]
PlayerActivation = Literal["relu", "leaky-relu", "tanh", "silu", "gelu"]
GeneratorNorm = Literal["none", "batch"]
DiscriminatorNorm = Literal["none", "batch", "spectral"]
NAMES: dict[str, tuple[str | None, ...]] = {  # of options that a name is chosen for; None is as good as usual
    "network": get_args(PlayerNetwork),
    "activation": get_args(PlayerActivation),
    "condition": ("none", "label"),
    "loss": get_args(LossName),
    "regularizer": (*get_args(RegularizerName), "usual", None),
    "generator_norm": (*get_args(GeneratorNorm), "usual", None),
    "discriminator_norm": (*get_args(DiscriminatorNorm), "usual", None),
}
WIDTHS: dict[str, tuple[int, ...]] = {"mlp": (128, 128, 128), "dcgan": (64, 128), "resnet": (32, 64)}


def generator(
    network: PlayerNetwork,
    latent_dim: int,
    image_shape: Sequence[int],
    hidden: Sequence[int],
    activation: str,
    norm: GeneratorNorm | None,
    num_classes: int | None,
) -> nn.Module:
    """The network `b latent (b) → b *image_shape`; batch norm is dcgan's, unless `norm` says none."""
    if network == "dcgan":
        return DCGANGenerator(latent_dim, image_shape, hidden, norm or "batch", num_classes)
    if norm == "batch":
        raise UserError(f"generator_norm=batch came with network={network}: it is for network=dcgan, leave it out")
    if network == "mlp":
        return MLPGenerator(latent_dim, image_shape, hidden, activation, num_classes)
    return ResNetGenerator(latent_dim, image_shape, hidden, num_classes)


def discriminator(
    network: PlayerNetwork, image_shape: Sequence[int], hidden: Sequence[int], activation: str, **options: Any
) -> nn.Module:
    """The network `b *image_shape (b) → p`; options: norm, packing, minibatch_statistics, num_classes."""
    if network == "mlp":
        return MLPDiscriminator(image_shape, hidden, activation, **options)
    kind: Any = DCGANDiscriminator if network == "dcgan" else ResNetDiscriminator
    if network == "resnet" and options["norm"] == "batch":
        raise UserError("discriminator_norm=batch came with network=resnet, which is without: set none or spectral")
    return kind(image_shape, hidden, **options)


def discriminator_norm(
    norm: DiscriminatorNorm | None, network: PlayerNetwork, regularizer: str, spectral_norm: bool
) -> DiscriminatorNorm:
    """The norm asked for; without one batch norm for dcgan (Radford et al. 2016), where nothing speaks against it.

    Raises UserError for batch norm beside a penalty on the gradient: the logit of an image then depends on the others,
    and so does the gradient that the penalty is about (Gulrajani et al. 2017, section 4).
    """
    if spectral_norm and norm not in (None, "spectral"):
        raise UserError(f"spectral_norm=true came with discriminator_norm={norm}: leave one of them out")
    if norm == "batch" and regularizer != "none":
        raise UserError(
            f"discriminator_norm=batch came with regularizer={regularizer}, the gradient at single images: "
            "set discriminator_norm=none or regularizer=none"
        )
    if spectral_norm:
        return "spectral"
    return norm or ("batch" if network == "dcgan" and regularizer == "none" else "none")


def check_names(**chosen: str | None) -> None:
    """Each option is one of the names in `NAMES`.

    Raises UserError that tells the option, what came, and the names there are.
    """
    for option, name in chosen.items():
        if name not in NAMES[option]:
            known = ", ".join(known for known in NAMES[option] if known is not None)
            raise UserError(f"{option}={name} came, expected one of {known}")
