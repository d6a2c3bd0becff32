"""`probgen evaluate` and `probgen elbo`: numbers about log p(x), each with what it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from probgen.commands.common import OpenedRun, check_num, open_run
from probgen.commands.quality import (
    as_json,
    check_implicit,
    check_samples,
    judge,
    need_bound,
    noisy_likelihood,
    notes_on_sampler,
)
from probgen.commands.texts import text_facts
from probgen.errors import UserError
from probgen.inference.annealing import ais
from probgen.inference.bidirectional import bdmc
from probgen.inference.compiled.evaluation import Compile
from probgen.inference.elbo import elbo_terms
from probgen.inference.estimates import Estimate, bits_per_dim
from probgen.inference.evidence import exact, iwae
from probgen.inference.gaps import inference_gaps
from probgen.models.contracts import NO_DENSITY, Kind, kind_of
from probgen.tables import NAMES

PARTICLES, MOST_PARTICLES = 100, 1_000_000  # by default, and at most
SIGMA = 0.1  # of images in [0, 1]
ANNEALED_IMAGES = 100  # by default: annealing costs some thousand passes for each image and chain


@dataclass(frozen=True)
class Annealing:
    """How long to anneal: chains for each image, distributions on the path, and how these are spread."""

    chains: int = 16
    distributions: int = 500
    schedule: str = "sigmoidal"

    def check(self) -> None:
        """Raise UserError for numbers that make no chain."""
        if not 1 <= self.chains <= 10_000:
            raise UserError(f"--chains {self.chains} came, expected 1 to 10,000")
        if not 2 <= self.distributions <= 1_000_000:
            raise UserError(f"--distributions {self.distributions} came, expected 2 to 1,000,000")
        if self.schedule not in ("sigmoidal", "adaptive"):
            raise UserError(f"--schedule {self.schedule} came, expected sigmoidal or adaptive")

    @property
    def settings(self) -> dict[str, Any]:
        """As `ais` and `bdmc` take them."""
        return {"num_chains": self.chains, "num_distributions": self.distributions, "schedule": self.schedule}


@dataclass(frozen=True)
class Budget:
    """What the numbers may cost: particles of `iwae`, annealing, whether to compile; and whether to be silent."""

    particles: int
    annealing: Annealing
    compile: Compile
    quiet: bool

    @property
    def protocol(self) -> dict[str, Any]:
        """As `ais` and `bdmc` take it."""
        return self.annealing.settings | {"compile": self.compile}


@dataclass(frozen=True)
class Findings:
    """Numbers on log p(x); after annealing also the gaps, and how many HMC proposals were accepted."""

    estimates: dict[str, Estimate]
    gaps: dict[str, Estimate] = field(default_factory=dict)
    acceptance: float | None = None


def evaluate_run(
    path: Path,
    *,
    split: str,
    particles: int | None = None,
    num: int | None,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
    method: str | None = None,
    annealing: Annealing = Annealing(),
    samples: int | None = None,
    sigma: float | None = None,
    strict: bool = False,
    compile: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """What the run's model can say about log p(x) on a split: exact, or bounds, or nothing and why.

    method: only `elbo`, or `iwae`; or `ais`: these, annealed importance sampling and the gaps of inference, on
    `num` images (100 without it); or `bdmc`: bounds from both sides, on `num` images simulated from the model.
    samples: how many to draw and judge; an implicit model, which has nothing else to tell, is judged without it too.
    particles: 100 unless they are given. sigma: of the noise under which `ais` gives an implicit model a likelihood,
    0.1 unless it is given. strict: refuse options that do nothing for an implicit model.
    compile: whether to compile importance weights and annealed chains: `on`, `off`, or `auto`, where it repays.
    """
    if compile not in get_args(Compile):
        raise UserError(f"--compile {compile} came, expected auto, on or off")
    check_request(method, annealing, particles, num, samples, sigma)
    opened = open_run(path, model, device, seed)
    kind = kind_of(opened.model)
    if kind is Kind.NONE and samples is not None:
        raise UserError(f"there are no samples to judge: {opened.model.no_density}")
    if kind is Kind.IMPLICIT and strict:
        check_implicit(opened, method, particles, num, sigma)
    if method in ("ais", "bdmc") and num is None:
        num = ANNEALED_IMAGES
    images = opened.split(split, data_dir, num)
    budget = Budget(particles or PARTICLES, annealing, cast(Compile, compile), quiet)
    if kind is Kind.IMPLICIT:
        result = without_density(opened, images, split, method, budget.protocol, sigma or SIGMA, quiet=quiet)
    else:
        result = about_density(opened, images, split, num, method, budget)
    if samples is not None or kind is Kind.IMPLICIT:
        judged = judge(opened, split=split, num=samples, data_dir=data_dir, seed=seed, quiet=quiet)
        result["samples"] = as_json(*judged)
    if kind is Kind.IMPLICIT:
        result["num_images"] = result["samples"]["num_real"]
    return result


def check_request(
    method: str | None,
    annealing: Annealing,
    particles: int | None,
    num: int | None,
    samples: int | None,
    sigma: float | None,
) -> None:
    """Raise UserError for what cannot be done, before anything is loaded."""
    if method not in (None, "elbo", "iwae", "ais", "bdmc"):
        raise UserError(f"--method {method} came, expected elbo, iwae, ais or bdmc")
    annealing.check()
    if particles is not None and not 1 <= particles <= MOST_PARTICLES:
        raise UserError(f"--particles {particles} came, expected 1 to {MOST_PARTICLES:,}")
    if num is not None:
        check_num(num)
    check_samples(samples)
    if sigma is not None and not 0 < sigma < float("inf"):
        raise UserError(f"--sigma {sigma:g} came, expected a number above 0")


def head_of(opened: OpenedRun, split: str, num_images: int) -> dict[str, Any]:
    """Which model, on which images."""
    config = opened.run.config
    names = {"model": config.model, "data": config.data, "binarize": config.binarize}
    return {**names, "split": split, "num_images": num_images}


def about_density(
    opened: OpenedRun,
    images: Tensor,
    split: str,
    num: int | None,
    method: str | None,
    budget: Budget,
) -> dict[str, Any]:
    """The numbers on log p(x) of a model that has it, or bounds on it; or the reason why it has none."""
    num_images = len(images)
    if method == "bdmc" and kind_of(opened.model) is not Kind.NONE:
        split, num_images = "simulated", num or ANNEALED_IMAGES
        found = simulated(opened, images[:1], num_images, budget)
    else:
        found = Findings(
            estimates_of(opened.model, images, budget.particles, method, compile=budget.compile, quiet=budget.quiet)
        )
        if method == "ais" and "elbo" in found.estimates:
            found = annealed(opened.model, images, found.estimates, budget)
    result = head_of(opened, split, num_images)
    result["estimates"] = {name: estimate.to_json() for name, estimate in found.estimates.items()}
    result["bits_per_dim"] = None if method == "bdmc" else tightest_bits(found.estimates, opened)
    if opened.run.config.vocabulary is not None:
        result |= text_facts(None if method == "bdmc" else tightest(found.estimates), images, opened)
        result["bits_per_dim"] = result.get("bits_per_symbol")
        for number in result["estimates"].values():
            number["unit"] = "nats per sentence"
    if found.acceptance is not None:
        result["gaps"] = {name: estimate.to_json() for name, estimate in found.gaps.items()}
        result["acceptance"] = found.acceptance
    if (warning := tail_warning(found.estimates)) is not None:
        result["warning"] = warning
    note = note_on(opened)
    return result | ({"note": note} if note else {})


def without_density(
    opened: OpenedRun,
    images: Tensor,
    split: str,
    method: str | None,
    protocol: dict[str, Any],
    sigma: float,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Of an implicit model no number on log p(x), and why; with `ais` that of the model with noise on top of it.

    protocol: what `ais` takes.
    """
    need_bound(opened, method)
    result = head_of(opened, split, len(images)) | {"estimates": {}, "bits_per_dim": None}
    if method == "ais":
        result["observation"] = noisy_likelihood(opened, images, protocol, sigma, quiet=quiet)
    return result | {"note": "; ".join([NO_DENSITY, *notes_on_sampler(opened)])}


