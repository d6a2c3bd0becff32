"""Images by the chain rule: p(x) = p(x_1) p(x_2 | x_1) p(x_3 | x_1, x_2) …, the product over all pixels.

    log p(x) = Σ_i log p(x_i | x_1 … x_{i−1}; θ)                   exact; all terms in one pass of a causal network
    x_i ~ p(x_i | x_1 … x_{i−1})  for i = 1, 2, …                  ancestral sampling; each draw is fed back

The order is the raster: rows from the top, in a row from the left, in a pixel the channels R, G, B.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.distributions.ancestral import Known, draw_images, uniform_noise
from probgen.distributions.causality import check_once
from probgen.distributions.conditionals import Conditional
from probgen.distributions.networks import check_context, repeated
from probgen.errors import UserError

MOST_VALUES = 2**18  # pixels times channels scored at once where no gradient is wanted: more would only take memory


class FactoredImage(TorchDistribution):
    """p(x | context) = Π_i p(x_i | x_<i, context), over images c h w of whole numbers 0 … levels − 1.

    network: a causal network. `network(x, context)` takes images `b c h w` scaled to [−1, 1] and gives the numbers of
        every conditional, `b n c h w`; one that also takes a `Cursor` (see `probgen.layers`) can be sampled fast, and
        one whose attribute `wave_lag` is a number of columns several pixels at a time (see `probgen.layers.Wave`).
    conditional: what the n numbers of a pixel mean.
    image_shape: (c, h, w).
    context: what all pixels are conditioned on, `*batch *context_shape`; the batch shape is read off it by the
        network's `context_shape`.
    check_network: look for a pixel that sees itself or a later one, and refuse the network if there is one: at every
        place, or at 4096 random ones of a larger image, once for each network and size. Networks of `probgen.layers`
        are proved causal by the tests, and need not be looked at again.

    Raises UserError for a network that is not causal, and for a context that is missing or of another shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False
    is_chain = True  # a product of conditionals: how equations write it
    draws_for_a_mean = 16  # they are costly: a reconstruction shows the average of so many

    def __init__(
        self,
        network: nn.Module,
        conditional: Conditional,
        image_shape: Sequence[int],
        context: Float[Tensor, "*b context"] | None = None,
        *,
        check_network: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.conditional, self.context = network, conditional, context
        if len(image_shape) != 3:
            raise UserError(f"image_shape={tuple(image_shape)} came, expected (channels, height, width)")
        batch_shape = check_context(network, context)
        super().__init__(batch_shape, torch.Size(image_shape), validate_args=validate_args)
        if check_network and batch_shape.numel() > 0:
            first = self.flat_context(batch_shape)
            first = None if first is None else first[:1]
            example = next(network.parameters(), torch.zeros(()))
            check_once(network, lambda x: network(x, repeated(first, len(x))), image_shape, example)

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """The grey levels 0 … levels − 1 at every pixel."""
        return constraints.independent(constraints.integer_interval(0, self.conditional.levels - 1), 3)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FactoredImage":
        """The same distribution over a larger batch."""
        shape = torch.Size(batch_shape)
        if self.context is not None:
            return self.with_context(self.context.expand(*shape, *self.network.context_shape))  # type: ignore[misc]
        new = self.with_context(None)
        new._batch_shape = shape
        return new

    def with_context(self, context: Float[Tensor, "*b context"] | None) -> "FactoredImage":
        """The same network under another context."""
        return FactoredImage(
            self.network, self.conditional, self.event_shape, context,
            check_network=False, validate_args=self._validate_args,
        )  # fmt: skip

    # --- the density

    def log_prob(self, value: Shaped[Tensor, "*#b c h w"]) -> Float[Tensor, "*#b"]:
        """log p(x) in nats, exact, one number per image.

        Raises UserError for images of another shape, and with values that are no levels.
        """
        return self.log_prob_map(value).sum((-3, -2, -1))

    def log_prob_map(self, value: Shaped[Tensor, "*#b c h w"]) -> Float[Tensor, "*#b c h w"]:
        """log p(x_i | x_<i) in nats, exact, for each pixel and channel: the summands of `log_prob`."""
        batch = self.batch_of(value)
        if self._validate_args:
            check_levels(value, self.conditional.levels)
        x = value.expand(*batch, *self.event_shape).reshape(batch.numel(), *self.event_shape)
        x, context = x.to(self.example), self.flat_context(batch)
        size = max(1, MOST_VALUES // self.event_shape.numel()) if not torch.is_grad_enabled() else max(1, len(x))
        contexts = [None] * -(-len(x) // size) if context is None else context.split(size)
        maps = [
            self.conditional.log_prob(self.numbers(part, c), part)
            for part, c in zip(x.split(size), contexts or [context], strict=True)
        ]
        return torch.cat(maps).reshape(*batch, *self.event_shape)

    def numbers(self, x: Float[Tensor, "b c h w"], context: Tensor | None = None) -> Float[Tensor, "b n c h w"]:
        """The numbers of every conditional, given the pixels before it: the network sees levels scaled to [−1, 1]."""
        return self.network(x * (2 / (self.conditional.levels - 1)) - 1, self.context if context is None else context)

    def entropy(self, num_samples: int = 100) -> Float[Tensor, "*b"]:
        """E[−log p(x)] in nats by the mean of `num_samples` draws: an estimate, no closed form exists."""
        check_num_samples(num_samples)
        with torch.no_grad():
            return -self.log_prob(self.sample(torch.Size([num_samples]))).mean(0)

    def batch_of(self, value: Tensor) -> torch.Size:
        """The batch shape of images together with their context."""
        try:
            if value.shape[-3:] == self.event_shape:
                return torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        except RuntimeError:  # their numbers do not fit
            pass
        batch = ", ".join(map(str, self.batch_shape)) or "*batch"
        shape = ", ".join(map(str, self.event_shape))
        raise UserError(f"images of shape {tuple(value.shape)} came, expected ({batch}, {shape})")

    # --- the sampler

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        given: Shaped[Tensor, "*given c h w"] | None = None,
        mask: Bool[Tensor, "*m"] | None = None,
        *,
        cached: bool = True,
        temperature: float = 1.0,
        watch: Callable[[Tensor], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "*b c h w"]:
        """Draw images in grey levels, `*sample_shape *batch c h w`, each pixel given those before it.

        given, mask: completion. Pixels of the images `given` where `mask` (h w, or up to the full shape) is true stay
            as they are. Raster order conditions each drawn pixel only on *earlier* ones: what is known below it, or
            to its right, has no influence on it.
        cached: each activation is computed once; False is the naive sampler, one pass of the network for each pixel.
            Both give the same images from the same seed. A network that takes no cursor is sampled naively.
        temperature: below 1 nearer to the peaks of each conditional; then no longer draws from this density.
        watch: called with the images, `b c h w`, after each pixel, in raster order, which for a PixelCNN is slower.
        progress: called with the number of pixels that are done.

        Raises UserError for a mask without images or of another size, images of another shape or with other levels, and
        a temperature that is not above 0.
        """
        if not temperature > 0:
            raise UserError(f"temperature={temperature} came, expected a number above 0")
        shape = self._extended_shape(torch.Size(sample_shape))
        batch, num = shape[:-3], shape[:-3].numel()
        with torch.inference_mode():
            known = self.known(given, mask, shape)
            noise = uniform_noise(self.conditional, num, self.event_shape, self.example)
            drawn = draw_images(
                self.network, self.conditional, noise, self.flat_context(batch), known,
                cached=cached and takes_cursor(self.network), temperature=temperature, watch=watch, progress=progress,
            )  # fmt: skip
        return drawn.reshape(shape).clone()  # an ordinary tensor again

    def known(self, given: Tensor | None, mask: Tensor | None, shape: torch.Size) -> Known | None:
        """The pixels that stay."""
        if given is None and mask is None:
            return None
        if given is None or mask is None:
            raise UserError("a completion needs both: given, images, and mask, true where their pixels are to stay")
        check_broadcasts("given", given, shape)
        check_broadcasts("mask", mask, shape)
        if mask.dtype != torch.bool:
            raise UserError(f"a mask of {str(mask.dtype).removeprefix('torch.')} came, expected booleans")
        values = given.to(self.example).expand(shape).reshape(shape[:-3].numel(), *self.event_shape)
        kept = mask.to(values.device).expand(shape).reshape(shape[:-3].numel(), *self.event_shape)
        check_levels(values[kept], self.conditional.levels)
        return Known(values.contiguous(), kept.contiguous())

    # --- the context

    @property
    def example(self) -> Tensor:
        """A tensor of the network's dtype and device."""
        return next(self.network.parameters(), torch.zeros(()))

    def flat_context(self, batch: torch.Size) -> Tensor | None:
        """The context of every image of a batch, its batch axes flattened into one."""
        if self.context is None:
            return None
        shape = self.network.context_shape
        return self.context.expand(*batch, *shape).reshape(batch.numel(), *shape)  # type: ignore[misc]


def check_broadcasts(name: str, tensor: Tensor, shape: torch.Size) -> None:
    """Raise UserError for a tensor that does not broadcast to the images."""
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    if tensor.dim() < 2 or tensor.dim() > len(shape) or any(came not in (1, wanted) for came, wanted in sizes):
        raise UserError(
            f"{name} of shape {tuple(tensor.shape)}, expected {tuple(shape[-3:])}, or {tuple(shape)} for each image"
        )


def check_levels(values: Tensor, levels: int) -> None:
    """Raise UserError for values that are no grey levels, naming the first."""
    bad = values[~constraints.integer_interval(0, levels - 1).check(values)]
    if len(bad) > 0:
        raise UserError(f"a pixel of value {bad[0].item():g} came, expected whole numbers 0 to {levels - 1}")


def check_num_samples(num_samples: int) -> None:
    """Raise UserError where there would be nothing to take the mean of."""
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} came, expected 1 or more")


def takes_cursor(network: nn.Module) -> bool:
    """Whether the network can be evaluated pixel by pixel (see `probgen.layers.Cursor`)."""
    return "cursor" in signature(network.forward).parameters
