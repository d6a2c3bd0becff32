"""Numbers about the evidence log p(x): exact where the model has it, bounds from below where it does not."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from probgen.console import track
from probgen.errors import UserError
from probgen.inference.arviz_bridge import FEWEST_WEIGHTS, pareto_k
from probgen.inference.compiled.evaluation import Compile, Evaluation, Tell, note
from probgen.inference.compiled.recording import Step
from probgen.inference.elbo import log_mean_exp, noise
from probgen.inference.estimates import Estimate
from probgen.inference.traces import Program, as_real, check_images, evaluating, trace_pair

CHUNK = 20_000  # images × particles whose weights are held at once, and most that are run through the pair at once
CACHED = 2**19  # pixels × images × particles that the CPU is given at once: 2 MB in float32, about a core's own cache

Shape = tuple[int, int]
WeightsOf = Callable[[Tensor, int], Tensor]  # (b images, k particles) ↦ log weights k b


@torch.no_grad()
def iwae(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "b *shape"],
    num_particles: int = 50,
    *,
    diagnose: bool = True,
    compile: Compile = "auto",
    tell: Tell | None = None,
    progress: bool = False,
) -> Estimate:
    """E[log (1/K) Σ_k p(x, z_k) / q(z_k | x)] ≤ log p(x), z_k ~ q (Burda et al. 2016, equation 8).

    The logarithm of the mean is taken for each image by itself. The bound rises with K = num_particles and
    tends to log p(x); images and particles are taken in chunks, so that memory is bounded for any K and b.

    Discrete sites that are marked for enumeration in the model alone are summed out; those of the guide are drawn.

    diagnose: with 25 particles or more, fit the tail of each image's weights (`Estimate.pareto_k`).
    compile: whether to compile the weights: `off`, `on`, or `auto`, where there is so much to do that it repays. The
        numbers are the same for the same state of torch's generator, up to rounding.
    tell: is told, once, why a pair was not compiled although it was to be; without it stderr is, with `progress`.

    Raises UserError for a pair whose terms would be wrong (see `trace_pair`), and for K < 1.
    """
    if num_particles < 1:
        raise UserError(f"num_particles={num_particles} came, expected 1 or more")
    check_images(x)
    with evaluating(model, guide):
        groups = x.split(max(1, CHUNK // num_particles))
        calls = Counter(shape for group in groups for shape in chunk_shapes(group, num_particles))
        weights = Weights(model, guide, x, calls, Evaluation([model, guide], compile, tell or note(progress)))
        parts = track(groups, f"IWAE, {num_particles} particles", quiet=not progress)
        results = [summarize(chunked_weights(model, guide, part, num_particles, weights), diagnose) for part in parts]
    bounds, errors, tails = zip(*results, strict=True)
    estimate = Estimate.of(torch.cat(bounds), "lower bound", num_particles, torch.cat(errors))
    return estimate if tails[0] is None else replace(estimate, pareto_k=torch.cat(tails))


class Weights:
    """`log_weights` of a pair, compiled for the shapes (images, particles) for which that is wanted.

    x: all images. calls: how often each shape will come.
    """

    def __init__(
        self, model: Program, guide: Program, x: Tensor, calls: Counter[Shape], evaluation: Evaluation
    ) -> None:
        self.model, self.guide, self.evaluation = model, guide, evaluation
        self.wanted = {shape for shape, number in calls.items() if evaluation.wanted(number, shape[0] * shape[1])}
        self.steps: dict[Shape, Step] = {}
        if self.wanted:
            self.check(x)

    def check(self, x: Tensor) -> None:
        """Let Pyro see every image once, for only Pyro refuses what a pair has no right number for."""
        with torch.random.fork_rng():
            for part in x.split(rows_at_once(x)):
                trace_pair(self.model, self.guide, part)

    def __call__(self, x: Tensor, num_particles: int) -> Float[Tensor, "k b"]:
        """log w of each particle and image."""
        x, shape, pyros = as_real(x), (len(x), num_particles), partial(self.by_pyro, num_particles)
        if shape not in self.wanted or self.evaluation.not_compiled is not None:
            return pyros(x)[0]
        if shape not in self.steps:
            self.steps[shape] = self.evaluation.best(pyros, [x], x, num_particles)
        state = torch.get_rng_state()
        (weights,) = self.steps[shape](x)
        if weights.isnan().any():  # Pyro may say what is wrong
            torch.set_rng_state(state)
            return pyros(x)[0]
        return weights

    def by_pyro(self, num_particles: int, x: Tensor) -> list[Tensor]:
        """The same, alone in a list."""
        with torch.no_grad():
            return [log_weights(self.model, self.guide, x, num_particles)]


def summarize(weights: Float[Tensor, "k b"], diagnose: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The bound of each image with its Monte Carlo error, and the shape of its weights' tail if asked for."""
    with_tail = diagnose and len(weights) >= FEWEST_WEIGHTS
    return log_mean_exp(weights).cpu(), log_mean_noise(weights).cpu(), pareto_k(weights).cpu() if with_tail else None


