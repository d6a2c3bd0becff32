"""The variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014).

    p(x) = ∫ p(x | z) p(z) dz                                             can't be computed, hence:
    log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))
               ≥ E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))                  the ELBO, maximized by SVI

The training pass in one line: x → (μ_z, σ_z) → z → (parameters of p(x | z)) → both terms.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from pyro import poutine
from torch import Tensor, nn

from probgen.models.contracts import Kind, Objective
from probgen.models.likelihoods import Likelihood, LikelihoodName, choose_likelihood
from probgen.models.networks import Activation, Hidden, Network, decoder, encoder, scaled
from probgen.models.pixel_likelihood import PixelCNNLikelihood


class VAE(nn.Module):
    """p(x, z) = N(z; 0, I) · p(x | decoder(z)), guide q(z | x) = N(z; μ_z(x), diag σ_z(x)²).

    image_shape: (c, h, w), or (d,) for real vectors.
    levels: number of grey levels, or None for real-valued data.
    latent_dim: size of z.
    network: `mlp`, or `conv` (images only).
    hidden: layer widths of the mlp, channels of the conv network (from the image inwards).
    activation: between layers.
    likelihood: p(x | z). `bernoulli` (binary data only), `gaussian` (μ and σ per pixel; uniformly
        dequantized), `categorical`, `discretized-logistic`; without it the usual one for the data. With these
        pixels are independent given z; with `pixelcnn` each is also conditioned on those before it.
    pixelcnn_features, pixelcnn_blocks: size of that PixelCNN; it should not see so far that it needs no z.
    kl: KL(q ‖ p) in `closed-form`, or `sampled`, log q(z | x) − log p(z) at the drawn z.
    beta: weight of the KL in training (Higgins et al. 2017). Evaluation is always at 1.
    kl_warmup: training steps over which the weight rises linearly to beta (Sønderby et al. 2016).
    objective: `elbo`, or `iwae`, the K-sample bound with K = num_particles (Burda et al. 2016).
    num_particles: draws of z per image and training step.
    """

    kind = Kind.LATENT
    broadcasts = True

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        *,
        latent_dim: Annotated[int, Field(ge=1, le=100_000)] = 16,
        network: Network = "mlp",
        hidden: Hidden = (256, 256),
        activation: Activation = "relu",
        likelihood: LikelihoodName | Literal["pixelcnn"] | None = None,
        pixelcnn_features: Annotated[int, Field(ge=1, le=10_000)] = 16,
        pixelcnn_blocks: Annotated[int, Field(ge=1, le=1000)] = 2,
        kl: Literal["closed-form", "sampled"] = "closed-form",
        beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
        kl_warmup: Annotated[int, Field(ge=0)] = 0,
        objective: Literal["elbo", "iwae"] = "elbo",
        num_particles: Annotated[int, Field(ge=1, le=100_000)] = 1,
    ) -> None:
        super().__init__()
        self.image_shape, self.levels, self.latent_dim = tuple(image_shape), levels, latent_dim
        self.likelihood: Likelihood | PixelCNNLikelihood
        if likelihood == "pixelcnn":
            self.likelihood = PixelCNNLikelihood(
                image_shape, levels, features=pixelcnn_features, blocks=pixelcnn_blocks
            )
        else:
            self.likelihood = Likelihood(choose_likelihood(likelihood, levels), levels, len(self.image_shape))
        self.encoder = encoder(network, self.image_shape, 2 * latent_dim, hidden, activation)
        self.decoder = decoder(network, latent_dim, self.image_shape, self.likelihood.channels, hidden, activation)
        self.objective = Objective(objective, kl, num_particles)
        self.beta, self.kl_warmup, self.training_step = beta, kl_warmup, 0

    def model(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """p(x, z) = N(z; 0, I) · p(x | decoder(z))."""
        with pyro.plate("images", len(x)):
            with poutine.scale(scale=self.kl_weight):
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x.to(z.dtype))

    def guide(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """q(z | x) = N(z; μ_z(x), diag σ_z(x)²); drawn as z = μ_z + σ_z ε, so that gradients pass through."""
        with pyro.plate("images", len(x)), poutine.scale(scale=self.kl_weight):
            pyro.sample("z", self.posterior(x))

    @torch.no_grad()
    def initialize(self, images: Shaped[Tensor, "n *shape"]) -> None:
        """Start p(x | z) at the pixels' own distributions, before z explains anything.

        Otherwise the first thousand steps go into learning the mean image, meanwhile the KL switches latent
        units off, and few come back. Called once by training; a decoder that has learned is left alone.
        """
        bias: Tensor = self.decoder.output_bias  # type: ignore[assignment]
        if not bias.any():
            start = self.likelihood.marginal(images)
            bias.copy_(start if bias.shape == start.shape else start.mean((-2, -1), keepdim=True))

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I)."""
        zeros = torch.zeros(self.latent_dim).to(next(self.parameters()))
        return dist.Normal(zeros, 1.0).to_event(1)

    def posterior(self, x: Shaped[Tensor, "b *shape"]) -> dist.Distribution:
        """q(z | x) = N(μ_z(x), diag σ_z(x)²)."""
        mu, log_sigma = self.encoder(scaled(x, self.levels, self.encoder)).chunk(2, -1)
        return dist.Normal(mu, log_sigma.exp()).to_event(1)

    @property
    def kl_weight(self) -> float | Tensor:
        """Weight of log p(z) and log q(z | x), in the model and in the guide alike: 1 outside training."""
        if not self.training:
            return 1.0
        risen = (self.training_step + 1) / max(1, self.kl_warmup)
        if isinstance(risen, Tensor):  # while a step of any number is recorded
            return self.beta * risen.clamp(max=1.0)
        return self.beta * min(1.0, risen)

    @torch.no_grad()
    def encode(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b latent"]:
        """μ_z(x): the mean code of each image."""
        return self.posterior(x).mean
