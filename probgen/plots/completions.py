"""Images of which only some pixels are known: completions, and the film of an image being drawn."""

import io
import math

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image
from torch import Tensor

from probgen.plots.images import canvas, png, to_display

UNKNOWN = (58, 84, 128)  # a blue that no grey image has
LAST_FRAME_MS, FILM_MS = 2500, 6000


def hidden(images: Shaped[Tensor, "b c h w"], known: Bool[Tensor, "*shape"], levels: int) -> np.ndarray:
    """Images as `to_display` gives them, with the pixels that are not known in blue."""
    shown = to_display(images, levels)
    mask = known.expand(len(images), *known.shape[-2:]).cpu().numpy()
    factor = shown.shape[1] // mask.shape[1]
    mask = mask.repeat(factor, 1).repeat(factor, 2)[..., None]
    return np.where(mask, shown, np.array(UNKNOWN, np.uint8))


def completions(
    originals: Shaped[Tensor, "b c h w"],
    drawn: Shaped[Tensor, "k b c h w"],
    known: Bool[Tensor, "h w"],
    levels: int,
) -> bytes:
    """A row for each image: the original, what is known of it, and k completions."""
    count, columns = len(originals), 2 + len(drawn)
    cells = [to_display(originals, levels), hidden(originals, known, levels), *(to_display(d, levels) for d in drawn)]
    ordered = np.stack(cells, 1).reshape(count * columns, *cells[0].shape[1:])
    return png(Image.fromarray(canvas(ordered, columns)))


def frame(images: Shaped[Tensor, "b c h w"], drawn: int, levels: int) -> Image.Image:
    """A grid of images of which the first `drawn` pixels, in raster order, are there."""
    height, width = images.shape[-2:]
    known = images.new_zeros(height * width).bool()
    known[:drawn] = True
    return Image.fromarray(canvas(hidden(images, known.view(height, width), levels), math.ceil(math.sqrt(len(images)))))


def film(frames: list[Image.Image]) -> bytes:
    """Frames as an animated GIF of about six seconds that rests on its last one and starts anew."""
    buffer = io.BytesIO()
    duration = [max(20, FILM_MS // len(frames))] * (len(frames) - 1) + [LAST_FRAME_MS]
    small = [one.quantize(64, dither=Image.Dither.NONE) for one in frames]
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=duration, loop=0)
    return buffer.getvalue()