def chunked_weights(
    model: Program, guide: Program, x: Tensor, num_particles: int, weights: WeightsOf | None = None
) -> Float[Tensor, "k b"]:
    """All log weights of a few images, images and particles in chunks; by `log_weights`, or by what does the same."""
    of = weights or partial(log_weights, model, guide)
    images, particles = chunks_of(x, num_particles)
    return torch.cat([torch.cat([of(part, k) for k in particles]) for part in x.split(images)], 1)


def chunk_shapes(x: Tensor, num_particles: int) -> list[Shape]:
    """The (images, particles) of each chunk."""
    images, particles = chunks_of(x, num_particles)
    return [(i, k) for i in images for k in particles]


def chunks_of(x: Tensor, num_particles: int) -> tuple[list[int], list[int]]:
    """How many images at a time, and of each how many particles at a time."""
    rows = rows_at_once(x)
    images = even_parts(len(x), max(1, rows // num_particles))
    return images, even_parts(num_particles, max(1, rows // images[0]))


def rows_at_once(x: Tensor) -> int:
    """How many images × particles to run through a pair at once: what fits a CPU's cache, CHUNK elsewhere."""
    if x.device.type != "cpu":
        return CHUNK
    return min(CHUNK, max(1, CACHED // max(1, x[0].numel())))


def even_parts(total: int, most: int) -> list[int]:
    """Numbers of this sum, none above `most`: all the same if half as many parts again are enough for that.

    A shape is compiled once, so that there should not be many.
    """
    fewest = -(-total // most)
    number = next((n for n in range(fewest, fewest + fewest // 2 + 1) if total % n == 0), fewest)
    return [total // number + (i < total % number) for i in range(number)]


def log_mean_noise(log_weights: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """Standard error of log (1/k) Σ_k w_k, by the delta method: that of the mean, relative to it; nan for k = 1."""
    return noise((log_weights - log_mean_exp(log_weights)).exp())


def log_weights(
    model: Program, guide: Program, x: Shaped[Tensor, "b *shape"], num_particles: int
) -> Float[Tensor, "k b"]:
    """log w = log p(x, z) − log q(z | x) for each particle and image, z ~ q."""
    sites = trace_pair(model, guide, x, num_particles)
    return torch.stack([s.log_p if s.log_q is None else s.log_p - s.log_q for s in sites]).sum(0)


@torch.no_grad()
def exact(
    log_prob: Callable[[Tensor], Tensor],
    x: Shaped[Tensor, "b *shape"],
    *,
    chunk_size: int = 256,
    progress: bool = False,
) -> Estimate:
    """log p(x) of a tractable density, from its own `log_prob`."""
    check_images(x)
    with evaluating(log_prob):
        parts = track(x.split(chunk_size), "log p(x)", quiet=not progress)
        per_image = torch.cat([log_prob(as_real(part)) for part in parts])
    return Estimate.of(per_image, "exact")


@torch.no_grad()
def entropy(density: Distribution, num_samples: int = 1000) -> Estimate:
    """H(p) = E_p[−log p(x)] in nats, the mean of independent draws: unbiased, with its standard error.

    density: one that can be drawn from and scored, with an empty batch shape.

    Raises UserError for fewer than two draws, which have no error, or for a batch of densities.
    """
    if num_samples < 2:
        raise UserError(f"num_samples={num_samples} came, expected 2 or more")
    if density.batch_shape:
        raise UserError(f"a batch of densities of shape {tuple(density.batch_shape)} came, expected one")
    return Estimate.of(-density.log_prob(density.sample(torch.Size([num_samples]))), "estimate")
