"""What each player does and what it leaves alone: weights, buffers, batches, the average."""

from contextlib import nullcontext

import pytest
import torch
from laws import check_equal
from small_players import LOSSES, convolutional, points, same, small, state_of, trainer_of

import probgen.inference.adversarial.trainer as module
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.loop import Loop, Recorder
from probgen.inference.predict import sample
from probgen.models.gan import GAN

# --- each player for itself


def check_apart(trainer):
    """In neither player's step do the other's parameters move, nor get a gradient; its own do."""
    pair, batch = trainer.pair, trainer.batch(0)
    for mover, other, move in (
        (pair.discriminator, pair.generator, trainer.discriminator_step),
        (pair.generator, pair.discriminator, trainer.generator_step),
    ):
        for parameter in pair.parameters():
            parameter.grad = None
        before = [[p.detach().clone() for p in player.parameters()] for player in (mover, other)]
        move(*batch)
        assert all(torch.equal(*both) for both in zip(other.parameters(), before[1], strict=True)), "the other moved"
        assert all(p.grad is None or not p.grad.any() for p in other.parameters()), "the other has a gradient"
        assert not all(torch.equal(*both) for both in zip(mover.parameters(), before[0], strict=True))
        assert all(p.requires_grad for p in pair.parameters())


class Leaky(AdversarialTrainer):
    """The twin: whatever has a gradient is moved."""

    def update(self, name, loss, *judged):
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return torch.zeros(())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"discriminator_norm": "spectral"}], ids=str)
def test_neither_player_moves_in_the_others_step(loss, options):
    options = dict(options)
    ema = options.pop("ema", None)
    pair = small(loss=loss, **{"regularizer": "r1+r2", "gamma": 0.5} | options)
    check_apart(trainer_of(pair, points(), ema=ema))


def test_a_step_that_moves_both_is_rejected(monkeypatch):
    monkeypatch.setattr(module, "frozen", lambda _: nullcontext())
    with pytest.raises(AssertionError, match="the other"):
        check_apart(trainer_of(small(loss="hinge"), points(), kind=Leaky))


def normalized(norm, loss):
    """A small pair with buffers, of the discriminator and, with batch norm, of the generator too."""
    torch.manual_seed(0)
    options = {"hidden": (3, 4), "latent_dim": 2, "network": "dcgan", "regularizer": "none"}
    return GAN((1, 28, 28), 5, loss=loss, discriminator_norm=norm, **options).double().train()


def check_the_other_rests(pair):
    """In neither player's step does anything of the other's state move, buffers included; its own does."""
    trainer = trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28), generator=torch.Generator().manual_seed(1)))
    for mover, other, move in (
        (pair.discriminator, pair.generator, trainer.discriminator_step),
        (pair.generator, pair.discriminator, trainer.generator_step),
    ):
        own, before = state_of(mover), state_of(other)
        move(*trainer.batch(0))
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items()), "the other moved"
        buffers = [name for name, _ in mover.named_buffers()]
        assert buffers
        assert not any(torch.equal(own[name], mover.state_dict()[name]) for name in buffers if name.endswith("mean"))


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_no_buffer_moves_in_the_others_step(norm, loss, monkeypatch):
    check_the_other_rests(normalized(norm, loss))
    monkeypatch.setattr(module, "buffers_kept", lambda _: nullcontext())
    with pytest.raises(AssertionError, match="the other moved"):
        check_the_other_rests(normalized(norm, loss))


def check_statistics_of_real_images():
    """running ← 0.9 · running + 0.1 · the real batch's mean and variance, of what comes before the batch norm."""
    pair = small(loss="hinge", discriminator_norm="batch").train()
    trainer = trainer_of(pair, points())
    (x,) = trainer.batch(0)
    at = next(i for i, layer in enumerate(pair.discriminator.body) if isinstance(layer, torch.nn.BatchNorm1d))
    layer = pair.discriminator.body[at]
    with torch.no_grad():
        h = pair.discriminator.body[:at](x)
    trainer.discriminator_step(x)
    check_equal(layer.running_mean, 0.1 * h.mean(0), 1e-12)
    check_equal(layer.running_var, 0.9 + 0.1 * h.var(0), 1e-12)
    assert int(layer.num_batches_tracked) == 1


