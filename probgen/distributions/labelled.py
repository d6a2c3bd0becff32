"""Images with a label: p(x) = Σ_y p(y) p(x | y)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor

from probgen.distributions.factored import FactoredImage, check_num_samples
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

    # --- the density

    def log_prob(self, value: Shaped[Tensor, "*#b c h w"]) -> Float[Tensor, "*#b"]:
        """log p(x) in nats, exact, one number per image; raises UserError for images of another shape."""
        self.check_shape(value)
        return super().log_prob(value)

    def log_prob_map(self, value: Shaped[Tensor, "*#b c h w"]) -> Float[Tensor, "*#b c h w"]:
        """log p(x_i | x_<i) in nats, exact, for each pixel and channel: the summands of `log_prob`.

        That is log Σ_y p(y | x_<i) p(x_i | x_<i, y), where earlier pixels say what the label may be.
        """
        self.check_shape(value)
        each = self.component_distribution.log_prob_map(value[..., None, :, :, :]).movedim(-3, -1)  # y h w c
        image = each.shape[-3:]
        each = each.flatten(-3)
        before = each.cumsum(-1) - each  # log p(x_<i | y)
        posterior = (self.mixture_distribution.logits[..., None] + before).log_softmax(-2)
        return (posterior + each).logsumexp(-2).unflatten(-1, image).movedim(-1, -3)

    def entropy(self, num_samples: int = 100) -> Float[Tensor, "*b"]:
        """E[−log p(x)] in nats by the mean of `num_samples` draws: an estimate, no closed form exists."""
        check_num_samples(num_samples)
        with torch.no_grad():
            return -self.log_prob(self.sample(torch.Size([num_samples]))).mean(0)

    def check_shape(self, value: Tensor) -> None:
        """Raise UserError for images of another shape, or of a batch that does not fit."""
        sizes = zip(reversed(value.shape[:-3]), reversed(self.batch_shape), strict=False)
        if value.shape[-3:] != self.event_shape or any(a != b and 1 not in (a, b) for a, b in sizes):
            batch = ", ".join(map(str, self.batch_shape)) or "*batch"
            shape = ", ".join(map(str, self.event_shape))
            raise UserError(f"images of shape {tuple(value.shape)} came, expected ({batch}, {shape})")

    # --- the sampler

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