def tail_warning(estimates: dict[str, Estimate]) -> str | None:
    """An honest word where importance weights are too uneven for the number of particles."""
    for name, estimate in estimates.items():
        if estimate.untrusted:
            return (
                f"{NAMES[name]}: for {estimate.untrusted:.0%} of the images the importance weights have a heavy tail "
                f"(Pareto k̂ over its threshold): the bound is loose there, more particles would raise it"
            )
    return None


def estimates_of(
    pair: Any,
    images: Tensor,
    particles: int,
    method: str | None = None,
    *,
    compile: Compile = "auto",
    quiet: bool = True,
) -> dict[str, Estimate]:
    """`log_prob` (exact) where there is one; `elbo`, and unless it is all that is asked for, `iwae` (lower bounds)."""
    kind = kind_of(pair)
    if kind is Kind.NONE:
        return {}
    estimates: dict[str, Estimate] = {}
    if kind is Kind.TRACTABLE:
        estimates["log_prob"] = exact(pair.log_prob, images, progress=not quiet)
        if not elbo_terms(pair.model, pair.guide, images[:1]).latent:
            return estimates
    terms = elbo_terms(pair.model, pair.guide, images, particles if method == "elbo" else 1)
    if not terms.latent:
        return {"log_prob": terms.estimate}
    estimates["elbo"] = terms.estimate
    if method != "elbo":
        estimates["iwae"] = iwae(pair.model, pair.guide, images, particles, compile=compile, progress=not quiet)
    return estimates


