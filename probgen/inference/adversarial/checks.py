"""A first run of an implicit sampler, whose failures are told as what they are: its author's to mend."""

from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.inference.adversarial.losses import LOSSES
from probgen.inference.adversarial.penalties import REGULARIZERS
from probgen.inference.traces import as_real, evaluating
from probgen.models.contracts import AdversarialObjective

PLAYERS = ("generator", "discriminator")
PROGRAMS = ("model", "seen", "judge")


def check_sampler(pair: Any, x: Shaped[Tensor, "b *shape"]) -> None:
    """Draw two packs of images and judge them; random state and weights are left as they were.

    Raises UserError in one line for a part that is missing, images of another shape than the data's, logits that
    are not one for each pack, or a player who would learn nothing.
    """
    check_parts(pair)
    num, event = 2 * pair.objective.packing, tuple(x.shape[1:])
    with torch.random.fork_rng(), evaluating(pair), pyro.validation_enabled(True):
        labels = [torch.zeros(num, dtype=torch.int64, device=x.device)] if getattr(pair, "takes_labels", False) else []
        check_made(pair, pair.model(x), (len(x), *event))  # images that stand for their number
        check_made(pair, pair.model(num), (num, *event))
        made = pair.model(num, *labels)
        check_made(pair, made, (num, *event))
        real = as_real(x[:1]).to(made).expand(num, *event)
        for part in (real, made):
            logits = pair.judge(pair.seen(part), *labels)
            check_logits(pair, logits, num)
    check_learning(pair, logits)


def check_parts(pair: Any) -> None:
    """The two players and the three methods are there."""
    name = type(pair).__name__
    for part in PLAYERS:
        if not isinstance(getattr(pair, part, None), nn.Module):
            raise UserError(f"{name} is implicit, but its {part!r} is no torch.nn.Module: an implicit model has both")
    for program in PROGRAMS:
        if not callable(getattr(pair, program, None)):
            raise UserError(
                f"{name} is implicit, but has no method {program!r}: it needs model(num), seen(x), judge(x)"
            )
    if not isinstance(getattr(pair, "objective", None), AdversarialObjective):
        raise UserError(f"{name} is implicit, but its 'objective' is no probgen.models.contracts.AdversarialObjective")
    check_objective(name, pair.objective)
    if getattr(pair, "takes_labels", False) and not isinstance(getattr(pair, "num_classes", None), int):
        raise UserError(f"{name} takes labels, but has no 'num_classes': set how many there are, 0 … num_classes - 1")


def check_objective(name: str, play: AdversarialObjective) -> None:
    """Names that are known and numbers that can be: whoever writes the objective by hand is not held to its types."""
    if play.loss not in LOSSES:
        raise UserError(f"{name}: loss={play.loss!r} came, expected one of {', '.join(LOSSES)}")
    if play.regularizer not in REGULARIZERS:
        raise UserError(f"{name}: regularizer={play.regularizer!r} came, expected one of {', '.join(REGULARIZERS)}")
    for number in ("discriminator_steps", "packing"):
        if (came := getattr(play, number)) < 1:
            raise UserError(f"{name}: {number}={came} came, expected 1 or more")
    for share in ("beta1", "beta2"):
        if not 0 <= (came := getattr(play, share)) < 1:
            raise UserError(f"{name}: {share}={came:g} came, expected 0 or more and less than 1")


def check_made(pair: Any, made: Any, expected: tuple[int, ...]) -> None:
    """As many images as asked for, of the data's shape."""
    name = type(pair).__name__
    if not isinstance(made, Tensor):
        raise UserError(f"{name}: model(num) gives {type(made).__name__}, expected the images: return x")
    if tuple(made.shape[1:]) != expected[1:]:
        came = tuple(made.shape[1:])
        raise UserError(f"{name}: the generator makes images of shape {came}, the data are of shape {expected[1:]}")
    if len(made) != expected[0]:
        raise UserError(f"{name}: model(num) gives {len(made)} images, expected {expected[0]}, as many as asked for")


def check_logits(pair: Any, logits: Any, num: int) -> None:
    """One logit for each of the two packs."""
    came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if came != (2,):
        packing = pair.objective.packing
        each = "image" if packing == 1 else f"pack of {packing} images"
        raise UserError(
            f"{type(pair).__name__}: the discriminator gives {came} for {num} images, expected (2,), one logit for "
            f"each {each}"
        )


def check_learning(pair: Any, logits: Shaped[Tensor, " p"]) -> None:
    """The logits of generated images depend on both players' parameters."""
    for player in PLAYERS:
        parameters = [p for p in getattr(pair, player).parameters() if p.requires_grad]
        if not parameters:
            continue  # told by the trainer
        found: tuple[Tensor | None, ...] = ()
        if logits.requires_grad:
            found = torch.autograd.grad(logits.sum(), parameters, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in found):
            raise UserError(
                f"{type(pair).__name__}: the logits of generated images have no gradient in the {player}'s "
                "parameters, so that it would learn nothing: look for .detach(), .data or torch.no_grad()"
            )
