"""Every number on log p(x) that probgen has, for a model whose log p(x) is known: probabilistic PCA.

    python docs/evidence_of_ppca.py [IMAGES]

Digits (8×8, real-valued by adding uniform noise), 8 latents; the guide of the bounds is a factorized Gaussian, the
posterior without its correlations (the latent space is rotated first: in the axes of the closed form there are none).
"""

import sys

import pyro
import pyro.distributions as dist
import torch

from probgen.data import load_data
from probgen.inference import Estimate, ais, bdmc, elbo_terms, exact, iwae
from probgen.models import ProbabilisticPCA


def factorized(model: ProbabilisticPCA):
    """q(z | x) = Π_i N(z_i; E[z_i | x], 1 / precision_ii): the factorized Gaussian with the highest ELBO."""

    def guide(x):
        posterior = model.posterior(x)
        scale = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, scale).to_event(1))

    return guide


def main(num_images: int = 50) -> None:
    """Print one row for each number: over the images of the test split, and over images simulated from the model."""
    pyro.set_rng_seed(0)
    data = load_data("digits")
    train, test = (part.images.flatten(1).double() for part in (data.train, data.test))
    train, test = train + torch.rand_like(train), (test + torch.rand_like(test))[:num_images]
    model = ProbabilisticPCA((64,), latent_dim=8).double().maximum_likelihood(train)
    model.W.data @= torch.linalg.qr(torch.randn(8, 8).double()).Q  # the same p(x), but now z is correlated given x
    guide, annealing = factorized(model), {"num_chains": 8, "num_distributions": 300, "schedule": "adaptive"}
    rows: dict[str, Estimate] = {
        "log p(x)": exact(model.log_prob, test),
        "ELBO, the posterior as guide": elbo_terms(model.model, model.guide, test, 16, kl="sampled").estimate,
        "ELBO, factorized guide": elbo_terms(model.model, guide, test, 100).estimate,
        "IWAE, factorized guide": iwae(model.model, guide, test, 1000),
        "AIS": ais(model.model, test, **annealing, progress=True).estimate,
    }
    both = bdmc(model.model, num_images, test, **annealing, progress=True)
    rows |= {"simulated: BDMC, forwards": both.lower, "simulated: log p(x)": exact(model.log_prob, both.images)}
    rows |= {"simulated: BDMC, backwards": both.upper}
    truths = [rows["log p(x)"]] * 5 + [rows["simulated: log p(x)"]] * 3
    print(f"{'':30} {'nats per image':>14}   {'minus log p(x)':>16}   what it is")
    for (name, estimate), truth in zip(rows.items(), truths, strict=True):
        off = Estimate.of(estimate.per_image - truth.per_image, "estimate")
        print(f"{name:30} {estimate.value:14.3f}   {off.value:7.3f} ± {off.stderr:.3f}    {estimate.kind}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
