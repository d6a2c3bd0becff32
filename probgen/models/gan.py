"""Generative adversarial networks (Goodfellow et al. 2014): a sampler, and a second network as its teacher.

    x = G(z),  z ~ N(0, I)                                   draws, and no density: log p(x) cannot be computed
    min_G max_D  E_x[log D(x)] + E_z[log(1 − D(G(z)))]       the two players' value function

The discriminator is trained to tell data from draws, the generator to be mistaken for data: a loss that is learned
together with what it judges. Which losses and penalties the players have is in `probgen.inference.adversarial`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field
from torch import Tensor, nn

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.models.contracts import (
    NO_DENSITY,
    USUAL_REGULARIZER,
    AdversarialObjective,
    Kind,
    LossName,
    RegularizerName,
)
from probgen.models.networks import Hidden, scaled
from probgen.models.players import (
    WIDTHS,
    DiscriminatorNorm,
    GeneratorNorm,
    PlayerActivation,
    PlayerNetwork,
    check_names,
    discriminator,
    generator,
)
from probgen.models.players import discriminator_norm as norm_of

USUAL_WEIGHT: dict[RegularizerName, float] = {"none": 0.0, "r1": 0.1, "r2": 0.1, "r1+r2": 0.1, "gradient-penalty": 10.0}
Usual = Literal["usual"]  # a default by another name than None: none is a choice of its own
Share = Annotated[float, Field(ge=0, lt=1)]


class GAN(nn.Module):
    """x = G(z) with z ~ N(z; 0, I): a sampler without a density, taught by a discriminator D.

    image_shape: (c, h, w), or (d,) for real vectors.
    levels: number of grey levels, or None for real-valued data.
    latent_dim: size of z; without it 64 for images, and the size of a point for points.
    network: of both players: `mlp`, `dcgan` (images of 28 to 64 pixels a side), `resnet` (images, no normalization).
    hidden: layer widths of the mlp, channels of the others from the image inwards; without it the network's usual.
    activation: between the layers of the mlp.
    condition: `label`: draw x = G(z, y) for a label y, judged as D(x, y).
    loss: both players' losses: `minimax` (the value above, whose gradient vanishes for a losing generator),
        `non-saturating`, `least-squares`, `hinge`, `wasserstein`, `relativistic`.
    regularizer: on the discriminator's gradient: `r1` at data, `r2` at draws, both, `gradient-penalty` between them;
        `usual` the loss's own: gradient-penalty for wasserstein, r1+r2 for relativistic, none for the others.
    gamma: the regularizer's weight; without it 0.1, of the gradient-penalty 10.
    discriminator_steps: its updates for each of the generator's. discriminator_lr: its rate, as a multiple of --lr.
    beta1, beta2: Adam's decay rates.
    generator_norm: `batch` (dcgan only, its default) or `none`. discriminator_norm: `none`, `batch` (dcgan's default
        without a regularizer), `spectral`. spectral_norm: the same as discriminator_norm=spectral.
    label_smoothing: data count as real only so far: 1 − label_smoothing (cross-entropy and squared losses).
    instance_noise: standard deviation of noise on all that the discriminator sees in training, falling to 0.
    packing: images that are judged together, of one origin. minibatch_statistics: D also sees the batch's spread; a
        logit then depends on all images of its batch, and a regularizer is about the gradient of the sum of all
        logits in each image (see `probgen.inference.adversarial.penalties`).

    Raises UserError for a name that is none, and for options that do not go together.
    """

    kind = Kind.IMPLICIT

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        latent_dim: Annotated[int, Field(ge=1, le=100_000)] | None = None,
        network: PlayerNetwork = "mlp",
        hidden: Hidden | None = None,
        activation: PlayerActivation = "relu",
        condition: Literal["none", "label"] = "none",
        loss: LossName = "relativistic",
        regularizer: RegularizerName | Usual | None = "usual",
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None,
        discriminator_steps: Annotated[int, Field(ge=1, le=1000)] = 1,
        discriminator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
        beta1: Share = 0.0,
        beta2: Share = 0.99,
        generator_norm: GeneratorNorm | Usual | None = "usual",
        discriminator_norm: DiscriminatorNorm | Usual | None = "usual",
        spectral_norm: bool = False,
        label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
        instance_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0,
        packing: Annotated[int, Field(ge=1, le=64)] = 1,
        minibatch_statistics: bool = False,
    ) -> None:
        super().__init__()
        check_names(
            network=network, activation=activation, condition=condition, loss=loss, regularizer=regularizer,
            generator_norm=generator_norm, discriminator_norm=discriminator_norm,
        )  # fmt: skip
        if condition == "label" and num_classes is None:
            raise UserError("condition=label came with data that have no labels: leave it out")
        self.image_shape, self.levels = tuple(image_shape), levels
        self.latent_dim = latent_dim or (64 if len(self.image_shape) == 3 else self.image_shape[0])
        self.takes_labels = condition == "label"
        self.num_classes = num_classes if self.takes_labels else None
        named, weight = chosen_regularizer(loss, unless_usual(regularizer), gamma)
        self.objective = AdversarialObjective(
            loss, named, weight, discriminator_steps, discriminator_lr, beta1, beta2,
            label_smoothing, instance_noise, packing,
        )  # fmt: skip
        widths = hidden or WIDTHS[network]
        self.generator: Any = generator(
            network, self.latent_dim, self.image_shape, widths, activation,
            unless_usual(generator_norm), self.num_classes,
        )  # fmt: skip
        self.discriminator: Any = discriminator(
            network, self.image_shape, widths, activation,
            norm=norm_of(unless_usual(discriminator_norm), network, named, spectral_norm),
            packing=packing, minibatch_statistics=minibatch_statistics, num_classes=self.num_classes,
        )  # fmt: skip
        if network != "mlp":
            self.to(memory_format=torch.channels_last)  # a tenth faster on a CPU

    def model(
        self, num: int | Shaped[Tensor, "b *shape"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b *shape"]:
        """z ~ N(z; 0, I), x = G(z); with labels x = G(z, y), y ~ Uniform unless it is given.

        num: how many, or a batch of so many images. Raises UserError for labels that are not one for each image and,
        where distributions validate their arguments, 0 … num_classes − 1.
        """
        size = num if isinstance(num, int) else len(num)
        with pyro.plate("images", size):
            if self.takes_labels and y is None:
                y = pyro.sample("y", self.label_prior())
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", Implicit(self.made(z, y), len(self.image_shape), NO_DENSITY))

    def guide(self, x: Shaped[Tensor, "b *shape"]) -> NoReturn:
        """Raises TypeError: nothing is inferred here, for no x has a density."""
        raise TypeError(NO_DENSITY)

    def log_prob(self, x: Shaped[Tensor, "b *shape"]) -> NoReturn:
        """Raises TypeError: x = G(z) is implicit."""
        raise TypeError(NO_DENSITY)

    def prior(self) -> dist.Distribution:
        """p(z) = N(0, I)."""
        zeros = torch.zeros(self.latent_dim).to(next(self.parameters()))
        return dist.Normal(zeros, 1.0).to_event(1)

    def label_prior(self) -> dist.Distribution:
        """p(y), uniform."""
        assert self.num_classes is not None
        return dist.Categorical(logits=torch.zeros(self.num_classes).to(next(self.parameters())))

    def made(self, z: Float[Tensor, "b latent"], y: Int64[Tensor, " b"] | None = None) -> Float[Tensor, "b *shape"]:
        """G(z) in the data's unit: grey levels, not rounded, so that the discriminator's gradient passes through."""
        made = self.generator(z) if y is None else self.generator(z, y)
        return made if self.levels is None else (made + 1) * ((self.levels - 1) / 2)

    def seen(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Grey levels 0 … levels − 1 brought to [−1, 1], or real vectors as they are."""
        return scaled(x, self.levels, self.discriminator)

    def judge(self, seen: Float[Tensor, "b *shape"], y: Int64[Tensor, " b"] | None = None) -> Float[Tensor, " p"]:
        """The discriminator's logit of each pack of images; D(x) = σ(logit) where the loss makes it a probability.

        With batch norm, a logit in `eval()` mode is by the statistics of real training images, in training mode by
        those of the images that are judged together: two normalizations, whose logits are not comparable. Raises
        UserError for labels that are not one for each image and, where distributions validate their arguments,
        0 … num_classes − 1.
        """
        return self.discriminator(seen) if y is None else self.discriminator(seen, y)

    @torch.no_grad()
    def features(self, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b features"]:
        """What the discriminator sees in an image before it judges it: its last hidden layer."""
        return self.discriminator.features(self.seen(x))


def unless_usual(choice: Any) -> Any:
    """The choice, or None for `usual`."""
    return None if choice == "usual" else choice


def chosen_regularizer(
    loss: LossName, regularizer: RegularizerName | None, gamma: float | None
) -> tuple[RegularizerName, float]:
    """The regularizer asked for, or the loss's usual one; and its weight.

    Raises UserError for a weight without anything to weigh.
    """
    name, weight = USUAL_REGULARIZER.get(loss, ("none", 0.0))
    if regularizer is not None and regularizer != name:
        name, weight = regularizer, USUAL_WEIGHT[regularizer]
    if gamma and name == "none":
        raise UserError(
            f"gamma={gamma:g} came with loss={loss} and no regularizer: set regularizer=r1, or leave it out"
        )
    return name, weight if gamma is None else gamma
