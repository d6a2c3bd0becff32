"""Ancestral sampling: x_i ~ p(x_i | x_1 … x_{i−1}) for i = 1, 2, …, each draw fed back as the next one's condition.

Naively each pixel costs a pass of the whole network. A network that takes a `Cursor` computes each activation once
and keeps it, so that the whole image costs the arithmetic of about one pass; where pixels of several rows do not look
at each other, they are drawn at once (see `Wave`). All three ways draw the same image from the same noise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probgen.distributions.causality import in_order, named
from probgen.distributions.conditionals import Conditional
from probgen.errors import UserError
from probgen.layers.cursor import Cursor, Wave

SMALL_BATCH = 256  # images, up to which a second thread slows the cached sampler down


@dataclass(frozen=True)
class Known:
    """Pixels that stay as they are: `values` in grey levels where `mask` is true; both with their own memory."""

    values: Float[Tensor, "b c h w"]
    mask: Bool[Tensor, "b c h w"]


def draw_images(
    network: nn.Module,
    conditional: Conditional,
    noise: Float[Tensor, "b u c h w"],
    context: Tensor | None = None,
    known: Known | None = None,
    *,
    cached: bool = True,
    temperature: float = 1.0,
    watch: Callable[[Tensor], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Images in grey levels, one for each noise.

    known: pixels that are given. Raster order conditions a pixel only on the *earlier* ones, known or drawn: what is
        known below or to the right of it is kept, but has no influence on it.
    cached: each activation once; else a whole pass for each pixel.
    watch: called with the image after each pixel, in raster order. progress: called with the number of pixels done.

    Raises UserError where the network's numbers are no distribution.
    """
    draft = Draft(network, conditional, noise, context, known, cached=cached, temperature=temperature)
    cursor = walk(network, noise.shape[2:], in_waves=cached and watch is None)
    is_small = cached and noise.device.type == "cpu" and len(noise) <= SMALL_BATCH
    done = 0
    with one_thread() if is_small else nullcontext():
        for channel, *_ in cursor:
            draft.draw(cursor)
            if channel == noise.shape[2] - 1:
                done += cursor.num_pixels
                if watch is not None:
                    watch(draft.levels)
                if progress is not None:
                    progress(done)
    return check_drawn(draft.levels)


class Draft:
    """Images that are being drawn; arguments as of `draw_images`.

    levels: what is there, in grey levels, and zeros. seen: the same as the network sees it, on [−1, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        conditional: Conditional,
        noise: Float[Tensor, "b u c h w"],
        context: Tensor | None,
        known: Known | None,
        *,
        cached: bool,
        temperature: float,
    ) -> None:
        self.network, self.conditional, self.noise, self.context = network, conditional, noise, context
        self.known, self.cached, self.temperature = known, cached, temperature
        self.levels = torch.zeros_like(noise[:, 0], memory_format=torch.contiguous_format)
        self.seen = self.levels - 1

    def draw(self, cursor: Cursor) -> None:
        """Put a value, drawn or known, to the places of the cursor."""
        value = self.value(cursor)
        cursor.put(self.levels[:, cursor.channel], value)
        cursor.put(self.seen[:, cursor.channel], value * (2 / (self.conditional.levels - 1)) - 1)

    def value(self, cursor: Cursor) -> Float[Tensor, " n"]:
        """The values there, in grey levels."""
        if self.known is None:
            return self.drawn(cursor)
        mask, values = self.known.mask, self.known.values
        stays, given = (cursor.take(part[:, None, cursor.channel])[:, 0] for part in (mask, values))
        if not stays.all():
            return torch.where(stays, given, self.drawn(cursor))
        if self.cached:
            self.numbers(cursor)  # later pixels look at these activations
        return given

    def drawn(self, cursor: Cursor) -> Float[Tensor, " n"]:
        """A draw from the conditional."""
        noise = cursor.take(self.noise[:, :, cursor.channel])
        return self.conditional.draw(self.numbers(cursor), noise, self.temperature)

    def numbers(self, cursor: Cursor) -> Float[Tensor, "n numbers"]:
        """The conditional's, given what is there."""
        if self.cached:
            return self.network(self.seen, self.context, cursor)
        return cursor.take(self.network(self.seen, self.context)[:, :, cursor.channel])


def walk(network: nn.Module, image_shape: Sequence[int], *, in_waves: bool) -> Cursor:
    """One pixel after the other; or several at once, where the network says how far apart they must be."""
    channels, height, width = image_shape
    lag: int | None = getattr(network, "wave_lag", None)
    if in_waves and lag is not None and lag < width:
        return Wave(height, width, channels, lag)
    return Cursor(height, width, channels)


def check_drawn(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The images; raises UserError where the network's numbers were no distribution, naming the first pixel."""
    bad = in_order(levels.isnan()[:, None]).any(0)[0].nonzero()
    if len(bad) > 0:
        where = named(int(bad[0, 0]), levels.shape[1:])
        raise UserError(f"nothing can be drawn: the network gave nan, or infinite numbers, for {where}")
    return levels


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: to share out small products takes longer than to compute them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def uniform_noise(
    conditional: Conditional, num: int, image_shape: Sequence[int], like: Tensor
) -> Float[Tensor, "b u c h w"]:
    """All the chance in `num` images: uniform numbers from torch's global generator."""
    shape = (num, conditional.noise_size, *image_shape)
    return torch.rand(shape, dtype=like.dtype, device=like.device)
