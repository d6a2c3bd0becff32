"""`probgen evaluate` and `probgen elbo`: numbers about log p(x), each with what it is."""

from pathlib import Path
from typing import Any

from torch import Tensor

from probgen.commands.common import OpenedRun, check_num, open_run
from probgen.errors import UserError
from probgen.inference.elbo import ElboTerms, elbo_terms
from probgen.inference.estimates import Estimate, bits_per_dim
from probgen.inference.evidence import exact, iwae
from probgen.models.contracts import Kind, kind_of

MOST_PARTICLES = 1_000_000


def evaluate_run(
    path: Path,
    *,
    split: str,
    particles: int,
    num: int | None,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
    quiet: bool = True,
) -> dict[str, Any]:
    """What the run's model can say about log p(x) on a split: exact, or bounds, or nothing and why."""
    if not 1 <= particles <= MOST_PARTICLES:
        raise UserError(f"--particles {particles} came, expected 1 to {MOST_PARTICLES:,}")
    if num is not None:
        check_num(num)
    opened = open_run(path, model, device, seed)
    images = opened.split(split, data_dir, num)
    estimates = estimates_of(opened.model, images, particles, quiet=quiet)
    config = opened.run.config
    result: dict[str, Any] = {
        "model": config.model,
        "data": config.data,
        "binarize": config.binarize,
        "split": split,
        "num_images": len(images),
        "estimates": {name: estimate.to_json() for name, estimate in estimates.items()},
        "bits_per_dim": tightest_bits(estimates, opened),
    }
    note = note_on(opened)
    return result | ({"note": note} if note else {})


def estimates_of(pair: Any, images: Tensor, particles: int, *, quiet: bool = True) -> dict[str, Estimate]:
    """The tightest numbers first: `log_prob` (exact), `iwae`, `elbo` (lower bounds)."""
    kind = kind_of(pair)
    if kind is Kind.NONE:
        return {}
    estimates: dict[str, Estimate] = {}
    if kind is Kind.TRACTABLE:
        estimates["log_prob"] = exact(pair.log_prob, images)
    terms = elbo_terms(pair.model, pair.guide, images)
    if not terms.latent:
        return estimates or {"log_prob": terms.estimate}
    estimates["elbo"] = terms.estimate
    estimates["iwae"] = iwae(pair.model, pair.guide, images, particles, progress=not quiet)
    return estimates


def tightest_bits(estimates: dict[str, Estimate], opened: OpenedRun) -> float | None:
    """Bits per dimension of the tightest number; None for real data, whose unit is arbitrary."""
    if not estimates or opened.levels is None:
        return None
    best = estimates.get("log_prob") or max(estimates.values(), key=lambda estimate: estimate.value)
    size = 1
    for side in opened.image_shape:
        size *= side
    return bits_per_dim(best.value, size)


def note_on(opened: OpenedRun) -> str | None:
    """What a reader of the numbers must know."""
    if kind_of(opened.model) is Kind.NONE:
        return opened.model.no_density
    likelihood = getattr(getattr(opened.model, "likelihood", None), "name", None)
    continuous = opened.run.config.model in ("gaussian", "ppca") or likelihood == "gaussian"
    if continuous and opened.levels is not None:
        return (
            "the log-density of uniformly dequantized grey levels; as a log-probability of the levels themselves "
            "it is a lower bound (Theis et al. 2016)"
        )
    if opened.levels is None:
        return "the log-density of real-valued data: it depends on their unit, bits per dimension would too"
    return None


def elbo_run(
    path: Path,
    *,
    split: str,
    num: int | None,
    index: int | None,
    particles: int,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """The terms of the ELBO, of one image or on average over `num`."""
    if not 1 <= particles <= MOST_PARTICLES:
        raise UserError(f"--particles {particles} came, expected 1 to {MOST_PARTICLES:,}")
    if num is not None:
        check_num(num)
    opened = open_run(path, model, device, seed)
    images = opened.split(split, data_dir, num)
    if index is not None:
        if not 0 <= index < len(images):
            raise UserError(f"--index {index} came, expected 0 to {len(images) - 1}")
        images = images[index : index + 1]
    if kind_of(opened.model) is Kind.NONE:
        raise UserError(f"there is no ELBO: {opened.model.no_density}")
    terms = elbo_terms(opened.model.model, opened.model.guide, images, particles)
    return {"model": opened.run.config.model, "data": opened.run.config.data, "split": split} | terms_json(terms)


def terms_json(terms: ElboTerms) -> dict[str, Any]:
    """The terms as numbers: means over images with their standard errors, in nats per image."""

    def number(per_image: Tensor) -> dict[str, float | None]:
        estimate = Estimate.of(per_image, "estimate").to_json()
        return {"value": estimate["value"], "stderr": estimate["stderr"]}

    return {
        "num_images": len(terms.elbo),
        "particles": terms.num_particles,
        "unit": "nats per image",
        "kind": terms.estimate.kind,
        "elbo": number(terms.elbo),
        "log_likelihood": {"total": number(terms.log_likelihood)}
        | {term.name: number(term.log_likelihood) for term in terms.observed},
        "kl": {"total": number(terms.kl)}
        | {
            term.name: number(term.kl)
            | {
                "method": term.method,
                "log_prior": number(term.log_prior),
                "log_guide": number(term.log_guide),
                "per_dim": None if term.kl_per_dim is None else term.kl_per_dim.mean(0).tolist(),
            }
            for term in terms.latent
        },
        "active_units": terms.active_units,
    }
