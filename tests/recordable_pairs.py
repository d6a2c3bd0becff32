"""Pairs that a bound can be recorded for, and what tests of it share."""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from oracles import LinearGaussian
from pyro import poutine
from torch import nn

from probgen.inference import annealing, bidirectional, evidence
from probgen.inference.compiled.evaluation import Evaluation
from probgen.models import VAE

DOUBLE = torch.float64


class Broadcasting(LinearGaussian):
    broadcasts = True


class TwoLatents(LinearGaussian):
    """p(a) p(z | a) p(x | z), whose guide goes the other way; a is positive."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            a = pyro.sample("a", dist.Gamma(torch.tensor(2.0, dtype=DOUBLE), 1.0))
            z = pyro.sample("z", dist.Normal(a[..., None] + torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T + self.mu, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x @ self.G.T + self.g, self.log_s.exp()).to_event(1))
            pyro.sample("a", dist.LogNormal(z.sum(-1) / 4, 0.5))


class Flow(LinearGaussian):
    """A guide pushed through an autoregressive flow."""

    def __init__(self):
        super().__init__()
        self.flows = nn.ModuleList([transforms.affine_autoregressive(2, [6])])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            base = dist.Normal(x @ self.G.T + self.g, self.log_s.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, list(self.flows)))


class TwoFlows(Flow):
    """One of them cannot be inverted: what it drew it remembers."""

    def __init__(self):
        super().__init__()
        self.flows.append(transforms.Planar(2))


class Plates(LinearGaussian):
    """Two latents for each image in a plate of their own, part of x masked."""

    def model(self, x):
        with pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(self.mu, 1.0))
            with poutine.mask(mask=x > 0):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("z", dist.Normal(self.W[:, 0] * x, 0.6))


class Loose:
    """No module: `pyro.param`s, one of them positive."""

    def model(self, x):
        scale = pyro.param("scale", torch.tensor(0.8, dtype=DOUBLE), constraint=dist.constraints.positive)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            shift = pyro.param("shift", torch.zeros(3, dtype=DOUBLE))
            pyro.sample("z", dist.Normal(x / 2 + shift, 0.3).to_event(1))


def images(pair, num=6):
    """Real vectors, or binary images for a VAE."""
    if isinstance(pair, VAE):
        return torch.randint(2, (num, 1, 2, 2), dtype=torch.uint8)
    return LinearGaussian().data(num)


def vae(**options):
    return VAE((1, 2, 2), 2, latent_dim=2, hidden=(4,), **options).double()


def pixelcnn():
    return vae(likelihood="pixelcnn", pixelcnn_features=2, pixelcnn_blocks=1)


CONTINUOUS = [LinearGaussian, Broadcasting, TwoLatents, Flow, Plates, Loose, vae]
ZOO = [*CONTINUOUS, TwoFlows, pixelcnn]


def seeded(function, *args, **options):
    """A result, and the generator's next number."""
    pyro.set_rng_seed(5)
    return function(*args, **options), torch.rand(())


def check_same(ours, pyros):
    torch.testing.assert_close(ours, pyros, rtol=1e-10, atol=1e-10)


def recording_only(monkeypatch):
    """`compile="on"` records, and compiles nothing."""
    for module in (evidence, annealing, bidirectional):
        made = lambda programs, compile, tell: Evaluation(programs, compile, tell, machine_code=False)  # noqa: E731
        monkeypatch.setattr(module, "Evaluation", made)
