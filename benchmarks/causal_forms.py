"""Forms of a PixelCNN's masked layers that compute the same: forward and backward pass of one layer, without compiling.

    python -m benchmarks.causal_forms --threads 1

Widths, batch and image are those of the row `pixelcnn`. The forms take turns, in another order each round.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.pixelcnn import BATCH
from benchmarks.harness import rotated
from benchmarks.table import duration
from probgen.layers.causal import CausalConv2d

Form = Callable[[CausalConv2d, Tensor], Tensor]
LAYERS = {"1×1, 64 → 32": (64, 32, 1), "1×1, 32 → 64": (32, 64, 1), "3×3 mask B, 32 → 32": (32, 32, 3)}


def layer_of(name: str) -> CausalConv2d:
    """One of `LAYERS`."""
    inputs, outputs, kernel = LAYERS[name]
    return CausalConv2d(inputs, outputs, (kernel, kernel), "B")


def convolution(layer: CausalConv2d, x: Tensor) -> Tensor:
    """b + Σ_t W[t] x[i + t], the taps after the centre multiplied by zero."""
    return F.conv2d(F.pad(x, (0, 0, layer.above, 0)), layer.weight * layer.mask, layer.bias, padding=(0, layer.aside))


def product(layer: CausalConv2d, x: Tensor) -> Tensor:
    """The taps up to the centre side by side, times one matrix; of a pointwise layer, the features themselves."""
    taps = [(i, j) for i in range(layer.above + 1) for j in range(2 * layer.aside + 1)][: -layer.aside or None]
    b, _, h, w = x.shape
    padded = F.pad(x, (layer.aside, layer.aside, layer.above, 0)).permute(0, 2, 3, 1)
    beside = torch.cat([padded[:, i : i + h, j : j + w] for i, j in taps], -1) if layer.above else x.permute(0, 2, 3, 1)
    weight = layer.weight * layer.mask
    matrix = torch.cat([weight[:, :, i, j] for i, j in taps], 1)
    products = beside.reshape(b * h * w, -1) @ matrix.t() + layer.bias
    return products.view(b, h, w, -1).permute(0, 3, 1, 2)


def apart(layer: CausalConv2d, x: Tensor) -> Tensor:
    """A convolution of the rows above, and one along the row as far as the centre."""
    weight = layer.weight * layer.mask
    rows = F.pad(x[:, :, :-1], (0, 0, layer.above, 0))
    above = F.conv2d(rows, weight[:, :, :-1], layer.bias, padding=(0, layer.aside))
    return above + F.conv2d(F.pad(x, (layer.aside, 0)), weight[:, :, -1:, : layer.aside + 1])


def as_built(layer: CausalConv2d, x: Tensor) -> Tensor:
    """The convolution whose weight learns by a product for each tap (`layers/taps.py`)."""
    return layer(x)


LAST, DEFAULT = torch.channels_last, torch.contiguous_format
FORMS: dict[str, tuple[Form, torch.memory_format]] = {
    "convolution, default layout": (convolution, DEFAULT),
    "convolution, channels_last": (convolution, LAST),
    "matrix product, channels_last": (product, LAST),
    "as built, weight's gradient by taps": (as_built, LAST),
}
WIDE = {**FORMS, "two convolutions, channels_last": (apart, LAST)}


def forms_of(name: str) -> dict[str, tuple[Form, torch.memory_format]]:
    """The forms that a layer has: a pointwise one sees no rows above."""
    return FORMS if LAYERS[name][2] == 1 else WIDE


def passes(name: str, form: Form, layout: torch.memory_format, batch: int, side: int) -> Callable[[], object]:
    """A forward and a backward pass, to the input, the weight and the bias."""
    layer = layer_of(name).to(memory_format=layout)
    x = torch.randn(batch, LAYERS[name][0], side, side).to(memory_format=layout).requires_grad_()
    up = torch.randn(batch, LAYERS[name][1], side, side).to(memory_format=layout)
    return lambda: torch.autograd.grad(form(layer, x), [x, layer.weight, layer.bias], up)


def compared(name: str, rounds: int, batch: int = BATCH, side: int = 28) -> dict[str, list[float]]:
    """Seconds of processor time of every form of a layer, one for each round; the first pass of each is not counted."""
    runs = {told: passes(name, *form, batch, side) for told, form in forms_of(name).items()}
    seconds: dict[str, list[float]] = {told: [] for told in runs}
    for number in range(-1, rounds):
        for told in rotated(list(runs), max(0, number)):
            start = time.process_time()
            runs[told]()
            seconds[told] += [time.process_time() - start] * (number >= 0)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"| layer, {options.threads} thread(s) | form | median | least |\n|---|---|---|---|")
    for name in LAYERS:
        for told, seconds in compared(name, options.rounds).items():
            print(f"| {name} | {told} | {duration(median(seconds))} | {duration(min(seconds))} |")


if __name__ == "__main__":
    main()
