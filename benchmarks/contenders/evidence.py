"""The IWAE bound with many particles on a variational autoencoder, and its matrix multiplications alone.

A step is an image. The encoder sees it once; the decoder's layers see every particle. `iwae` is called on 200 images or
more: what each call spends on recording the pair and loading the compiled code, over a second, is in its time.
"""

import math

import torch

from benchmarks.work import CASES, Case, Work
from probgen.inference import iwae
from probgen.inference.evidence import CHUNK
from probgen.models import VAE

PARTICLES, QUICK_PARTICLES = 5000, 50
IMAGES, QUICK_IMAGES = 200, 2  # of a call


def setup(case: str, threads: int, what: str) -> Work:
    """`iwae`, or the products of the same shapes with `torch.mm`."""
    torch.set_num_threads(threads)
    sizes, particles = CASES[case], QUICK_PARTICLES if case == "quick" else PARTICLES
    together = max(1, CHUNK // particles)  # images at once in `iwae`
    build = {"iwae": bound, "mm": products}[what]
    images = QUICK_IMAGES if case == "quick" else IMAGES
    return Work(build(sizes, particles, together, images), {"gflop": 1e-9 * flop(sizes, particles)})


def layers(sizes: Case, particles: int) -> list[tuple[int, int, int]]:
    """For an image: rows, inputs and outputs of each linear layer."""
    encoder = [(1, sizes.pixels, sizes.hidden), (1, sizes.hidden, 2 * sizes.latent)]
    return [*encoder, (particles, sizes.latent, sizes.hidden), (particles, sizes.hidden, sizes.pixels)]


def flop(sizes: Case, particles: int) -> int:
    """Of the matrix multiplications for an image."""
    return sum(2 * math.prod(layer) for layer in layers(sizes, particles))


def bound(sizes: Case, particles: int, together: int, least: int):
    """IWAE bounds on binary images, as a user calls for them."""
    shape = (1, sizes.side, sizes.side)
    vae = VAE(shape, 2, latent_dim=sizes.latent, hidden=(sizes.hidden,))
    images = torch.from_numpy(sizes.images()).view(-1, *shape) % 2

    def run(steps: int) -> int:
        count = min(len(images), max(least, math.ceil(steps / together) * together))
        iwae(vae.model, vae.guide, images[:count], particles, compile="on")
        return count

    return run


def products(sizes: Case, particles: int, together: int, _least: int):
    """The same numbers of rows at once, into memory that is there already."""
    shapes = [(together * rows, inputs, outputs) for rows, inputs, outputs in layers(sizes, particles)]
    given = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)) for m, k, n in shapes]

    def run(steps: int) -> int:
        calls = math.ceil(steps / together)
        for _ in range(calls):
            for left, right, out in given:
                torch.mm(left, right, out=out)
        return calls * together

    return run
