"""p(x | z) as a PixelCNN: the latent variable says what the image is about, the pixels look at each other for the rest.

    p(x | z) = Π_i p(x_i | x_1 … x_{i−1}, f(z))

f(z) is a map of features from the decoder, added in every block (PixelVAE, Gulrajani et al. 2017; van den Oord et al.
2016, equation 4). A network that sees far needs no z, and the KL falls to zero: a few small blocks are enough.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from probgen.distributions import FactoredImage
from probgen.distributions.conditionals import choose_conditional
from probgen.errors import UserError
from probgen.layers import PixelCNNNetwork


class PixelCNNLikelihood(nn.Module):
    """A PixelCNN whose context is a decoder's output: `channels` numbers for each entry of the image.

    features, blocks: of the PixelCNN; its kernels are 3×3. channels: of the map f(z).
    """

    name = "pixelcnn"

    def __init__(
        self, image_shape: Sequence[int], levels: int | None, *, features: int, blocks: int, channels: int = 8
    ) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise UserError(f"likelihood=pixelcnn came with data of shape {tuple(image_shape)}: it is of images c h w")
        self.image_shape, self.levels, self.channels = tuple(image_shape), levels, channels
        self.conditional = choose_conditional(None, levels)
        context_shape = (channels * image_shape[0], *image_shape[1:])
        self.network = PixelCNNNetwork(
            image_shape,
            self.conditional.size,
            features=features,
            blocks=blocks,
            first_kernel=3,
            context_shape=context_shape,
        ).to(memory_format=torch.channels_last)

    def forward(self, parameters: Float[Tensor, "*b channels c h w"]) -> FactoredImage:
        """p(x | z), one event per image."""
        context = parameters.flatten(-4, -3)
        return FactoredImage(self.network, self.conditional, self.image_shape, context, check_network=False)

    def marginal(self, images: Shaped[Tensor, "n c h w"]) -> Float[Tensor, "channels c h w"]:
        """Where the decoder's output starts: at nothing, the pixels' own distributions are the PixelCNN's to learn."""
        return torch.zeros(self.channels, *images.shape[1:])
