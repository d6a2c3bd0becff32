"""Both players' turns, recorded: the same weights as by running the players at every step."""

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import nn

from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.batches import TensorImages
from probgen.inference.compiled import function
from probgen.inference.compiled.recording import interpreted
from probgen.inference.trainer import TrainConfig, TrainingError
from probgen.models.gan import GAN

POINTS, IMAGES = (2,), (1, 8, 8)
SMALL = {"hidden": (8, 8)}
NOISY = {"loss": "minimax", "regularizer": "none", "instance_noise": 0.3, "label_smoothing": 0.1, "packing": 2, **SMALL}
PLAYS = {
    "relativistic": (POINTS, {"loss": "relativistic", **SMALL}),
    "wasserstein": (POINTS, {"loss": "wasserstein", "discriminator_steps": 2, **SMALL}),
    "noisy packs": (
        POINTS,
        {
            "loss": "minimax",
            "regularizer": "none",
            "instance_noise": 0.3,
            "label_smoothing": 0.1,
            "packing": 2,
            **SMALL,
        },
    ),
    "spectral norm": (IMAGES, {"loss": "hinge", "spectral_norm": True, **SMALL}),
    "statistics": (IMAGES, {"loss": "least-squares", "minibatch_statistics": True, **SMALL}),
    "batch norm": (IMAGES, {"loss": "non-saturating", "discriminator_norm": "batch", "regularizer": "none", **SMALL}),
    "dcgan": ((1, 28, 28), {"network": "dcgan", "hidden": (4, 8)}),
    "resnet": (IMAGES, {"network": "resnet", "hidden": (4,), "regularizer": "r1"}),
    "classes": (POINTS, {"loss": "hinge", "num_classes": 3, "condition": "label", **SMALL}),
}


@pytest.fixture
def uncompiled(monkeypatch):
    """Recordings that torch runs operation by operation: no compiler is waited for."""
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))


def data(shape):
    generator = torch.Generator().manual_seed(0)
    if shape == POINTS:
        return torch.randn(40, 2, generator=generator).double()
    return torch.randint(2, (40, *shape), generator=generator).double()


def trained(name, mode, steps=6, **options):
    shape, chosen = PLAYS[name]
    pyro.set_rng_seed(1)
    pair = GAN(shape, None if shape == POINTS else 2, **chosen | options).double()
    config = TrainConfig(steps, 8, lr=1e-2, clip_norm=0.5, ema=0.9, compile=mode)
    trainer = AdversarialTrainer(pair, TensorImages(data(shape), torch.arange(40) % 3), config)
    records = [{k: float(v) for k, v in trainer.step().items()} for _ in range(steps)]
    return trainer, records, torch.rand(())


def check_same(recorded, eager, tolerance):
    trainer, records, next_number = recorded
    other, others, other_number = eager
    assert trainer.not_compiled is None
    assert records == [pytest.approx(record, rel=tolerance, abs=tolerance) for record in others]
    for name, weight in trainer.weights().items():
        torch.testing.assert_close(weight, other.weights()[name], rtol=tolerance, atol=tolerance)
    assert next_number == other_number


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", PLAYS)
def test_recorded_turns_are_the_players(name):
    check_same(trained(name, "on"), trained(name, "off"), 1e-9)


def test_compiled_turns_are_the_players():
    check_same(trained("noisy packs", "on"), trained("noisy packs", "off"), 1e-9)


@pytest.mark.usefixtures("uncompiled")
def test_noise_that_is_the_same_at_each_step_is_noticed(monkeypatch):
    """The twin: what falls over the run is recorded as a constant."""
    falls = AdversarialTrainer.noisy

    def constant(self, seen):
        self.noise = 0.3
        return falls(self, seen)

    monkeypatch.setattr(AdversarialTrainer, "noisy", constant)
    wrong = trained("noisy packs", "on")
    monkeypatch.undo()
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))
    with pytest.raises(AssertionError):
        check_same(wrong, trained("noisy packs", "off"), 1e-9)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_who_has_diverged_is_told_all_the_same(player):
    told = []
    for mode in ("off", "on"):
        pyro.set_rng_seed(0)
        pair = GAN(POINTS, None, loss="hinge", regularizer="none", **SMALL)
        trainer = AdversarialTrainer(pair, TensorImages(data(POINTS).float()), TrainConfig(9, 8, compile=mode))
        trainer.step()
        with torch.no_grad():
            next(getattr(pair, player).parameters()).fill_(torch.nan)
        with pytest.raises(TrainingError, match=f"the {player}'s .* has diverged") as error:
            trainer.step()
        told.append(str(error.value))
    assert told[0] == told[1]


class Counting(nn.Module):
    """A generator that changes with every call."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, z):
        self.calls += 1
        return self.linear(z) / self.calls


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = Counting(), nn.Linear(2, 1)
        self.objective = GAN(POINTS, None, loss="hinge", regularizer="none", **SMALL).objective
        self.kind = "implicit"

    def model(self, num, y=None):
        with pyro.plate("images", num):
            return self.generator(pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1)))

    def seen(self, x):
        return x

    def judge(self, seen, y=None):
        return self.discriminator(seen)[:, 0]


@pytest.mark.usefixtures("uncompiled")
def test_players_that_cannot_be_recorded_play_on():
    weights = []
    for mode in ("off", "on"):
        pyro.set_rng_seed(0)
        trainer = AdversarialTrainer(Own(), TensorImages(data(POINTS).float()), TrainConfig(5, 8, compile=mode))
        assert trainer.compiled == (mode == "on")
        trainer.step()
        assert not trainer.compiled
        assert trainer.not_compiled is None or "changes the attribute 'calls'" in trainer.not_compiled
        weights.append(trainer.weights())
    assert trainer.not_compiled is not None
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
