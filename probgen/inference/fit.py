"""`fit`: train any pair on a tensor of images, in one call."""

import math
from typing import Any, Literal

import pyro
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.inference.adversarial.trainer import AdversarialTrainer, batches_per_step
from probgen.inference.batches import BatchOrder, Images, TensorImages
from probgen.inference.checks import check_pair
from probgen.inference.loop import Loop, Record
from probgen.inference.precision import Precision
from probgen.inference.traces import as_real
from probgen.inference.trainer import TrainConfig, Trainer, initialize, set_mode
from probgen.layers.generators import check_labels
from probgen.models.contracts import AdversarialObjective, Kind, kind_of

AnyTrainer = Trainer | AdversarialTrainer


def fit(
    pair: Any,
    images: Shaped[Tensor, "n *shape"],
    *,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    schedule: Literal["constant", "linear", "cosine"] = "constant",
    clip_norm: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    compile: Literal["auto", "on", "off"] = "auto",
    precision: Precision = "32-true",
    valid: Shaped[Tensor, "m *shape"] | None = None,
    labels: Int64[Tensor, "*labels"] | None = None,
    valid_labels: Int64[Tensor, "*valid_labels"] | None = None,
    progress: bool = True,
) -> list[Record]:
    """Maximize the mean ELBO of `images` under the pair, by Adam on batches; an implicit sampler's players take turns.

    pair: any object with Pyro programs `model(x)` and `guide(x)`, or an `ImplicitSampler`, of which the discriminator
    lowers its loss and penalty, the generator its own loss, as the pair's `objective` says. images: n c h w, whole
    numbers 0 … levels − 1, or real vectors n d. steps or epochs: how long (default: 50 epochs). See `TrainConfig`
    for the rest. valid: images on which the bound, or the players' scores, are validated; needed for `patience`,
    which is for bounds only. labels, valid_labels: of the images and of `valid`, for a pair that takes them.

    Returns the history: records with `step`, `split` (`train`, `valid`), `loss`, `elbo`, `log_likelihood`,
    `kl`, in nats per image. Those of an implicit sampler have `value`, the value of the game, and the discriminator's
    means at real and generated images: `d_real` and `d_fake` where they are probabilities, else `critic_real` and
    `critic_fake`; of training also `discriminator_loss`, `generator_loss`, both gradients' norms
    (`discriminator_gradient`, `generator_gradient`) and the `penalty`, where there is one. The pair is left in
    `eval()` mode.

    Raises UserError for a pair, images or labels that do not fit, TrainingError at a loss that is nan or infinite.
    """
    if steps is not None and epochs is not None:
        raise UserError("both steps and epochs came, expected one of them")
    if patience is not None and valid is None:
        raise UserError("patience came without valid images to watch")
    if len(images) == 0:
        raise UserError("no images came, expected one or more")
    if steps is None:
        batches = BatchOrder(len(images), batch_size, seed).steps_for(50 if epochs is None else epochs)
        steps = steps_of(pair, batches)
    config = TrainConfig(
        steps, batch_size, lr, schedule, clip_norm=clip_norm, ema=ema, patience=patience, seed=seed, compile=compile,
        precision=precision,
    )  # fmt: skip
    pyro.set_rng_seed(seed)
    device = device_of(pair)
    check_pair(pair, as_real(images[:3]).to(device))
    check_valid_labels(pair, valid, valid_labels)
    shown = TensorImages(images, labels)
    initialize(pair, shown)
    trainer = trainer_for(pair, shown, config, device)
    on_device = None if valid is None else valid.to(device)
    loop = Loop(trainer, valid=on_device, valid_labels=valid_labels, quiet=not progress)
    history = loop.run()
    trainer.load_weights(loop.final_weights())
    set_mode(pair, training=False)
    return history


def check_valid_labels(pair: Any, valid: Tensor | None, valid_labels: Tensor | None) -> None:
    """Labels of validation images: all of them classes of the sampler's. Training's are looked at by its trainer."""
    if valid_labels is not None and valid is None:
        raise UserError("valid_labels came without valid images")
    if valid is None or kind_of(pair) is not Kind.IMPLICIT or not getattr(pair, "takes_labels", False):
        return
    if valid_labels is None:
        raise UserError(f"{type(pair).__name__} takes labels, but the valid images came without: give valid_labels")
    check_labels(valid_labels, pair.num_classes, len(valid))


def steps_of(pair: Any, batches: int) -> int:
    """Steps in which a pair sees so many batches: one in each, but for two players who see several."""
    play = getattr(pair, "objective", None)
    return math.ceil(batches / batches_per_step(play)) if isinstance(play, AdversarialObjective) else batches


def trainer_for(pair: Any, images: Images, config: TrainConfig, device: torch.device) -> AnyTrainer:
    """Alternating steps for an implicit sampler, SVI for every other pair."""
    adversarial = kind_of(pair) is Kind.IMPLICIT
    if adversarial and config.precision != "32-true":
        raise UserError(f"precision {config.precision} came with two players, who train in 32-true: leave it out")
    return (AdversarialTrainer if adversarial else Trainer)(pair, images, config, device)


def device_of(pair: Any) -> torch.device:
    """Where a module's parameters are; the CPU for one without."""
    parameters = list(pair.parameters()) if isinstance(pair, nn.Module) else []
    return parameters[0].device if parameters else torch.device("cpu")
