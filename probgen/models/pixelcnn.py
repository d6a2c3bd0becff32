"""PixelCNN and Gated PixelCNN: every conditional from one pass of masked convolutions.

    p(x) = Π_i p(x_i | x_1 … x_{i−1}; θ)

van den Oord, Kalchbrenner and Kavukcuoglu 2016; van den Oord et al. 2016 (the gated one, and conditions).
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

from probgen.distributions.conditionals import ConditionalName
from probgen.errors import UserError
from probgen.layers import GatedPixelCNNNetwork, PixelCNNNetwork
from probgen.models.autoregressive import Autoregressive, Condition


def odd(kernel: int) -> int:
    """A kernel has a centre."""
    if kernel % 2 == 0:
        raise ValueError("expected an odd number")
    return kernel


Count = Annotated[int, Field(ge=1, le=10_000)]
Kernel = Annotated[int, Field(ge=1, le=99), AfterValidator(odd)]
FirstKernel = Annotated[int, Field(ge=3, le=99), AfterValidator(odd)]  # with mask A a side of 1 would see nothing


class PixelCNN(Autoregressive):
    """p(x) = Π_i p(x_i | x_<i), from residual blocks of masked convolutions.

    Its receptive field has a blind spot: earlier pixels above and to the right that no layer can see.

    image_shape: (c, h, w).
    levels: number of grey levels.
    num_classes: labels 0 … num_classes − 1, where the data have them.
    features: width of a block's convolution, for each channel of the image; twice that between blocks.
    blocks: residual blocks.
    first_kernel, kernel: sides of the first convolution (mask A) and of the blocks' (mask B).
    conditional: p(x_i | x_<i): `bernoulli` (two levels), `categorical`, `logistic-mixture`; the usual one by default.
    mixtures: logistics in that mixture.
    condition: `label`: of p(x, y), the label is given in training, and summed over in p(x).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        features: Count = 32,
        blocks: Annotated[int, Field(ge=0, le=1000)] = 5,
        first_kernel: FirstKernel = 7,
        kernel: Kernel = 5,
        conditional: ConditionalName | None = None,
        mixtures: Count = 10,
        condition: Condition = "none",
    ) -> None:
        if condition == "label" and blocks == 0:
            raise UserError("condition=label came with blocks=0, but labels enter in the blocks: set blocks=1 or more")
        network = partial(PixelCNNNetwork, features=features, blocks=blocks, first_kernel=first_kernel, kernel=kernel)
        common = {"conditional": conditional, "mixtures": mixtures, "condition": condition}
        super().__init__(image_shape, levels, num_classes, network, **common)  # type: ignore[arg-type]


class GatedPixelCNN(Autoregressive):
    """p(x) = Π_i p(x_i | x_<i), from a vertical and a horizontal stack: no blind spot.

    That is, within its reach of first_kernel // 2 + blocks · (kernel // 2) rows up and columns aside.
    Options as for `PixelCNN`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        features: Count = 32,
        blocks: Annotated[int, Field(ge=0, le=1000)] = 5,
        first_kernel: FirstKernel = 7,
        kernel: Kernel = 5,
        conditional: ConditionalName | None = None,
        mixtures: Count = 10,
        condition: Condition = "none",
    ) -> None:
        network = partial(
            GatedPixelCNNNetwork, features=features, blocks=blocks, first_kernel=first_kernel, kernel=kernel
        )
        common = {"conditional": conditional, "mixtures": mixtures, "condition": condition}
        super().__init__(image_shape, levels, num_classes, network, **common)  # type: ignore[arg-type]
