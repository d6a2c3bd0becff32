"""What all models of the chain rule share: an exact density over images, used as one Pyro site.

    p(x) = Π_i p(x_i | x_1 … x_{i−1}; θ)          pixels in raster order; in a pixel R, then G, then B

The guide is empty, so that the ELBO is log p(x) itself and SVI is maximum likelihood. With `condition="label"`

    p(x, y) = p(y) Π_i p(x_i | x_<i, y; θ)        and    p(x) = Σ_y p(x, y), still exact: one pass for each label.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from probgen.distributions import FactoredImage, LabelledImage
from probgen.distributions.conditionals import ConditionalName, choose_conditional
from probgen.distributions.forcing import student_forced
from probgen.errors import UserError
from probgen.models.contracts import Kind

Condition = Literal["none", "label"]


class Autoregressive(nn.Module):
    """A causal network and the family of its conditionals, as a Pyro program; each model names its network.

    build: makes the network for a number of outputs and a context shape.
    """

    kind = Kind.TRACTABLE
    network: nn.Module

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None,
        num_classes: int | None,
        build: Callable[..., nn.Module],
        *,
        conditional: ConditionalName | None,
        mixtures: int,
        condition: Condition,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise UserError(f"data of shape {tuple(image_shape)} came: {type(self).__name__} is of images c h w")
        if condition == "label" and num_classes is None:
            raise UserError("condition=label came with data that have no labels: leave it out")
        self.image_shape, self.levels, self.condition = tuple(image_shape), levels, condition
        self.conditional = choose_conditional(conditional, levels, mixtures)
        self.takes_labels = condition == "label"
        context_shape = None
        if self.takes_labels:
            self.num_classes = num_classes
            self.label_logits = nn.Parameter(torch.zeros(num_classes or 0))
            context_shape = (num_classes,)
        self.network = build(self.image_shape, self.conditional.size, context_shape=context_shape)
        self.network.to(memory_format=torch.channels_last)  # about twice as fast on a CPU

    def model(self, x: Shaped[Tensor, "b c h w"], y: Shaped[Tensor, " b"] | None = None) -> None:
        """p(x) = Π_i p(x_i | x_<i); with labels p(x, y) = p(y) Π_i p(x_i | x_<i, y)."""
        with pyro.plate("images", len(x)):
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=self.label_logits), obs=y)
            pyro.sample("x", self.training_distribution(x, y), obs=x)

    def guide(self, x: Shaped[Tensor, "b c h w"], y: Shaped[Tensor, " b"] | None = None) -> None:
        """Nothing is latent: the ELBO is log p(x) itself, and SVI is maximum likelihood."""

    def distribution(self, label: int | Tensor | None = None) -> FactoredImage | LabelledImage:
        """p(x), or p(x | y) for a label (whole numbers, one for each image of a batch).

        Raises UserError for a label of a model that knows none, or one that it does not know.
        """
        if not self.takes_labels:
            if label is not None:
                raise UserError("a label came, but this model was trained without: train with condition=label")
            return FactoredImage(self.network, self.conditional, self.image_shape, check_network=False)
        every = torch.eye(len(self.label_logits)).to(self.label_logits)
        if label is None:
            each = FactoredImage(self.network, self.conditional, self.image_shape, every, check_network=False)
            return LabelledImage(dist.Categorical(logits=self.label_logits), each)
        chosen = every[known_labels(label, len(every)).to(every.device)]
        return FactoredImage(self.network, self.conditional, self.image_shape, chosen, check_network=False)

    def training_distribution(self, x: Tensor, y: Tensor | None) -> dist.Distribution:
        """The density; while a model is trained by student forcing, what stands in for it."""
        density = self.distribution(y)
        share = getattr(self, "student_forcing", 0.0) if self.training else 0.0
        if share == 0 or isinstance(density, LabelledImage):
            return density
        return student_forced(density.numbers, self.conditional, x, share)

    def log_prob(self, x: Shaped[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """log p(x) in nats, exact."""
        return self.distribution().log_prob(x)

    def numbers(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c h w"]:
        """The numbers of every conditional, given images in grey levels; of the first label where there are labels."""
        density = self.distribution(torch.zeros(len(x)) if self.takes_labels else None)
        assert isinstance(density, FactoredImage)
        return density.numbers(x)

    def sample(self, num: int, *, label: int | None = None, **options: Any) -> Float[Tensor, "num c h w"]:
        """x ~ p(x), or p(x | label); options as of `FactoredImage.sample`."""
        return self.distribution(label).sample(torch.Size([num]), **options)


def known_labels(label: Any, num_classes: int) -> Int64[Tensor, "*b"]:
    """Labels as whole numbers. Raises UserError for what is none of 0 … num_classes − 1, naming the first."""
    try:
        labels = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"label {label!r} came, expected a whole number, 0 to {num_classes - 1}") from error
    bad = labels[(labels < 0) | (labels >= num_classes) | (labels != labels.long())]
    if len(bad) > 0:
        raise UserError(f"label {bad[0].item()} came, expected a whole number, 0 to {num_classes - 1}")
    return labels.long()
