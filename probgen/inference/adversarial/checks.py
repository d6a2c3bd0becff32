"""A first run of an implicit sampler, whose failures are told as what they are: its author's to mend."""

from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from probgen.errors import UserError
from probgen.inference.adversarial.losses import LOSSES
from probgen.inference.adversarial.penalties import REGULARIZERS
from probgen.inference.traces import as_real, evaluating
from probgen.inference.trainer import TrainConfig
from probgen.models.contracts import AdversarialObjective, ImplicitSampler

PLAYERS = ("generator", "discriminator")
PROGRAMS = ("model", "seen", "judge")


def check_sampler(pair: Any, x: Shaped[Tensor, "b *shape"]) -> None:
    """Draw two packs of images and judge them; random state and weights are left as they were.

    Raises UserError in one line for a part that is missing, parameters that are not one player's, images of another
    shape than the data's, logits that are not one for each pack, or a player who would learn nothing.
    """
    check_parts(pair)
    num, event = 2 * pair.objective.packing, tuple(x.shape[1:])
    with torch.random.fork_rng(), evaluating(pair), pyro.validation_enabled(True):
        labels = [torch.zeros(num, dtype=torch.int64, device=x.device)] if getattr(pair, "takes_labels", False) else []
        for asked in (len(x), num):
            check_made(pair, pair.model(asked), (asked, *event))
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
    check_owners(pair)
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


def check_owners(pair: Any) -> None:
    """Each parameter that can learn is one player's."""
    name = type(pair).__name__
    generators, discriminators = (
        {id(p): f"{player}.{own}" for own, p in getattr(pair, player).named_parameters() if p.requires_grad}
        for player in PLAYERS
    )
    for shared in generators.keys() & discriminators.keys():
        raise UserError(
            f"{name}: the parameter {generators[shared]!r} is {discriminators[shared]!r} too, and the players lower "
            "different losses: give each its own"
        )
    named = pair.named_parameters() if isinstance(pair, nn.Module) else ()
    for own, parameter in named:
        if parameter.requires_grad and id(parameter) not in generators | discriminators:
            raise UserError(
                f"{name}: the parameter {own!r} is neither player's and would never be trained: give it to the "
                "generator or the discriminator"
            )


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
            continue  # told by `trainable`
        found: tuple[Tensor | None, ...] = ()
        if logits.requires_grad:
            found = torch.autograd.grad(logits.sum(), parameters, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in found):
            raise UserError(
                f"{type(pair).__name__}: the logits of generated images have no gradient in the {player}'s "
                "parameters, so that it would learn nothing: look for .detach(), .data or torch.no_grad()"
            )


# --- before the first step


def trainable(pair: Any, player: str) -> list[Tensor]:
    """A player's parameters. Raises UserError for a player without."""
    found = [p for p in getattr(pair, player).parameters() if p.requires_grad]
    if not found:
        raise UserError(f"the {player} of {type(pair).__name__} has no parameters to train")
    return found


def check_play(pair: ImplicitSampler, batch_size: int, config: TrainConfig) -> None:
    """Settings that would fail at the first step, or mean nothing."""
    packing = pair.objective.packing
    if batch_size % packing:
        raise UserError(f"batches of {batch_size} images came with packing={packing}: give a multiple of {packing}")
    players = (pair.generator, pair.discriminator)
    if batch_size // packing < 2 and any(isinstance(m, _BatchNorm) for p in players for m in p.modules()):
        raise UserError("batch norm came with batches of one image, which have no spread: give a larger batch_size")
    if config.patience is not None:
        raise UserError(
            "patience came with an implicit model: neither player's loss says how good the samples are, so there is "
            "nothing to wait for; leave it out"
        )


def check_shares(pair: ImplicitSampler, batch_size: int, world: int) -> None:
    """Raise UserError where a batch cannot be shared among so many processes."""
    packing, players = pair.objective.packing, (pair.generator, pair.discriminator)
    if batch_size < world:
        raise UserError(f"a batch of {batch_size} came with {world} processes, expected an image or more for each")
    if packing > 1 and batch_size % (packing * world):
        raise UserError(
            f"batches of {batch_size} images came with packing={packing} and {world} processes: give a multiple of "
            f"{packing * world}"
        )
    if batch_size // world // packing < 2 and any(isinstance(m, _BatchNorm) for p in players for m in p.modules()):
        raise UserError(
            f"batches of {batch_size} images came with {world} processes and batch norm, which needs two logits or "
            "more in each: give a larger batch_size"
        )


# --- a step that met no number


def culprit(pair: ImplicitSampler, player: str, sign: str, fake: Tensor, on_fake: Tensor) -> tuple[str, str]:
    """Who has diverged, and its sign, where a player's loss or gradient is no number; most often that player.

    Not where its opponent handed it none: generated images `fake` for the discriminator; for the generator, logits
    `on_fake` of images that are numbers, or the gradient in them, `fake.grad`, of a loss that is one.
    """
    if not all_finite(*pair.discriminator.parameters()):
        return "discriminator", "weights are not finite numbers"
    if not all_finite(fake):
        return "generator", "images are not finite numbers"
    if player == "generator" and not all_finite(on_fake):
        return "discriminator", "logits are not finite numbers"
    slope = fake.grad if player == "generator" and sign.startswith("gradient") else None
    if slope is not None and not all_finite(torch.linalg.vector_norm(slope)):
        return "discriminator", "gradient in the images is not a finite number"
    return player, sign


def diverged(pair: ImplicitSampler, config: TrainConfig, player: str, sign: str) -> str:
    """That a player has diverged, and what to do about it: its own learning rate, and what is not set yet."""
    play = pair.objective
    rate = f"the learning rate ({config.lr:g})"
    if player == "discriminator" and play.discriminator_lr != 1:
        rate = f"its learning rate, lr × discriminator_lr ({config.lr * play.discriminator_lr:g})"
    unset = {"a regularizer": play.regularizer == "none", "clip_norm": config.clip_norm is None}
    others = " or ".join(other for other, is_open in unset.items() if is_open)
    return f"the {player}'s {sign}, it has diverged; lower {rate}" + (f", or set {others}" if others else "")


def all_finite(*tensors: Tensor) -> bool:
    """Neither nan nor infinite."""
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in tensors)
