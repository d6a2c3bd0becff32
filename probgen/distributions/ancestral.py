"""Ancestral sampling: x_i ~ p(x_i | x_1 … x_{i−1}) for i = 1, 2, …, each draw fed back as the next one's condition.

Naively each pixel costs a pass of the whole network. A network that takes a `Cursor` computes each activation once
and keeps it, so that the whole image costs the arithmetic of about one pass; both ways draw the same image from the
same noise.
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
    """Pixels that stay as they are: `values` in grey levels where `mask` is true."""

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
    """
    cursor = walk(network, noise.shape[2:], in_waves=cached and watch is None)
    levels = torch.zeros_like(noise[:, 0])  # what is drawn, in grey levels
    seen = levels - 1  # the same as the network sees it, on [−1, 1]
    if known is not None:
        levels = torch.where(known.mask, known.values, levels)
    done, alone = 0, cached and noise.device.type == "cpu" and len(noise) <= SMALL_BATCH
    with one_thread() if alone else nullcontext():
        for channel, *_ in cursor:
            stays = None if known is None else cursor.take(known.mask[:, None, channel])[:, 0]
            fixed = stays is not None and bool(stays.all())
            if cached:  # also where nothing is drawn: later pixels look at these activations
                numbers = network(seen, context, cursor)
            elif not fixed:
                numbers = cursor.take(network(seen, context)[:, :, channel])
            if not fixed:
                value = conditional.draw(numbers, cursor.take(noise[:, :, channel]), temperature)
                if stays is not None:
                    value = torch.where(stays, cursor.take(levels[:, None, channel])[:, 0], value)
                cursor.put(levels[:, channel], value)
            grey = cursor.take(levels[:, None, channel])[:, 0]
            cursor.put(seen[:, channel], grey * (2 / (conditional.levels - 1)) - 1)
            if channel == noise.shape[2] - 1:
                done += cursor.num_pixels
                if watch is not None:
                    watch(levels)
                if progress is not None:
                    progress(done)
    return check_drawn(levels)


def walk(network: nn.Module, image_shape: Sequence[int], *, in_waves: bool) -> Cursor:
    """One pixel after the other; or several at once, where the network says how far apart they must be."""
    channels, height, width = image_shape
    lag: int = getattr(network, "lag", width)
    return Wave(height, width, channels, lag) if in_waves and lag < width else Cursor(height, width, channels)


def check_drawn(levels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The images; raises UserError where the network's numbers were no distribution, naming the first pixel."""
    bad = in_order(levels.isnan()[:, None]).any(0)[0].nonzero()
    if len(bad) > 0:
        where = named(int(bad[0, 0]), levels.shape[1:])
        raise UserError(f"nothing can be drawn: the network gave nan, or infinite numbers, for {where}")
    return levels


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: to share out the small products of one pixel takes longer than to compute them."""
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
