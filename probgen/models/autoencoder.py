"""The autoencoder: an encoder, a bottleneck, a decoder, and the squared error.

    z = encoder(x),  x̂ = decoder(z),  loss = ‖x − x̂‖²

Written as a Pyro pair, so that one sees which three changes make it the variational autoencoder of `vae.py`:

    here                                             there
    1. guide   z is one point, Delta(encoder(x))     z is drawn, N(μ_z(x), σ_z(x)²)
    2. model   z has no prior (an improper one)      z ~ N(0, I), whose KL keeps the codes in place
    3. model   a penalty −‖x − x̂‖², no density       x ~ p(x | z), a distribution over images

Without the three there is no p(x): nothing to sample from, and no likelihood to report.
"""

from collections.abc import Sequence
from typing import Annotated

import pyro
import pyro.distributions as dist
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.models.contracts import Kind
from probgen.models.networks import Activation, Hidden, Network, decoder, encoder, scaled


class Autoencoder(nn.Module):
    """x̂ = decoder(encoder(x)), trained on the squared error, on pixels scaled to [−1, 1].

    image_shape: (c, h, w), or (d,) for real vectors.
    levels: number of grey levels, or None for real-valued data (then not scaled).
    latent_dim: size of the bottleneck z.
    network, hidden, activation: of encoder and decoder (see `VAE`).
    """

    kind = Kind.NONE
    no_density = "an autoencoder minimizes a squared error: it has no prior p(z) and no p(x | z), hence no likelihood"
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
    ) -> None:
        super().__init__()
        self.image_shape, self.levels, self.latent_dim = tuple(image_shape), levels, latent_dim
        self.encoder = encoder(network, self.image_shape, latent_dim, hidden, activation)
        self.decoder = decoder(network, latent_dim, self.image_shape, 1, hidden, activation)

    def model(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """x̂ = decoder(z), with −‖x − x̂‖² where a density would have log p(x | z)."""
        with pyro.plate("images", len(x)):
            anything = dist.ImproperUniform(constraints.real_vector, (), (self.latent_dim,))
            z = pyro.sample("z", anything)
            reconstruction = self.decoder(z).squeeze(-len(self.image_shape) - 1)
            pyro.deterministic("x", self.to_levels(reconstruction), event_dim=len(self.image_shape))
            error = (scaled(x, self.levels, self.decoder) - reconstruction).square()
            pyro.factor("squared_error", -error.flatten(-len(self.image_shape)).sum(-1))

    def guide(self, x: Shaped[Tensor, "b *shape"]) -> None:
        """z = encoder(x)."""
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Delta(self.encoder(scaled(x, self.levels, self.encoder))).to_event(1))

    def to_levels(self, image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """From [−1, 1] back to grey levels 0 … levels − 1."""
        return image if self.levels is None else (image.clamp(-1, 1) + 1) / 2 * (self.levels - 1)
