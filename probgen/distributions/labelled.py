"""Images with a label: p(x) = Σ_y p(y) p(x | y)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor

from probgen.distributions.factored import FactoredImage
from probgen.errors import UserError


class LabelledImage(MixtureSameFamily):
    """p(x) = Σ_y p(y) p(x | y), exact: the sum is over all labels.

    labels: p(y). images: p(x | y), a `FactoredImage` with one entry for each label in its batch.
    """

    is_chain, label_name = True, "y"  # how equations write it

    def __init__(self, labels: Categorical, images: FactoredImage) -> None:
        super().__init__(labels, images, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "LabelledImage":
        """The same distribution over a larger batch."""
        labels, images = self.mixture_distribution, self.component_distribution
        return LabelledImage(labels.expand(batch_shape), images.expand([*batch_shape, images.batch_shape[-1]]))

    def sample(
        self, sample_shape: Sequence[int] = (), given: Tensor | None = None, mask: Tensor | None = None, **options: Any
    ) -> Float[Tensor, "*b c h w"]:
        """Draw y ~ p(y), then x ~ p(x | y); options as of `FactoredImage.sample`.

        Raises UserError for a completion: what is known of an image says something of its label, which a draw from
        p(y) would not heed.
        """
        if given is not None or mask is not None:
            raise UserError("a completion came without a label: this model is of images with labels, name one")
        images: FactoredImage = self.component_distribution
        y = self.mixture_distribution.sample(torch.Size(sample_shape))
        dim = -1 - len(images.network.context_shape)  # type: ignore[arg-type]  # of the labels
        contexts = images.context.expand(*y.shape, *images.context.shape[dim:])  # type: ignore[union-attr]
        chosen = contexts.take_along_dim(y.reshape(*y.shape, *[1] * -dim), dim).squeeze(dim)
        return images.with_context(chosen).sample(**options)