def test_the_discriminators_statistics_are_those_of_real_images(monkeypatch):
    check_statistics_of_real_images()
    monkeypatch.setattr(module, "buffers_kept", lambda _: nullcontext())
    with pytest.raises(AssertionError):
        check_statistics_of_real_images()


def test_buffers_are_kept_where_a_step_fails_and_where_they_are_put_anew():
    layer = torch.nn.BatchNorm1d(2)

    def fail():
        with module.buffers_kept(layer):
            layer(torch.randn(5, 2))
            layer.running_var = torch.full((2,), 7.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(state_of(layer), state_of(torch.nn.BatchNorm1d(2)))


class Counting(AdversarialTrainer):
    """Notes the images that the discriminator sees of each split of the data, and each optimizer's steps."""

    def __init__(self, *args):
        super().__init__(*args)
        self.updates, self.shown = [], []

    def update(self, name, loss, *judged):
        self.updates.append(name)
        return super().update(name, loss, *judged)

    def discriminator_step(self, x, *y):
        self.shown += x[:, 0].tolist()
        return super().discriminator_step(x, *y)

    def generator_step(self, x, *y):
        if self.loss.needs_real:
            self.shown += x[:, 0].tolist()
        return super().generator_step(x, *y)


class Repeating(Counting):
    """The twin: all updates of a step see the same images."""

    def batch(self, number):
        return super().batch(number // self.batches_per_step)


def check_next_images(trainer, num_images):
    """Each epoch of what was shown is all images once."""
    for _ in range(12):
        trainer.step()
    shown = torch.tensor(trainer.shown)
    for epoch in shown[: len(shown) // num_images * num_images].split(num_images):
        assert sorted(epoch.tolist()) == list(range(num_images)), "images come twice in an epoch"


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_discriminator_is_updated_so_many_times_on_the_next_images(loss, steps):
    x = torch.stack([torch.arange(10.0), torch.zeros(10)], 1).double()
    trainer = trainer_of(small((2,), loss=loss, discriminator_steps=steps), x, kind=Counting)
    check_next_images(trainer, 10)
    assert trainer.updates == (["discriminator"] * steps + ["generator"]) * 12
    assert len(trainer.shown) == 12 * 4 * trainer.batches_per_step
    assert trainer.batches_per_step == steps + (loss == "relativistic")
    for name, each in (("discriminator", steps), ("generator", 1)):
        assert {int(moment["step"]) for moment in trainer.optimizers[name].state.values()} == {12 * each}


def test_an_order_that_repeats_images_is_rejected():
    x = torch.stack([torch.arange(10.0), torch.zeros(10)], 1).double()
    with pytest.raises(AssertionError, match="come twice"):
        check_next_images(trainer_of(small((2,), loss="hinge", discriminator_steps=3), x, kind=Repeating), 10)


class Listening(AdversarialTrainer):
    """Keeps the logits of the last discriminator's step."""

    def scores(self, on_real, on_fake):
        self.heard = on_real.clone()
        return super().scores(on_real, on_fake)


class Mixing(Listening):
    """The twin: one pass for both."""

    def discriminator_step(self, x, *y):
        with torch.no_grad():
            both = torch.cat([self.pair.seen(x), self.pair.seen(self.pair.model(len(x)))])
        return self.scores(*self.pair.judge(both).detach().chunk(2))


def check_not_mixed(kind):
    """With batch norm, the logits at real images are the same whatever is generated."""
    heard = []
    for shift in (0.0, 5.0):
        trainer = trainer_of(small(loss="hinge", discriminator_norm="batch"), points(), kind=kind)
        trainer.pair.train()
        with torch.no_grad():
            trainer.pair.generator.body[-2].bias += shift
        trainer.discriminator_step(*trainer.batch(0))
        heard.append(trainer.heard)
    assert torch.equal(*heard), "what is generated changes how real images are judged"


def test_real_and_generated_images_share_no_statistics():
    check_not_mixed(Listening)


def test_a_pass_of_both_together_is_rejected():
    with pytest.raises(AssertionError, match="what is generated changes"):
        check_not_mixed(Mixing)


# --- the average of the generator's weights


def check_average(average_of, found):
    """The generator's numbers are the hand-computed average, the discriminator's are the last.

    average_of: what to compute the average of. found: the weights that `trainer` gives, after 4 steps.
    """
    pair = convolutional()
    trainer = trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28)), ema=0.5, lr=0.01)
    expected = {name: value.double() for name, value in state_of(pair).items()}
    for step in range(4):
        trainer.step()
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in state_of(pair).items():
            moving = average_of(name) and value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if moving else value.double()
    weights = found(trainer)
    assert same({name: value.double() for name, value in weights.items()}, expected, 1e-12), "not the average"
    return trainer, weights


