"""Pairs with discrete latents that are marked for enumeration, and their exact answers, one value after the other."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from oracles import array, gaussian_log_density, summed_evidence
from scipy import special, stats
from torch import nn

PARALLEL = {"enumerate": "parallel"}
STD = 0.7


def normal(value, mean, std=STD):
    """log N(value; mean, std²) of each number."""
    return stats.norm.logpdf(array(value), array(mean), std)


def log_softmax(logits):
    return special.log_softmax(array(logits), -1)


class Numbers(nn.Module):
    """Random logits and means for three classes, in float64; images are vectors of two numbers."""

    def __init__(self, seed=0):
        super().__init__()
        draw = np.random.default_rng(seed).normal
        shapes = {"logits": (3,), "mu": (3, 2), "nu": (3, 2), "A": (2, 3), "P": (3, 3), "b": (3,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(draw(size=shape))))

    def guide(self, x):
        pass

    def categorical(self, name, logits, mark=True):
        return pyro.sample(name, dist.Categorical(logits=logits), infer=PARALLEL if mark else {})

    def gaussian(self, name, mean, obs=None):
        return pyro.sample(name, dist.Normal(mean, STD).to_event(1), obs=obs)


class Mixture(Numbers):
    """x ~ Σ_c p(c) N(μ_c, s²), exact."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            self.gaussian("x", self.mu[self.categorical("c", self.logits)], obs=x)

    def evidence(self, x):
        return summed_evidence([3], lambda c: log_softmax(self.logits)[c] + normal(x, self.mu[c]).sum(-1))


class Chain(Numbers):
    """c_1 → c_2 → c_3; x_1 depends on two of them, x_2 on one, y on none."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            c_1 = self.categorical("c_1", self.logits)
            c_2 = self.categorical("c_2", self.P[c_1])
            pyro.sample("x_2", dist.Normal(self.b[c_2], STD), obs=x[:, 1])
            c_3 = self.categorical("c_3", self.P[c_2])
            pyro.sample("y", dist.Normal(torch.zeros(len(x)).double(), STD), obs=x[:, 0])
            pyro.sample("x_1", dist.Normal(self.b[c_1] + self.b[c_3], STD), obs=x[:, 0])

    def evidence(self, x):
        P, b = log_softmax(self.P), array(self.b)

        def joint(c_1, c_2, c_3):
            prior = log_softmax(self.logits)[c_1] + P[c_1, c_2] + P[c_2, c_3]
            return prior + normal(x[:, 1], b[c_2]) + normal(x[:, 0], b[c_1] + b[c_3])

        return summed_evidence([3, 3, 3], joint) + normal(x[:, 0], 0)


class Markov(Numbers):
    """c_0 → … → c_3 under `pyro.markov`, whose axes are used again; each number is seen twice."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            c = None
            for t in pyro.markov(range(4)):
                c = self.categorical(f"c_{t}", self.logits if c is None else self.P[c])
                pyro.sample(f"x_{t}", dist.Normal(self.b[c], STD), obs=x[:, t % 2])

    def evidence(self, x):
        P, b = log_softmax(self.P), array(self.b)

        def joint(*c):
            moves = sum(P[before, after] for before, after in itertools.pairwise(c))
            return log_softmax(self.logits)[c[0]] + moves + sum(normal(x[:, t % 2], b[c[t]]) for t in range(4))

        return summed_evidence([3] * 4, joint)


class Pixels(Numbers):
    """c of an image, or of each of its pixels, which are a plate inside the images'."""

    def __init__(self, own):
        super().__init__()
        self.own = own

    def model(self, x):
        images, pixels = pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", x.shape[1], dim=-1)
        with images:
            c = None if self.own else self.categorical("c", self.logits)
            with pixels:
                c = self.categorical("c", self.logits) if self.own else c
                pyro.sample("x", dist.Normal(self.b[c], STD), obs=x)

    def evidence(self, x):
        prior, x = log_softmax(self.logits), array(x)
        if self.own:
            return sum(summed_evidence([3], lambda c, i=i: prior[c] + normal(x[:, i], self.b[c])) for i in range(2))
        return summed_evidence([3], lambda c: prior[c] + normal(x, self.b[c]).sum(-1))


