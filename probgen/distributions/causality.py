"""Is a network causal? Its numbers for a pixel may depend on earlier pixels only, or they are no conditionals.

Two images that agree before pixel t must give the same numbers up to and including t, whatever follows.
"""

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from probgen.errors import UserError

MOST_PLACES = 64  # in one pass of the network
MOST_CHECKED = 4096  # before a network is trusted
TOLERANCE = 1e-4  # of float32 outputs, relative to their spread: what rounding may do

Places = tuple[int, int, int]  # channel, row, column
CHECKED: "WeakKeyDictionary[nn.Module, set[tuple[int, ...]]]" = WeakKeyDictionary()


def check_once(
    network: nn.Module, conditionals: Callable[[Tensor], Tensor], image_shape: Sequence[int], example: Tensor
) -> None:
    """`check_causal` of `conditionals`, the network with its context, unless this network has passed it already.

    All places are tried, or 4096 random ones of a larger image: so many images are evaluated, 64 in one pass.
    One that sees nothing as yet, because its last layer starts at zero, is looked at again the next time.
    """
    passed = CHECKED.setdefault(network, set())
    if tuple(image_shape) in passed:
        return
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng():
            sees = check_causal(conditionals, image_shape, example, MOST_CHECKED)
    finally:
        for module, training in modes:
            module.training = training
    if sees:
        passed.add(tuple(image_shape))


def check_causal(
    conditionals: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b n c h w"]],
    image_shape: Sequence[int],
    example: Tensor | None = None,
    most_places: int | None = None,
) -> bool:
    """Raise UserError, naming the pixel that leaks, where a pixel's numbers depend on itself or on a later pixel.

    Gives whether any pixel's numbers depend on another at all: else there was nothing to see.

    conditionals: the network, deterministic (in `eval()` mode). example: a tensor of its dtype and device.
    most_places: how many places t are tried, random ones; all of them without it. A leak that is the same everywhere,
    as a convolution's, shows at any of them; a pixel alone that sees itself, only at its own.
    """
    example = torch.zeros(()) if example is None else example
    size = torch.Size(image_shape).numel()
    places = torch.arange(size)
    if most_places is not None and size > most_places:
        places = torch.randperm(size)[:most_places].sort().values
    batch = min(MOST_PLACES, len(places))  # the same for all passes, as rounding may depend on it
    places = torch.cat([places, places[-1:].expand(-len(places) % batch)])
    first, other = (2 * torch.rand_like(example.new_empty(1, *image_shape)) - 1 for _ in range(2))
    sees = False
    with torch.no_grad():
        expected = in_order(check_numbers(conditionals(first.repeat(batch, 1, 1, 1)), first))[:1]
        allowed = rounding(expected)
        for part in places.split(batch):
            came = in_order(conditionals(replaced(first, other, part)))
            off = ((came - expected).abs() > allowed).any(1)
            wrong = off & (torch.arange(size, device=off.device) <= part[:, None].to(off.device))
            if wrong.any():
                place = int(wrong.any(0).nonzero()[0, 0])
                start = int(part[int(wrong[:, place].nonzero()[0, 0])])
                raise UserError(leak(conditionals, first, other, place, start, allowed[0, :, place]))
            sees = sees or bool(off.any())
    return sees


def rounding(expected: Float[Tensor, "1 n places"]) -> Float[Tensor, "1 n places"]:
    """How far each number may be off: little of its spread over the image, and of its own last digits.

    What is added to all of them, however large, hides no leak.
    """
    digits = 32 * torch.finfo(expected.dtype).eps
    return max(TOLERANCE, digits) * expected.std(-1, correction=0, keepdim=True) + digits * expected.abs()


def check_numbers(numbers: Tensor, image: Float[Tensor, "1 c h w"]) -> Tensor:
    """The network's output is of the shape b n c h w."""
    if numbers.dim() != 5 or numbers.shape[2:] != image.shape[1:]:
        raise UserError(
            f"the network gave shape {tuple(numbers.shape)} for images of shape {tuple(image.shape[1:])}, expected "
            f"(b, n, {', '.join(map(str, image.shape[1:]))}): n numbers for each pixel and channel"
        )
    return numbers


def leak(
    conditionals: Callable[[Tensor], Tensor],
    first: Float[Tensor, "1 c h w"],
    other: Float[Tensor, "1 c h w"],
    place: int,
    start: int,
    allowed: Float[Tensor, " n"],
) -> str:
    """Which pixel the numbers of `place` see that they must not: from `start` on, the first to move them further."""
    shape = first.shape[1:]
    starts = torch.arange(start, first.numel() + 1)
    images = (replaced(first, other, part) for part in starts.split(MOST_PLACES))
    numbers = torch.cat([in_order(conditionals(part))[..., place].clone() for part in images])
    moved = numbers.diff(dim=0).abs()  # by one pixel more
    clear = (moved > allowed).any(1).nonzero()
    which = start + int(clear[0, 0] if len(clear) > 0 else moved.amax(1).argmax())
    what = "itself" if which == place else named(which, shape)
    return f"the network is not causal: the distribution of {named(place, shape)} depends on {what}; mask it"


def replaced(
    first: Float[Tensor, "1 c h w"], other: Float[Tensor, "1 c h w"], starts: Int64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """The first image, with all places from each start on taken from the other one."""
    later = (torch.arange(first.numel()) >= starts[:, None]).to(first.device)
    return torch.where(from_order(later, first.shape[1:]), other, first)


def named(place: int, shape: Sequence[int]) -> str:
    """A place in raster order as a person reads it."""
    channels, _, width = shape
    pixel, channel = divmod(place, channels)
    colour = f", channel {channel}" if channels > 1 else ""
    return f"the pixel at row {pixel // width}, column {pixel % width}{colour}"


def in_order(numbers: Shaped[Tensor, "b n c h w"]) -> Shaped[Tensor, "b n places"]:
    """Places in raster order: row, column, channel."""
    return numbers.movedim(2, -1).flatten(2)


def from_order(values: Shaped[Tensor, "b places"], image_shape: Sequence[int]) -> Shaped[Tensor, "b c h w"]:
    """The inverse of `in_order`, of one number per place."""
    channels, height, width = image_shape
    return values.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