def kept(trainer):
    return Loop(trainer, quiet=True).final_weights()


def test_what_is_kept_is_the_average_of_the_generator_and_its_statistics_alone():
    trainer, weights = check_average(lambda name: name.startswith("generator"), kept)
    assert sum("generator" in name and "running" in name for name in weights) == 4
    after = state_of(trainer.pair)
    assert not torch.equal(weights["generator.body.2.running_mean"], after["generator.body.2.running_mean"])
    other = convolutional()
    other.load_state_dict(weights)
    trainer.swap_average()  # as where a run draws its pictures
    drawn = []
    for pair in (trainer.pair, other):
        torch.manual_seed(3)
        drawn.append(sample(pair, 3, (1, 28, 28)))
    assert torch.equal(*drawn)
    trainer.swap_average()
    assert same(after, state_of(trainer.pair))


@pytest.mark.parametrize("wrong", ["no statistics", "both players", "the last"])
def test_other_averages_are_rejected(wrong):
    averaged = {
        "no statistics": lambda name: name.startswith("generator") and "running" not in name,
        "both players": lambda name: True,
        "the last": lambda name: name.startswith("generator"),
    }[wrong]
    with pytest.raises(AssertionError, match="not the average"):
        check_average(averaged, (lambda trainer: trainer.weights()) if wrong == "the last" else kept)


def test_what_is_validated_is_the_average():
    """The one that the same run has without any validation."""

    class Noting(Recorder):
        def validated(self, loop):
            seen.append(state_of(loop.trainer.pair.generator))

    seen, runs = [], []
    for valid in (None, points(5)):
        torch.manual_seed(3)
        trainer = trainer_of(small(loss="hinge"), points(), ema=0.9, steps=6)
        torch.manual_seed(4)
        Loop(trainer, valid=valid, recorder=Noting(), quiet=True).run()
        runs.append(trainer)
    assert len(seen) > 1
    average, last = runs[0].average, runs[0].pair.generator.state_dict().values()
    assert all(torch.equal(*both) for both in zip(seen[-1].values(), average, strict=True))
    assert not any(torch.equal(*both) for both in zip(seen[-1].values(), last, strict=True))
    assert same(runs[0].weights(), runs[1].weights())


def test_steps_are_taken_in_training_mode():
    """Whatever mode the pair was left in: batch norm learns its statistics."""
    pair = convolutional().eval()
    before = state_of(pair)
    trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28))).step()
    assert pair.training
    moved = [
        name for name, value in state_of(pair).items() if "running" in name and not torch.equal(value, before[name])
    ]
    assert any(name.startswith("generator") for name in moved)
    assert any(name.startswith("discriminator") for name in moved)