class Prior(Numbers):
    """z from a mixture, x ~ N(z + [c seen] μ_c, s²); the guide knows z only."""

    def __init__(self, seen=True):
        super().__init__()
        self.seen = seen

    def model(self, x):
        with pyro.plate("images", len(x)):
            c = self.categorical("c", self.logits)
            z = self.gaussian("z", self.nu[c])
            self.gaussian("x", z + self.seen * self.mu[c], obs=x)
            pyro.sample("y", dist.Normal(z[..., 0] * self.b[c], STD), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            self.gaussian("z", 0.5 * x)

    def joint(self, x, z):
        """log p(z) and log p(z, x, y), for z of shape k b d."""
        prior, nu, mu, b = log_softmax(self.logits), array(self.nu), array(self.mu), array(self.b)

        def of_z(c):
            return prior[c] + normal(z, nu[c]).sum(-1)

        def of_all(c):
            return of_z(c) + normal(x, z + self.seen * mu[c]).sum(-1) + normal(x[:, 0], z[..., 0] * b[c])

        return summed_evidence([3], of_z), summed_evidence([3], of_all)


class Guided(Numbers):
    """z from a mixture, x ~ N(z, s²); the guide has c and z; with `right`, they are the posterior."""

    def __init__(self, right=False):
        super().__init__()
        self.right = right

    def model(self, x):
        with pyro.plate("images", len(x)):
            c = self.categorical("c", self.logits, mark=False)
            self.gaussian("x", self.gaussian("z", self.nu[c]), obs=x)

    def guide(self, x):
        wide = dist.Normal(self.nu, 2**0.5 * STD).to_event(1).log_prob(x[..., None, :]) + self.logits
        with pyro.plate("images", len(x)):
            c = self.categorical("c", wide if self.right else x @ self.A)
            mean = (x + self.nu[c]) / 2 + (0 if self.right else 0.2)
            pyro.sample("z", dist.Normal(mean, STD * (0.5**0.5 if self.right else 1)).to_event(1))

    def evidence(self, x):
        cov = 2 * STD**2 * np.eye(2)
        return summed_evidence(
            [3], lambda c: log_softmax(self.logits)[c] + gaussian_log_density(x, array(self.nu)[c], cov)
        )

    def elbo(self, x, weighted=True):
        """Σ_c q(c) [log p(c) − log q(c) + E_q(z | c)[log p(z | c) p(x | z) / q(z | c)]], with Gaussian formulas."""
        q, nu, x = log_softmax(x @ self.A), array(self.nu), array(x)
        total = 0
        for c in range(3):
            mean = (x + nu[c]) / 2 + 0.2
            kl = ((mean - nu[c]) ** 2).sum(-1) / (2 * STD**2)
            log_likelihood = normal(x, mean).sum(-1) - 1  # E (z − mean)² / 2 s² is ½ a dimension
            weight = np.exp(q[:, c]) if weighted else 1 / 3
            total = total + weight * (log_softmax(self.logits)[c] - q[:, c] - kl + log_likelihood)
        return total


class Both(Numbers):
    """d → c → z, (z, c) → e, all at once: the guide sums c, draws z and h, the model sums d and e."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            d = self.categorical("d", self.logits)
            c = self.categorical("c", self.P[d], mark=False)
            z = self.gaussian("z", self.nu[c])
            h = pyro.sample("h", dist.Bernoulli(logits=self.b[c]))
            e = self.categorical("e", self.P[c] + z[..., :1])
            self.gaussian("x", self.mu[c] + z + e[..., None] + h[..., None], obs=x)
            pyro.sample("y", dist.Normal(z[..., 0] + d, STD), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            c = self.categorical("c", x @ self.A)
            z = self.gaussian("z", 0.3 * x + 0.5 * self.nu[c])
            pyro.sample("h", dist.Bernoulli(logits=self.b[c] + z[..., 0]))


class InnerGuide(Numbers):
    """d of an image and c of each of its pixels in the guide, which is wrong."""

    def model(self, x):
        with pyro.plate("images", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0))
            d = self.categorical("d", self.logits, mark=False)
            with pyro.plate("pixels", x.shape[1], dim=-1):
                c = self.categorical("c", self.P[d] + z[..., None], mark=False)
                pyro.sample("x", dist.Normal(self.b[c] + self.logits[d] + z, STD), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x), dim=-2):
            d = self.categorical("d", x[:, :1, None] * self.logits)
            z = pyro.sample("z", dist.Normal(x.mean(1, keepdim=True) + self.b[d], STD))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                self.categorical("c", (x + z)[..., None] * self.P[d])


EXACT = {
    "mixture": Mixture(),
    "chain": Chain(),
    "markov": Markov(),
    "pixels": Pixels(own=True),
    "image over pixels": Pixels(own=False),
}
SAMPLED = {"prior": Prior(), "guided": Guided(), "both": Both(), "pixels in the guide": InnerGuide()}
