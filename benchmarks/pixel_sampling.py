"""How long it takes to draw a batch of images pixel by pixel: cached, naive, and in passes of the network.

    python benchmarks/pixel_sampling.py                      # 64 images 28×28, PixelCNN of 15 blocks
    python benchmarks/pixel_sampling.py --network gated-pixelcnn --features 32 64

For each width, in one process, interleaved, the median of several rounds:
    pass      the network on the batch of whole images, once: what one evaluation of log p(x) costs
    cached    `FactoredImage.sample(cached=True)`: every activation computed once
    naive     `FactoredImage.sample(cached=False)`: a pass for each of the 784 pixels. Timed on the first pixels of an
              image that is drawn naively, and multiplied up, unless --naive-whole: each pixel costs the same pass
The pass (and with it naive) has all threads; the cached sampler takes one by itself where its products are small.
"""

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable

import torch

from probgen.distributions import Conditional, FactoredImage
from probgen.distributions.ancestral import walk
from probgen.layers import (
    DiagonalBiLSTMNetwork,
    GatedPixelCNNNetwork,
    PixelCNNNetwork,
    RasterLSTMNetwork,
    RowLSTMNetwork,
)

NETWORKS = {
    "pixelcnn": lambda features, blocks: PixelCNNNetwork(SHAPE, 1, features=features, blocks=blocks),
    "gated-pixelcnn": lambda features, blocks: GatedPixelCNNNetwork(SHAPE, 1, features=features, blocks=blocks),
    "row-lstm": lambda features, blocks: RowLSTMNetwork(SHAPE, 1, features=features, layers=blocks),
    "diagonal-bilstm": lambda features, blocks: DiagonalBiLSTMNetwork(SHAPE, 1, features=features, layers=blocks),
    "raster-lstm": lambda features, blocks: RasterLSTMNetwork(SHAPE, 1, features=features, layers=blocks),
}
SHAPE = (1, 28, 28)
PIXELS = 28 * 28


class EnoughError(Exception):
    """Raised to leave a naive drawing after its first pixels."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_pixels(density: FactoredImage, batch: int, count: int) -> None:
    """Draw the first pixels of a batch naively."""
    left = count

    def watch(_: torch.Tensor) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise EnoughError

    with contextlib.suppress(EnoughError):
        density.sample((batch,), cached=False, watch=watch)


def cache_bytes(density: FactoredImage, batch: int) -> int:
    """What the layers hold while a batch is drawn."""
    cursor = walk(density.network, SHAPE, in_waves=True)
    image = torch.zeros(batch, *SHAPE)
    with torch.inference_mode():
        for _, row, _ in cursor:
            density.network(image, None, cursor)
            if row == 1:
                break
    return cursor.bytes_held()


def row(density: FactoredImage, batch: int, rounds: int, naive_pixels: int) -> list[str]:
    """One line of the table."""
    images = torch.randint(2, (batch, *SHAPE)).float()
    times: dict[str, list[float]] = {"pass": [], "cached": [], "naive": []}
    with torch.inference_mode():
        density.network(images)
        for _ in range(rounds):
            times["pass"].append(seconds(lambda: density.network(images)))
            times["cached"].append(seconds(lambda: density.sample((batch,))))
            part = seconds(lambda: first_pixels(density, batch, naive_pixels))
            times["naive"].append(part * PIXELS / naive_pixels)
    one, cached, naive = (statistics.median(times[name]) for name in ("pass", "cached", "naive"))
    spread = f"{min(times['cached']):.2f}–{max(times['cached']):.2f}"
    return [
        f"{1e3 * one:.0f} ms",
        f"{cached:.2f} s ({spread})",
        f"{naive:.0f} s",
        f"{cached / one:.2f}",
        f"{naive / cached:.0f}×",
        f"{cache_bytes(density, batch) / 2**20:.1f} MiB",
    ]


def density_of(network: str, features: int, blocks: int) -> FactoredImage:
    """An untrained density, seed 0."""
    torch.manual_seed(0)
    built = NETWORKS[network](features, blocks).to(memory_format=torch.channels_last).eval()
    return FactoredImage(built, Conditional("bernoulli", 2), SHAPE, check_network=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="pixelcnn")
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--blocks", type=int, default=15, help="residual blocks, or layers of a recurrent network")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--naive-pixels", type=int, default=10, help="so many pixels are timed naively")
    parser.add_argument("--naive-whole", action="store_true", help="all of them: minutes for each width")
    options = parser.parse_args()
    print(f"{options.network}, {options.blocks} blocks, {options.batch} images 28×28, seed 0, {options.rounds} rounds")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    table = [["features", "one pass", "cached (range)", "naive", "cached / pass", "naive / cached", "memory of cache"]]
    for features in options.features:
        density = density_of(options.network, features, options.blocks)
        pixels = PIXELS if options.naive_whole else options.naive_pixels
        table.append([str(features), *row(density, options.batch, options.rounds, pixels)])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
