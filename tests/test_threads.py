"""Small networks train by one thread, others by all; nothing but the time depends on it."""

import pyro
import pytest
import torch
from torch import nn

from probgen.inference import threads
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.batches import TensorImages
from probgen.inference.trainer import TrainConfig, Trainer
from probgen.models import VAE
from probgen.models.gan import GAN
from probgen.models.language import LanguageModel
from probgen.models.pixelcnn import PixelCNN

X = torch.randint(2, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def operations(layer, x):
    """The smallest limit under which it still counts as small."""
    return layer.weight.numel() * len(x) * 2


def test_operations_are_counted(monkeypatch):
    layer, x = nn.Linear(30, 20), torch.zeros(7, 30)
    for limit, expected in ((operations(layer, x), False), (operations(layer, x) + 1, True)):
        monkeypatch.setattr(threads, "SMALL_WORK", limit)
        assert threads.is_small(layer, lambda: layer(x)) is expected


def test_convolutions_count_at_every_pixel(monkeypatch):
    model = PixelCNN((1, 8, 8), 2, features=8, blocks=2)
    monkeypatch.setattr(threads, "SMALL_WORK", 64 * 40 * sum(p.numel() for p in model.parameters()))
    assert not threads.is_small(model, lambda: threads.scored(model, X.float()))


def test_torchs_recurrent_layers_are_not_counted_and_get_all_threads():
    lstm = nn.LSTM(2, 2)
    assert not threads.is_small(lstm, lambda: None)
    assert not threads.is_small(LanguageModel((5,), 3, vocabulary=("\n", "a", "b"), features=2), lambda: None)


@pytest.mark.parametrize("limit", [0, 1e18])
@pytest.mark.parametrize("kind", [Trainer, AdversarialTrainer])
def test_a_step_uses_them_and_gives_them_back(kind, limit, monkeypatch):
    monkeypatch.setattr(threads, "SMALL_WORK", limit)
    torch.manual_seed(0)
    pair = VAE((1, 8, 8), 2, hidden=(8,)) if kind is Trainer else GAN((1, 8, 8), 2, hidden=(8,))
    used = []
    next(pair.children()).register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    trainer = kind(pair, TensorImages(X), TrainConfig(3, 8))
    used.clear()
    trainer.step()
    assert set(used) == {1 if limit else 2}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("looks", [True, False])
def test_looking_leaves_no_trace(looks):
    """Neither draws nor statistics of batch norm."""
    pyro.set_rng_seed(0)
    pair = VAE((1, 8, 8), 2, hidden=(8,))
    pair.encoder.norm = nn.BatchNorm1d(3)

    def forward():
        pair.encoder.norm(torch.randn(4, 3))
        threads.scored(pair, X.float())

    if looks:
        threads.is_small(pair, forward)
    assert pair.training
    assert pair.encoder.norm.num_batches_tracked == 0
    drawn = torch.rand(())
    pyro.set_rng_seed(0)
    VAE((1, 8, 8), 2, hidden=(8,))
    assert drawn == torch.rand(())
