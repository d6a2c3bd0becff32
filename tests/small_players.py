"""Small players in double precision, and what the tests of their training share."""

import torch

from probgen.inference import TrainConfig
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.batches import TensorImages
from probgen.models.gan import GAN

LOSSES = ("minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic")
REGULARIZERS = ("none", "r1", "r2", "r1+r2", "gradient-penalty")


def small(shape=(3,), levels=None, num_classes=None, *, seed=0, **options):
    """A small pair in float64."""
    torch.manual_seed(seed)
    options = {"latent_dim": 2, "hidden": (6, 5), "activation": "tanh", "regularizer": "none"} | options
    return GAN(shape, levels, num_classes, **options).double()


def points(num=12, dim=3):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(1)).double()


def trainer_of(pair, x, labels=None, kind=AdversarialTrainer, **config):
    config = {"steps": 20, "batch_size": 4, "lr": 0.05} | config
    return kind(pair, TensorImages(x, labels), TrainConfig(**config))


def state_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same(one, other, tolerance=0.0):
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one)


def weight(options):
    """A penalty's weight, where there is a penalty."""
    return {"gamma": 0.7} | options if options.get("regularizer", "none") != "none" else options


def norms_at(d, x, packing, *y):
    """‖∇ logit‖ of each pack, differentiable in D."""
    x = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(d(x, *y).sum(), x, create_graph=True)
    return slope.reshape(len(x) // packing, -1).pow(2).sum(1)


def convolutional():
    torch.manual_seed(0)
    return GAN((1, 28, 28), 5, latent_dim=2, hidden=(2,), network="dcgan", loss="hinge").double()
