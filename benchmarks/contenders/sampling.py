"""Drawing a batch of images pixel by pixel from a PixelCNN of 15 blocks; see `pixel_sampling.py`, its own tool."""

from functools import partial

import torch

from benchmarks.pixel_sampling import PIXELS, SHAPE, density_of, first_pixels
from benchmarks.work import Work

NAIVE_PIXELS = 10


def setup(case: str, threads: int, way: str) -> Work:
    """One pass of the network, or a drawing of the whole batch; of the naive one, the first pixels of 784."""
    torch.set_num_threads(threads)
    quick = case == "quick"
    batch, pixels = 2 if quick else 64, 2 if quick else NAIVE_PIXELS
    density = density_of("pixelcnn", features=2 if quick else 32, blocks=1 if quick else 15)
    images = torch.randint(2, (batch, *SHAPE)).float()
    one = {
        "pass": partial(density.network, images),
        "cached": partial(density.sample, (batch,)),
        "naive": partial(first_pixels, density, batch, pixels),
    }[way]

    def run(steps: int) -> int:
        with torch.inference_mode():
            for _ in range(steps):
                one()
        return steps

    facts = {"parameters": sum(p.numel() for p in density.network.parameters())}
    return Work(run, facts, parts=PIXELS / pixels if way == "naive" else 1.0)
