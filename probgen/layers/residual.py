"""A residual block without normalization, and a start that lets many of them be stacked all the same (Fixup)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU below 0


class ResidualBlock(nn.Module):
    """h → skip(h) + conv₂(φ(conv₁(φ(h)))), φ the leaky ReLU: the block of Mescheder et al. 2018.

    Convolutions are 3×3; the skip is h itself, or a 1×1 convolution where the number of channels changes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.first = nn.Conv2d(inputs, middle, 3, padding=1)
        self.second = nn.Conv2d(middle, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, h: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        """Add what the block has learned to what came."""
        branch = self.first(F.leaky_relu(h, SLOPE))
        return self.skip(h) + self.second(F.leaky_relu(branch, SLOPE))


def fixup(network: nn.Module, *, zero: bool = True) -> None:
    """Start a network of L residual blocks such that each is its skip, in place (Zhang et al. 2019, section 3).

    Weights are normal with variance 1 / inputs, so that a layer keeps the size of what comes, and biases 0. In the
    blocks, conv₁ has the variance of He et al. 2015 over L, and conv₂ is 0. The multipliers of the paper are left
    out, as Huang et al. 2024 do; biases there are.

    zero: False leaves conv₂ random, for spectral norm: a matrix of zeros has no singular value to divide by.
    """
    blocks = [block for block in network.modules() if isinstance(block, ResidualBlock)]
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    for block in blocks:
        nn.init.kaiming_normal_(block.first.weight, a=SLOPE)
        block.first.weight.data *= len(blocks) ** -0.5  # L^(−1 / (2m − 2)) for branches of m = 2 layers
        if zero:
            nn.init.zeros_(block.second.weight)
