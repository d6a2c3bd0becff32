"""Small causal networks of every kind, in float64, for the laws of image densities."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probgen.distributions import Conditional, FactoredImage
from probgen.layers import (
    DiagonalBiLSTMNetwork,
    GatedPixelCNNNetwork,
    PixelCNNNetwork,
    RasterLSTMNetwork,
    RowLSTMNetwork,
)


def with_blocks(cls: type[nn.Module]) -> Callable[..., nn.Module]:
    """The depth is a number of blocks; the first kernel is a small one."""
    return lambda *args, depth, **options: cls(*args, blocks=depth, **{"first_kernel": 3} | options)


def with_layers(cls: type[nn.Module], **usual: Any) -> Callable[..., nn.Module]:
    """The depth is a number of recurrent layers, one at least."""
    return lambda *args, depth, **options: cls(*args, layers=max(1, depth), **usual | options)


NETWORKS: dict[str, Callable[..., nn.Module]] = {  # name → network(image_shape, outputs, depth=…, **options)
    "pixelcnn": with_blocks(PixelCNNNetwork),
    "gated-pixelcnn": with_blocks(GatedPixelCNNNetwork),
    "row-lstm": with_layers(RowLSTMNetwork, first_kernel=3),
    "diagonal-bilstm": with_layers(DiagonalBiLSTMNetwork, first_kernel=3),
    "raster-lstm": with_layers(RasterLSTMNetwork),
}
BLIND_SPOT = ["pixelcnn", "row-lstm"]
NO_BLIND_SPOT = [name for name in NETWORKS if name not in BLIND_SPOT]

BINARY = Conditional("bernoulli", 2)
THREE_LEVELS = Conditional("categorical", 3)
MIXTURE = Conditional("logistic-mixture", 3, mixtures=2)


def build(
    name: str, image_shape: Sequence[int], outputs: int = 1, *, depth: int = 2, features: int = 4, **options: Any
) -> nn.Module:
    """A network with biases, and with weights so large that a pixel's distribution depends on the pixels before it."""
    network = NETWORKS[name](image_shape, outputs, depth=depth, features=features, **options).double().eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.5)
        else:
            parameter.data *= {"pixelcnn": 2, "raster-lstm": 10}.get(name, 3)
    return network


def density(
    name: str,
    image_shape: Sequence[int],
    conditional: Conditional = BINARY,
    context: Tensor | None = None,
    **options: Any,
) -> FactoredImage:
    """A density over images with that network; `context` is `b k` or `b k h w`."""
    if context is not None:
        options["context_shape"] = context.shape[1:]
    return FactoredImage(build(name, image_shape, conditional.size, **options), conditional, image_shape, context)


def vector(num: int, image_shape: Sequence[int]) -> Tensor:
    """Contexts `num 2`, such as labels."""
    return torch.randn(num, 2, dtype=torch.float64)


def feature_map(num: int, image_shape: Sequence[int]) -> Tensor:
    """Contexts `num 2 h w`, such as a decoder's."""
    return torch.randn(num, 2, *image_shape[1:], dtype=torch.float64)


CONTEXTS = {"none": lambda num, image_shape: None, "vector": vector, "map": feature_map}
