"""Classes from densities: Bayes' rule turns one density for each class into a classifier.

p(y | x) = p(x | y) p(y) / Σ_y' p(x | y') p(y')
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.inference.traces import Program, as_real, check_images, evaluating, trace_pair
from probgen.models.contracts import NO_DENSITY, Kind, kind_of

CHUNK = 256  # images scored at once


@torch.no_grad()
def class_log_joint(
    classes: Any, x: Shaped[Tensor, "b *shape"], log_prior: Float[Tensor, " y"] | None = None
) -> Float[Tensor, "b y"]:
    """log p(x, y) = log p(x | y) + log p(y) in nats, exact, for each image and every class.

    classes: a pair that takes labels, whose `model(x, y)` scores p(x, y), with its `num_classes`; or a sequence of
        densities p(x | y), one for each class, each with a `log_prob(x)` of shape b.
    log_prior: log p(y), for a sequence; a pair has its own.

    The log-sum-exp over classes is log p(x), the log-softmax log p(y | x), see `class_posterior`.

    Raises UserError for classes that are neither, for a pair without an exact density, and for a prior that is missing,
    of another length, or does not sum to one.
    """
    check_images(x)
    if not isinstance(classes, Sequence | nn.ModuleList):
        if log_prior is not None:
            raise UserError(f"log_prior came with {type(classes).__name__}, which has a p(y) of its own: leave it out")
        with evaluating(classes):
            return torch.cat([of_pair(classes, part) for part in as_real(x).split(CHUNK)])
    check_densities(classes)
    prior = checked_prior(log_prior, len(classes))
    with evaluating(*classes):
        parts = [torch.stack(list(scored(classes, part)), -1) for part in as_real(x).split(CHUNK)]
    likelihoods = torch.cat(parts)
    return likelihoods + prior.to(likelihoods)


def class_posterior(
    classes: Any, x: Shaped[Tensor, "b *shape"], log_prior: Float[Tensor, " y"] | None = None
) -> Float[Tensor, "b y"]:
    """log p(y | x) = log p(x, y) − log Σ_y' p(x, y') in nats, for each image and every class: Bayes' rule.

    Arguments and errors as of `class_log_joint`. It is exact as far as the densities are: of bounds on log p(x | y) the
    quotient is no bound on p(y | x). nan for an image that has no density under any class.
    """
    return class_log_joint(classes, x, log_prior).log_softmax(-1)


def scored(classes: Sequence[Any] | nn.ModuleList, x: Float[Tensor, "b *shape"]) -> Iterator[Float[Tensor, " b"]]:
    """log p(x | y) of each class in turn."""
    for label, density in enumerate(classes):
        log_prob = density.log_prob(x)
        if log_prob.shape != (len(x),):
            raise UserError(
                f"class {label}, a {type(density).__name__}, gave log-probabilities of shape {tuple(log_prob.shape)} "
                f"for {len(x)} images, expected one for each: to_event makes the numbers of an image one event"
            )
        yield log_prob


def of_pair(pair: Any, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b y"]:
    """log p(x, y), the sum over the sites of `model(x, y)`, one run for each class."""
    name = type(pair).__name__
    if kind_of(pair) is Kind.IMPLICIT:
        raise UserError(f"{name} has no density of its classes: {NO_DENSITY}")
    if not getattr(pair, "takes_labels", False):
        raise UserError(f"{name} takes no labels: train with condition=label, or give one density for each class")
    return torch.stack(list(joint_of_each(pair, x, name)), -1)


def joint_of_each(pair: Any, x: Tensor, name: str) -> Iterator[Float[Tensor, " b"]]:
    """log p(x, y) for y = 0, 1, … in turn."""
    for label in range(pair.num_classes):
        model, guide = (labelled(program, label) for program in (pair.model, pair.guide))
        sites = trace_pair(model, guide, x)
        if latent := [site.name for site in sites if site.log_q is not None]:
            raise UserError(
                f"site {latent[0]!r} of {name} is latent: of p(x | y) there is a bound only, and a quotient of bounds "
                "bounds nothing"
            )
        yield torch.stack([site.log_p[0] for site in sites]).sum(0)


def labelled(program: Callable[[Tensor, Tensor], Any], label: int) -> Program:
    """A program whose images all have one label."""
    return lambda x: program(x, torch.full((len(x),), label, device=x.device))


def check_densities(classes: Sequence[Any] | nn.ModuleList) -> None:
    """Two classes or more, each of which can be scored."""
    if len(classes) < 2:
        raise UserError(f"{len(classes)} densities came, expected two or more: one for each class")
    for label, density in enumerate(classes):
        if kind_of(density) is Kind.IMPLICIT or not callable(getattr(density, "log_prob", None)):
            raise UserError(f"class {label} is a {type(density).__name__}, expected a density with log_prob(x)")


def checked_prior(log_prior: Tensor | None, num_classes: int) -> Float[Tensor, " y"]:
    """log p(y) of so many classes."""
    if log_prior is None:
        raise UserError("densities came without log_prior, expected log p(y), e.g. of the classes' shares in the data")
    if log_prior.shape != (num_classes,):
        raise UserError(
            f"log_prior of shape {tuple(log_prior.shape)} came, expected ({num_classes},): one for each class"
        )
    total = float(log_prior.double().logsumexp(0).exp())
    if not abs(total - 1) < 1e-4:
        raise UserError(
            f"log_prior has probabilities of sum {total:.4g}, expected 1: give log p(y), natural logarithms"
        )
    return log_prior
