"""Samples of a run, how fast they come, and how good they are: what can be measured without a likelihood."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probgen.commands.common import OpenedRun, need_density
from probgen.commands.pixels import draw_pixels, draws_pixels
from probgen.console import progress_bar
from probgen.errors import UserError
from probgen.inference.annealing import ais
from probgen.inference.observation import GaussianObservation
from probgen.inference.predict import sample
from probgen.inference.randomness import own_randomness
from probgen.measures import Judgement, judge_samples

CHUNK = 1000  # images drawn at once
MOST_SAMPLES, FEWEST_SAMPLES = 100_000, 50
MODE_SAMPLES = 10_000  # by default, of points: they cost nothing, and a rare mode wants many
PIXEL_SAMPLES = 1000  # by default, of a model that draws one pixel after the other: it takes so much longer


@dataclass(frozen=True)
class Drawn:
    """Samples in grey levels, and the seconds that they took, without those of a first few."""

    samples: Tensor
    seconds: float

    @property
    def per_second(self) -> float:
        """Images drawn in a second."""
        return len(self.samples) / self.seconds


def check_samples(num: int | None) -> None:
    """Raise UserError for a number of samples that cannot be judged."""
    if num is not None and not FEWEST_SAMPLES <= num <= MOST_SAMPLES:
        raise UserError(f"--samples {num} came, expected {FEWEST_SAMPLES} to {MOST_SAMPLES:,}")


def draw(opened: OpenedRun, num: int, *, quiet: bool) -> Drawn:
    """`num` samples; a first few warm up what is slow only once, and are not counted."""
    sizes = [min(CHUNK, num - start) for start in range(0, num, CHUNK)]
    if draws_pixels(opened.model):
        started = time.perf_counter()
        parts = [draw_pixels(opened, size, quiet=quiet).cpu() for size in sizes]
        return Drawn(whole(torch.cat(parts), opened.levels), time.perf_counter() - started)
    sample(opened.model, min(2, num), opened.image_shape)
    started, parts = time.perf_counter(), []
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("drawing", total=num, terms="")
        for size in sizes:
            parts.append(sample(opened.model, size, opened.image_shape).cpu())
            bar.advance(task, size)
    return Drawn(whole(torch.cat(parts), opened.levels), time.perf_counter() - started)


def whole(images: Tensor, levels: int | None) -> Tensor:
    """Images in whole grey levels, as they would be saved: some models draw real numbers."""
    return images if levels is None else images.round().clamp(0, levels - 1)


def judge(
    opened: OpenedRun,
    *,
    split: str,
    num: int | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> tuple[Drawn, Judgement]:
    """Samples of a run, and all measures of them that apply to its data.

    num: of samples; without it 10,000 points, or as many as real images in the split, up to 10,000 (1,000 where pixels
    are drawn one after the other).
    """
    check_samples(num)
    data = opened.data(data_dir)
    size = len(opened.whole_split(split, data_dir))
    most = PIXEL_SAMPLES if draws_pixels(opened.model) else MODE_SAMPLES
    usual = MODE_SAMPLES if opened.levels is None else min(size, most)
    with own_randomness(seed):  # whatever was estimated before
        drawn = draw(opened, num or max(FEWEST_SAMPLES, usual), quiet=quiet)
    return drawn, judge_samples(drawn.samples, data, split=split, seed=seed, quiet=quiet)


FEW_COMPARED = 500
ROUGH = (
    f"fewer than {FEW_COMPARED} samples were compared: kernel distance, precision and recall are rough at this number"
)


def check_implicit(
    opened: OpenedRun, method: str | None, particles: int | None, num: int | None, sigma: float | None
) -> None:
    """Raise UserError for options that do nothing for an implicit model."""
    need_bound(opened, method)
    name = opened.run.config.model
    if particles is not None:
        raise UserError(
            f"--particles {particles} came, but {name} is implicit and has no bound to tighten: leave it out"
        )
    if method == "ais":
        return
    if num is not None:
        raise UserError(
            f"--num {num} came, but {name} is implicit: without --method ais no log p(x) is estimated; --samples says "
            "how many to draw and judge"
        )
    if sigma is not None:
        raise UserError(f"--sigma {sigma:g} came without --method ais: no other method adds noise")


def need_bound(opened: OpenedRun, method: str | None) -> None:
    """Raise UserError where a method asks an implicit model for a bound."""
    if method not in (None, "ais"):
        need_density(opened, {"elbo": "ELBO", "iwae": "IWAE bound", "bdmc": "bound on log p(x)"}[method])


def notes_on_sampler(opened: OpenedRun) -> list[str]:
    """How an implicit run's samples come about, where that is not what one would think."""
    labels = (
        "each sample's label is drawn uniformly, whatever the shares of labels in the data",
        getattr(opened.model, "takes_labels", False),
    )
    rounded = (
        "its samples are rounded to 0 and 1 before they are judged; in training the discriminator saw them unrounded, "
        "as greys between",
        opened.levels == 2,
    )
    return [note for note, applies in (labels, rounded) if applies]


def noisy_likelihood(
    opened: OpenedRun, images: Tensor, settings: dict[str, Any], sigma: float, *, quiet: bool
) -> dict[str, Any]:
    """AIS of the sampler with Gaussian noise on top, with its protocol. settings: as `ais` takes them."""
    noisy = GaussianObservation(opened.model, sigma, opened.levels).to(opened.device)
    found = ais(noisy.model, noisy.unit(images), **settings, progress=not quiet)
    unit = "nats per point" if opened.levels is None else "nats per image, a density of images in [0, 1]"
    return {
        "sigma": sigma,
        **found.estimate.to_json(),
        "unit": unit,
        "num_images": len(images),
        "chains": settings["num_chains"],
        "distributions": settings["num_distributions"],
        "schedule": settings["schedule"],
        "acceptance": float(found.acceptance.mean()),
        "what": f"log-likelihood of G(z) with Gaussian noise of standard deviation {sigma:g} on top "
        "(Wu et al. 2017): of another model than the sampler, which has none",
    }


def as_json(drawn: Drawn, judgement: Judgement) -> dict[str, Any]:
    """For `evaluate` and `compare`."""
    return {**judgement.to_json(), "samples_per_second": drawn.per_second}