def annealed(pair: Any, images: Tensor, estimates: dict[str, Estimate], budget: Budget) -> Findings:
    """AIS, and from the best number on log p(x), where the ELBO is lost: to the guide's family, to amortization."""
    result = ais(pair.model, images, **budget.protocol, progress=not budget.quiet)
    estimates = estimates | {"ais": result.estimate}
    bounds = [estimates[name] for name in ("iwae", "ais")]
    evidence = estimates.get("log_prob") or max(bounds, key=lambda bound: bound.value)
    gaps = inference_gaps(pair.model, pair.guide, images, evidence, progress=not budget.quiet)
    estimates = estimates | {"elbo": gaps.elbo}  # of many draws, so that the rows add up
    lost = {"approximation": gaps.approximation, "amortization": gaps.amortization}
    return Findings(estimates, lost, float(result.acceptance.mean()))


def simulated(opened: OpenedRun, like: Tensor, num: int, budget: Budget) -> Findings:
    """Bounds from both sides on `num` images drawn from the model itself, and what lies between."""
    result = bdmc(opened.model.model, num, like, **budget.protocol, progress=not budget.quiet)
    bounds = {"bdmc_lower": result.lower, "bdmc_upper": result.upper}
    return Findings(bounds, {"bdmc_gap": result.gap}, float(result.acceptance.mean()))


def tightest_bits(estimates: dict[str, Estimate], opened: OpenedRun) -> float | None:
    """Bits per dimension of the tightest number; None for real data, whose unit is arbitrary."""
    best = tightest(estimates)
    if best is None or opened.levels is None:
        return None
    size = 1
    for side in opened.image_shape:
        size *= side
    return bits_per_dim(best, size)


def tightest(estimates: dict[str, Estimate]) -> float | None:
    """The exact log p(x), else the largest lower bound, if there is any."""
    if not estimates:
        return None
    lower = [e for e in estimates.values() if e.kind == "lower bound"]
    return (estimates.get("log_prob") or max(lower, key=lambda estimate: estimate.value)).value


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
