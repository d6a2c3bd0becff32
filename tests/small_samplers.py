"""Small samplers x = G(z), of points, images, and images with labels."""

import torch
from pyro import poutine

from probgen.models.gan import GAN

IMAGES = ("mlp", (1, 8, 8)), ("dcgan", (1, 28, 28)), ("resnet", (3, 8, 8))


def images_of(network="mlp", shape=(1, 8, 8), levels=17, num_classes=None, **options):
    """A small sampler of images whose numbers reach both ends of the grey levels."""
    torch.manual_seed(0)
    pair = GAN(shape, levels, num_classes, network=network, hidden=(6, 4), latent_dim=3, **options)
    for parameter in pair.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return pair.double()


def plane(**options):
    torch.manual_seed(0)
    return GAN((2,), hidden=(6, 5), **options).double()


def with_classes():
    return images_of(num_classes=4, condition="label")


def trace_of(pair, *args):
    return poutine.trace(pair.model).get_trace(*args)
