"""Which encoder and decoder a model's options name, and the scale of what they see."""

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.layers import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

Network = Literal["mlp", "conv"]
Activation = Literal["relu", "tanh", "silu", "gelu"]
Width = Annotated[int, Field(ge=1, le=100_000)]
Hidden = Annotated[tuple[Width, ...], Field(min_length=1, max_length=32)]


def encoder(
    network: Network, image_shape: Sequence[int], num_features: int, hidden: Hidden, activation: Activation
) -> nn.Module:
    """The network `*b c h w → *b num_features`; `hidden` are layer widths (mlp) or channels (conv)."""
    check_shape(network, image_shape)
    kind = {"mlp": MLPEncoder, "conv": ConvEncoder}[network]
    return kind(image_shape, num_features, hidden, activation)


def decoder(
    network: Network,
    num_features: int,
    image_shape: Sequence[int],
    channels: int,
    hidden: Hidden,
    activation: Activation,
) -> nn.Module:
    """The network `*b num_features → *b channels c h w`, with the encoder's `hidden` in reverse for mlp."""
    check_shape(network, image_shape)
    if network == "mlp":
        return MLPDecoder(num_features, image_shape, channels, hidden[::-1], activation)
    return ConvDecoder(num_features, image_shape, channels, hidden, activation)


def check_shape(network: Network, image_shape: Sequence[int]) -> None:
    """Convolutions need images."""
    if network == "conv" and len(image_shape) != 3:
        raise UserError(f"network=conv came with data of shape {tuple(image_shape)}: set network=mlp")


def scaled(x: Shaped[Tensor, "*shape"], levels: int | None, network: nn.Module) -> Float[Tensor, "*shape"]:
    """Grey levels 0 … levels − 1 to [−1, 1], in the network's precision; real data as they are."""
    x = x.to(next(network.parameters()).dtype)
    return x if levels is None else x * (2 / (levels - 1)) - 1
