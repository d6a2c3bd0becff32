"""Broken causal networks: each lets a pixel's distribution depend on what it must not."""

from image_networks import build
from torch import nn
from torch.nn import functional as F

from probgen.layers import GatedPixelCNNNetwork
from probgen.layers.masks import causal_mask


def masked(kinds, shape=(1, 3, 4)):
    """A PixelCNN whose layers have the masks `kinds(layer's name, its kernel)`, right or wrong."""
    network = build("pixelcnn", shape, depth=2, features=6)
    for name, layer in network.named_modules():
        if hasattr(layer, "mask"):
            outputs, inputs, above, width = layer.weight.shape
            kind = kinds(name, width)
            layer.mask = causal_mask(kind, outputs, inputs, 2 * above - 1, width, shape[0])[:, :, :above].double()
    return network


class SeesItsRow(GatedPixelCNNNetwork):
    """Broken: the vertical stack is not moved down, and looks along its own row, to the right too."""

    def links(self, x, context, cursor):
        return self.rows(x, context, cursor)


class MovedAside(GatedPixelCNNNetwork):
    """Broken: the vertical stack is moved to the right instead of down, and looks back to where it came from."""

    def links(self, x, context, cursor):
        return self.rows(F.pad(x, (1, 0))[..., :-1], context, cursor)


def gated_twin(cls):
    return cls((1, 3, 4), 1, features=4, blocks=2, first_kernel=3).double()


def right_tap():
    """Broken: the first mask looks one pixel too far along its row, but not at the pixel itself."""
    network = build("pixelcnn", (1, 3, 4))
    network.first.mask[..., -1, 2] = 1
    return network


def colours_backwards():
    """Broken: the first mask lets R see G and B."""
    network = build("pixelcnn", (3, 2, 2))
    network.first.mask[..., -1, 1] = network.first.mask[..., -1, 1].flip(0, 1)
    return network


ITSELF = "row 0, column 0 depends on itself"
TWINS = {
    "mask-b-first": (lambda: masked(lambda name, kernel: "B"), (1, 3, 4), ITSELF),
    "sees-its-row": (lambda: gated_twin(SeesItsRow), (1, 3, 4), ITSELF),
    "moved-aside": (lambda: gated_twin(MovedAside), (1, 3, 4), "depends on itself"),
    "right-tap": (right_tap, (1, 3, 4), "row 0, column 0 depends on the pixel at row 0, column 1"),
    "colours-backwards": (colours_backwards, (3, 2, 2), "column 0, channel 0 depends on the pixel at row 0, column 0"),
}


class LinearNetwork(nn.Module):
    """Each place's number is a weighted sum of places, in raster order."""

    def __init__(self, weight, image_shape):
        super().__init__()
        self.weight, self.image_shape = nn.Parameter(weight), image_shape

    def forward(self, x, context=None):
        c, h, w = self.image_shape
        numbers = x.permute(0, 2, 3, 1).flatten(1) @ self.weight.T
        return numbers.reshape(-1, h, w, c).permute(0, 3, 1, 2)[:, None]
