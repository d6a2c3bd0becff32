"""A first run of a pair on a few images, whose failures are told as what they are: the pair's author's to mend."""

import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference.adversarial.checks import check_sampler
from probgen.inference.traces import Site, as_real, evaluating, innermost, marked, sample_sites, trace_pair
from probgen.models.contracts import Kind, Objective, kind_of

NUM_IMAGES = 3
NOT_THE_USERS = (sysconfig.get_paths()["stdlib"], "site-packages", "probgen/inference")


def check_pair(pair: Any, x: Shaped[Tensor, "b *shape"]) -> None:
    """Run guide and model on up to three images with Pyro's validation on; the random state is left as it was.

    Raises UserError in one line: the site, the shape that came and the one expected, or the line of the
    pair's file that failed. Warns of sites whose gradient will be noisy. Of an implicit sampler, whose program has
    nothing to score, see `check_sampler`.
    """
    if kind_of(pair) is Kind.IMPLICIT:
        return check_implicit(pair, x)
    batch = x[:NUM_IMAGES]
    objective, lines = getattr(pair, "objective", None) or Objective(), SiteLines()
    try:
        with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(True), lines:
            elbo = objective.bound == "elbo"
            options = {"training": True, "enumerate_guide": elbo}
            sites = trace_pair(pair.model, pair.guide, batch, objective.num_particles, **options)
    except UserError as error:
        raise UserError(f"{type(pair).__name__}: {error}") from error
    except Exception as error:
        raise UserError(explain(pair, batch, error, lines.of)) from error
    for site in sites:
        if not (site.observed or site.enumerated or site.q.has_rsample):
            warnings.warn(score_function_warning(site), stacklevel=1)


def check_implicit(pair: Any, x: Shaped[Tensor, "b *shape"]) -> None:
    """Likewise for an implicit sampler."""
    try:
        check_sampler(pair, x)
    except UserError:
        raise
    except Exception as error:
        sizes = (len(x), 2 * pair.objective.packing)
        raise UserError(explain(pair, x, error, {}, sizes)) from error


def score_function_warning(site: Site) -> str:
    """Which gradient a site without reparameterized draws will get, and what would be better."""
    listed = ", or sum over its values (infer={'enumerate': 'parallel'})" if site.q.has_enumerate_support else ""
    return (
        f"site {site.name!r}: {type(innermost(site.q)).__name__} in the guide has no reparameterized draws, so that "
        "its parameters get the score-function gradient, unbiased but noisy: take a smaller learning rate and more "
        f"particles{listed}"
    )


class SiteLines(Messenger):
    """Remembers at which line each site was sampled: it is scored only after its program has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}

    def _pyro_sample(self, message: Any) -> None:
        stack = reversed(list(traceback.walk_stack(sys._getframe())))
        self.of[message["name"]] = last_own_line(stack)


def explain(
    pair: Any, batch: Tensor, error: Exception, lines: dict[str, str], sizes: tuple[int, ...] | None = None
) -> str:
    """One line for an exception that a pair's program raised, or that scoring one of its sites did.

    sizes: the numbers of images that the program was run for; without them that of the batch.
    """
    name = type(pair).__name__
    message = offending_site(error, sizes or (len(batch),))
    if message is None:
        message = reason(error)
    where = last_own_line(traceback.walk_tb(error.__traceback__)) or lines.get(scored_site(error), "")
    return f"{name} fails on a batch of shape {tuple(batch.shape)}{where}: {message}"


def reason(error: Exception) -> str:
    """The exception's first line; for Pyro's «Error while computing log_prob at site 'x':» also what follows."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    if site := scored_site(error):
        return f"site {site!r}: {lines[1] if len(lines) > 1 else type(error.__cause__).__name__}"
    return f"{type(error).__name__}: {lines[0]}"


def scored_site(error: Exception) -> str:
    """The site that Pyro's «Error while computing log_prob at site 'x':» is about, or nothing."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first.rsplit("at site", 1)[-1].strip(" :'") if first.startswith("Error while computing") else ""


def offending_site(error: Exception, sizes: tuple[int, ...]) -> str | None:
    """The `pyro.sample` statement that was being run, if one was: its name and the shapes at odds.

    sizes: numbers of images that a batch shape may have.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        message = frame.f_locals.get("msg")
        if not isinstance(message, dict) or message.get("type") != "sample":
            continue
        if not hasattr(message["fn"], "batch_shape"):  # a plate's own draw of rows, or a function
            continue
        batch_shape, event_shape = tuple(message["fn"].batch_shape), tuple(message["fn"].event_shape)
        if batch_shape not in [(size,) for size in sizes]:
            return (
                f"site {message['name']!r} has batch shape {batch_shape} and event shape {event_shape}, expected "
                f"batch shape {(sizes[0],)}, one entry per image: move the others into the event with .to_event"
            )
    return None


def last_own_line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """`, file.py line 12` of the last frame that belongs to the pair; nothing where all is a library's."""
    own = [
        f", {frame.f_code.co_filename.rsplit('/', 1)[-1]} line {line}"
        for frame, line in frames
        if not any(place in frame.f_code.co_filename for place in NOT_THE_USERS)
    ]
    return own[-1] if own else ""


def sites_of(pair: Any, x: Shaped[Tensor, "b *shape"]) -> dict[str, str]:
    """The sites of the pair's model in program order.

    Each is `latent`, `summed out`, `observed`, `deterministic` or `implicit`.
    """
    batch = as_real(x[:NUM_IMAGES])
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False), evaluating(pair):
        if kind_of(pair) is Kind.IMPLICIT:
            trace = poutine.trace(pair.model).get_trace(len(batch))
            return {name: "implicit" if is_implicit(node) else "latent" for name, node in sample_sites(trace).items()}
        guide_trace = poutine.trace(pair.guide).get_trace(batch)
        trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(batch)
    random = sample_sites(trace)
    described = {}
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and node["infer"].get("_deterministic"):
            described[name] = "deterministic"
        elif name in random:
            latent = "summed out" if marked({name: node}) and name not in guide_trace.nodes else "latent"
            described[name] = "observed" if node["is_observed"] else latent
    return described


def is_implicit(node: dict[str, Any]) -> bool:
    """Whether a site was made by a sampler that has no density."""
    return isinstance(node["fn"], Implicit)
