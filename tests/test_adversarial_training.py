"""What stops two players, what a fit records of them, and whether they learn."""

import itertools
import math

import pyro
import pytest
import torch
from laws import check_equal
from small_players import (
    LOSSES,
    convolutional,
    norms_at,
    points,
    same,
    small,
    state_of,
    trainer_of,
)
from torch.nn.functional import softplus

import probgen.inference.adversarial.trainer as module
from probgen.errors import UserError
from probgen.inference import TrainingError, fit
from probgen.inference.predict import sample
from probgen.models.gan import GAN

# --- what stops it


def nan_after(number):
    """A function that gives its argument, and nan from the call of that number on."""
    calls = itertools.count(1)
    return lambda value: value * math.nan if next(calls) >= number else value


@pytest.mark.parametrize(
    ("what", "player", "scale"),
    [
        ("loss", "discriminator", math.nan),
        ("loss", "generator", math.nan),
        ("loss", "generator", math.inf),
        ("gradient", "discriminator", math.inf),
        ("gradient", "generator", math.nan),
        ("gradient", "generator", math.inf),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_diverged_player_is_named_and_has_not_moved(what, player, scale, clip_norm):
    trainer = trainer_of(small(loss="non-saturating"), points(), clip_norm=clip_norm, ema=0.9)
    for _ in range(2):
        trainer.step()
    moving = getattr(trainer.pair, player)
    if what == "gradient":
        next(moving.parameters()).register_hook(lambda gradient: gradient * scale)
    else:
        real = getattr(trainer.loss, player)
        broken = type(trainer.loss)()
        object.__setattr__(broken, player, lambda *logits: real(*logits) * scale)
        trainer.loss = broken
    before, average = state_of(moving), [a.clone() for a in trainer.average]
    with pytest.raises(TrainingError, match=rf"^step 3: the {player}'s {what} is not a finite number.*\(0.05\)"):
        trainer.step()
    assert same(before, state_of(moving))
    assert all(torch.equal(*both) for both in zip(average, trainer.average, strict=True))
    assert trainer.steps_done == 2


def spoilt(player, value):
    """A trainer one of whose players has weights of that value, after a step."""
    trainer = trainer_of(small(loss="hinge", discriminator_lr=3.0), points())
    trainer.step()
    with torch.no_grad():
        for parameter in trainer.pair.get_submodule(player).parameters():
            parameter.fill_(value)
    return trainer


@pytest.mark.parametrize(
    ("broken", "value", "turn", "says"),
    [
        ("discriminator", 1e308, "generator", r"discriminator's logits are not .* lr × discriminator_lr \(0.15\)"),
        ("discriminator", math.nan, "generator", r"discriminator's weights are not .* discriminator_lr \(0.15\)"),
        ("discriminator.last", 1e200, "generator", r"discriminator's gradient in the images is not .*\(0.15\)"),
        ("generator", math.nan, "discriminator", r"generator's images are not .*the learning rate \(0.05\)"),
        ("generator", math.nan, "generator", r"generator's images are not .*the learning rate \(0.05\)"),
    ],
)
def test_the_player_at_fault_is_named_in_the_others_step(broken, value, turn, says):
    trainer = spoilt(broken, value)
    with pytest.raises(TrainingError, match=f"^step 2: the {says}"):
        getattr(trainer, f"{turn}_step")(*trainer.batch(1))


@pytest.mark.parametrize(
    ("options", "clip_norm", "end"),
    [
        ({}, None, ", or set a regularizer or clip_norm"),
        ({"regularizer": "r1", "gamma": 0.1}, None, ", or set clip_norm"),
        ({}, 1.0, ", or set a regularizer"),
        ({"regularizer": "r1", "gamma": 0.1}, 1.0, ""),
    ],
)
def test_what_is_set_already_is_not_suggested(options, clip_norm, end):
    trainer = trainer_of(small(loss="hinge", **options), points() * math.nan, clip_norm=clip_norm)
    with pytest.raises(TrainingError) as caught:
        trainer.step()
    assert str(caught.value).endswith("lower the learning rate (0.05)" + end)


def test_images_that_are_no_numbers_are_the_discriminators_to_meet():
    x = points()
    x[5] = math.nan
    trainer = trainer_of(small(loss="hinge"), x)
    fatal = next(step for step in range(3) if 5 in trainer.order.rows(step))
    for _ in range(fatal):
        trainer.step()
    with pytest.raises(TrainingError, match=f"step {fatal + 1}: the discriminator's loss"):
        trainer.step()


@pytest.mark.parametrize(
    ("options", "config", "says"),
    [
        ({"packing": 3}, {}, "batches of 4 images came with packing=3"),
        ({"discriminator_norm": "batch"}, {"batch_size": 1}, "batches of one image"),
        ({"discriminator_norm": "batch", "packing": 2}, {"batch_size": 2}, "batches of one image"),
        ({}, {"patience": 3}, "patience came"),
        ({"label_smoothing": 0.1}, {}, "label_smoothing=0.1 came with the loss 'hinge'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_a_step(options, config, says):
    with pytest.raises(UserError, match=says):
        trainer_of(small(loss="hinge", **options), points(), **config)


def test_a_sampler_with_classes_wants_labels_before_a_step():
    with pytest.raises(UserError, match="takes labels, but the training images came without"):
        trainer_of(small(num_classes=3, condition="label"), points())


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("bad", [-1, 3])
def test_labels_that_are_no_classes_are_refused_whether_or_not_distributions_validate(bad, validates):
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, bad])
    with pyro.validation_enabled(validates):
        pair = small(num_classes=3, condition="label")
        for options in ({"labels": labels}, {"labels": labels.clamp(0, 2), "valid": points(), "valid_labels": labels}):
            with pytest.raises(UserError, match="a whole number, 0 to 2, for each image"):
                fit(pair, points(), **options, steps=2, batch_size=4, progress=False)
        with pytest.raises(UserError, match="a whole number, 0 to 2, for each image"):
            trainer_of(pair, points(), labels)
        with pytest.raises(UserError, match="a whole number, 0 to 2, for each image"):
            trainer_of(pair, points(), labels.clamp(0, 2)).validation_terms(points(), labels)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_player_without_parameters_is_refused(player):
    pair = small()
    getattr(pair, player).requires_grad_(False)
    with pytest.raises(UserError, match=f"the {player} of GAN has no parameters to train"):
        trainer_of(pair, points())


# --- fit, and its history


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_trains_both_and_its_history_tells_of_both(loss):
    pair, fresh = small(loss=loss), small(loss=loss)
    history = fit(pair, points(), valid=points(5), steps=6, batch_size=4, progress=False)
    for name, weight in state_of(pair).items():
        assert name == "discriminator.last.bias" or not torch.equal(weight, fresh.state_dict()[name]), name
    assert not pair.training
    probability = loss in ("minimax", "non-saturating")
    scores = {"value", *(("d_real", "d_fake") if probability else ("critic_real", "critic_fake"))}
    both = {f"{player}_{what}" for player in ("discriminator", "generator") for what in ("loss", "gradient")}
    known = {"step", "epoch", "split"}
    assert {record["split"] for record in history} == {"train", "valid"}
    for record in history:
        assert set(record) == known | scores | (both | {"lr"} if record["split"] == "train" else set())
        assert all(math.isfinite(value) for value in record.values() if not isinstance(value, str))
        assert not probability or (0 < record["d_real"] < 1 and record["value"] < 0)


def test_a_record_is_what_the_step_saw():
    """The scores are of the discriminator before its update; the penalty is told beside the loss."""
    pair = small(loss="non-saturating", regularizer="r1", gamma=0.5)
    trainer = trainer_of(pair, points())
    (x,) = trainer.batch(0)
    torch.manual_seed(3)
    with torch.no_grad():
        fake = pair.model(len(x))
        on_real, on_fake = pair.judge(x), pair.judge(fake)
    expected = 0.25 * norms_at(pair.discriminator, x, 1).mean().item()
    torch.manual_seed(3)
    record = trainer.step()
    check_equal(record["d_real"], on_real.sigmoid().mean())
    check_equal(record["d_fake"], on_fake.sigmoid().mean())
    check_equal(record["value"], -softplus(-on_real).mean() - softplus(on_fake).mean())
    check_equal(record["discriminator_loss"], -record["value"])
    check_equal(record["penalty"], expected)


def test_validation_is_in_eval_mode_and_changes_nothing():
    pair = convolutional()
    x = torch.randint(0, 5, (9, 1, 28, 28), dtype=torch.uint8)
    trainer = trainer_of(pair, x)
    pair.train()
    before = state_of(pair)
    torch.manual_seed(3)
    found = trainer.validation_terms(x)
    assert same(before, state_of(pair))
    assert all(layer.training for layer in pair.modules())
    pair.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        check_equal(found["critic_real"], pair.judge(pair.seen(x.double())).mean())
        check_equal(found["critic_fake"], pair.judge(pair.seen(pair.model(9))).mean())
        pair.train()
        assert abs(found["critic_real"] - pair.judge(pair.seen(x.double())).mean()) > 1e-6  # the twin: training mode


def test_validation_takes_whole_packs_in_parts_and_only_images_with_labels(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)
    trainer = trainer_of(small(loss="hinge", packing=2), points())
    found = trainer.validation_terms(points(11))
    check_equal(found["critic_real"], trainer.pair.judge(points(11)[:10]).mean().detach())
    assert trainer.validation_terms(points(1)) == {}
    labels = torch.arange(12) % 3
    trainer = trainer_of(small(num_classes=3, condition="label"), points(), labels)
    assert trainer.validation_terms(points(4)) == {}
    given = torch.tensor([0, 2, 1, 0])
    found = trainer.validation_terms(points(4), given)
    check_equal(found["critic_real"], trainer.pair.judge(points(4), given).mean().detach())


def test_fit_validates_a_sampler_with_classes_on_labelled_images():
    def run(**valid):
        pair = small(loss="hinge", num_classes=3, condition="label")
        labels = torch.arange(12) % 3
        return pair, fit(pair, points(), labels=labels, steps=3, batch_size=4, progress=False, **valid)

    given = torch.tensor([0, 2, 1, 0])
    pair, history = run(valid=points(4), valid_labels=given)
    assert history[-1]["split"] == "valid"
    check_equal(history[-1]["critic_real"], pair.judge(points(4), given).mean().detach())
    for valid, says in (
        ({"valid": points(4)}, "GAN takes labels, but the valid images came without: give valid_labels"),
        ({"valid": points(4), "valid_labels": given[:3]}, r"labels of shape \(3,\) came, expected \(4,\)"),
        ({"valid": points(4), "valid_labels": given + 1}, "labels from 1 to 3 came, expected a whole number, 0 to 2"),
        ({"valid_labels": given}, "valid_labels came without valid images"),
    ):
        with pytest.raises(UserError, match=says):
            run(**valid)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.arange(12), "labels from 0 to 11 came, expected a whole number, 0 to 2, for each image"),
        (torch.arange(12) % 3 - 1, "labels from -1 to 1 came, expected a whole number, 0 to 2"),
        (torch.zeros(12), "labels of dtype torch.float32 came, expected a tensor of torch.int64"),
        (torch.zeros(11, dtype=torch.int64), r"labels of shape \(11,\) came, expected \(12,\)"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_fit_refuses_labels_that_are_none(labels, says):
    with pytest.raises(UserError, match=says) as caught:
        fit(small(num_classes=3, condition="label"), points(), labels=labels, steps=1, progress=False)
    assert len(str(caught.value).splitlines()) == 1


def test_validation_takes_nothing_from_the_noise_of_training():
    runs = []
    for valid in (None, points(5)):
        pair = small(loss="relativistic", instance_noise=0.3)
        fit(pair, points(), steps=6, batch_size=4, valid=valid, progress=False)
        runs.append(state_of(pair))
    assert same(*runs)
    other = small(loss="relativistic", instance_noise=0.3)
    fit(other, points(), steps=6, batch_size=4, seed=1, progress=False)
    assert not same(runs[0], state_of(other), 1e-6)


def test_a_state_is_taken_up_bit_for_bit_or_refused():
    def trainer(**options):
        return trainer_of(small(loss="relativistic", instance_noise=0.3, **options), points(), ema=0.9)

    torch.manual_seed(5)
    whole, first = trainer(), trainer()
    torch.manual_seed(5)
    for _ in range(5):
        whole.step()
    torch.manual_seed(5)
    for _ in range(2):
        first.step()
    state = first.state_dict()
    torch.manual_seed(99)
    second = trainer()
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    assert same(whole.weights(), second.weights())
    assert all(torch.equal(*both) for both in zip(whole.average, second.average, strict=True))
    for broken in (
        state | {"steps_done": 21},
        state | {"average": state["average"][1:]},
        state
        | {
            "optimizers": dict(zip(("discriminator", "generator"), reversed(state["optimizers"].values()), strict=True))
        },
    ):
        with pytest.raises(ValueError, match=r"steps_done|average|optimizer"):
            trainer().load_state_dict(broken)


# --- does it learn

MEAN, COVARIANCE = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.8]])


def check_near(pair):
    """Mean and covariance of draws are near those of the data."""
    drawn = sample(pair, 4000, (2,))
    assert (drawn.mean(0) - MEAN).abs().max() < 0.3, f"a mean of {drawn.mean(0)}"
    assert (drawn.T.cov() - COVARIANCE).abs().max() < 0.4, f"a covariance of {drawn.T.cov()}"


def test_a_gaussian_is_learned():
    data = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).sample((2000,))
    torch.manual_seed(0)
    pair = GAN((2,), hidden=(32, 32))
    with pytest.raises(AssertionError, match="a mean of"):
        check_near(pair)
    fit(pair, data, steps=400, batch_size=64, lr=3e-3, ema=0.99, progress=False)
    check_near(pair)
