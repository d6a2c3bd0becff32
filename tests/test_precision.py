"""`bf16-mixed`: networks in bfloat16, densities and their sums in float32."""

import pyro
import pytest
import torch
from torch import nn

import probgen.inference.precision as precision
from probgen.data import load_data
from probgen.errors import UserError
from probgen.inference import TrainConfig, Trainer
from probgen.inference.batches import TensorImages
from probgen.inference.compiled.step import CompiledStep
from probgen.inference.trainer import initialize
from probgen.models import VAE, PixelCNN

MIXED, PLAIN = "bf16-mixed", "32-true"
CPU = torch.device("cpu")
PAIRS = {
    "vae": lambda: VAE((1, 8, 8), 17, latent_dim=2, hidden=(16,)),
    "conv": lambda: VAE((1, 8, 8), 17, latent_dim=2, hidden=(4,), network="conv"),
    "pixelcnn": lambda: PixelCNN((1, 8, 8), 17, features=4, blocks=1),
    "pixelcnn likelihood": lambda: VAE((1, 8, 8), 17, latent_dim=2, hidden=(16,), likelihood="pixelcnn"),
}


def trainer_of(name, kind, **config):
    pyro.set_rng_seed(0)
    digits = TensorImages(load_data("digits").train.images[:128])
    pair = PAIRS[name]()
    initialize(pair, digits)
    return Trainer(pair, digits, TrainConfig(steps=20, batch_size=64, lr=0.01, precision=kind, **config))


def losses(name, kind, **config):
    trainer = trainer_of(name, kind, **config)
    return torch.stack([trainer.step()["loss"] for _ in range(20)])


def dtypes(name):
    """Of all log-probabilities of a step in mixed precision, of its loss, and of the weights afterwards."""
    trainer = trainer_of(name, MIXED)
    step = trainer.gradients(*trainer.batch(0))
    found = {
        node["log_prob"].dtype
        for traces in step.traces
        for trace in traces
        for node in trace.nodes.values()
        if "log_prob" in node and node["type"] == "sample"
    }
    assert found, "no log-probability was seen"
    held = [step.loss, *trainer.parameters, *step.gradients]
    return found | {tensor.dtype for tensor in held}


@pytest.mark.parametrize("name", PAIRS)
def test_densities_and_their_sums_are_float32(name):
    assert dtypes(name) == {torch.float32}


def test_sums_in_bfloat16_are_seen(monkeypatch):
    """The broken twin: networks that hand back what they computed in."""
    monkeypatch.setattr(precision, "widened", lambda part, _network: part)
    assert torch.bfloat16 in dtypes("vae")


@pytest.mark.parametrize("name", PAIRS)
def test_losses_are_near_those_of_float32_and_not_the_same(name):
    mixed, plain = losses(name, MIXED), losses(name, PLAIN)
    assert torch.allclose(mixed, plain, rtol=0.01)
    assert not torch.equal(mixed, plain), "nothing was computed in bfloat16"


def test_a_recorded_step_computes_in_bfloat16_too():
    """Without the compiler, which takes its time."""
    trainer = trainer_of("vae", MIXED)
    trainer.gradient = CompiledStep(trainer.pair, trainer.parameters, machine_code=False)
    recorded = torch.stack([trainer.step()["loss"] for _ in range(5)])
    assert trainer.compiled, trainer.not_compiled
    assert torch.allclose(recorded, losses("vae", MIXED)[:5], rtol=1e-3)
    assert not torch.allclose(recorded, losses("vae", PLAIN)[:5], rtol=1e-7)


def test_a_compiled_step_rounds_where_torch_rounds():
    """Of deeper networks a compiler that keeps more digits between operations gives other gradients, and is refused."""
    pyro.set_rng_seed(0)
    digits = TensorImages(load_data("digits").train.images[:64] // 9)
    config = TrainConfig(steps=20, batch_size=16, compile="on", precision=MIXED)
    trainer = Trainer(PixelCNN((1, 8, 8), 2, features=8, blocks=3), digits, config)
    trainer.step()
    assert trainer.compiled, trainer.not_compiled


def test_the_pair_is_left_as_it_was():
    pair = PAIRS["vae"]()
    with precision.networks_in(pair, MIXED, CPU):
        assert "forward" in vars(pair.encoder)
        assert pair.encoder(torch.zeros(2, 1, 8, 8)).dtype == torch.float32
    assert "forward" not in vars(pair.encoder)


def test_a_forward_that_the_user_has_put_there_is_kept():
    pair, x = PAIRS["vae"](), torch.zeros(2, 1, 8, 8)
    pair.encoder.forward = own = lambda _x: torch.full((2, 4), 7.0)
    for _ in range(2):
        with precision.networks_in(pair, MIXED, CPU):
            assert pair.encoder(x).eq(7).all()
        assert vars(pair.encoder)["forward"] is own


class Own(nn.Module):
    """A list of networks, and one that gives a distribution of bfloat16 numbers without saying so."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])
        self.density = Unsaid()


class Unsaid(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return torch.distributions.Normal(self.layer(x), 1.0)


def test_which_modules_are_networks():
    pair = Own()
    assert precision.networks_of(pair) == [pair.parts[0], pair.density]
    vae = PAIRS["pixelcnn likelihood"]()
    assert precision.networks_of(vae) == [vae.likelihood.network, vae.encoder, vae.decoder]


def test_a_network_that_gives_a_distribution_is_refused():
    pair = Own()
    with precision.networks_in(pair, MIXED, CPU), pytest.raises(UserError, match="Unsaid gives a Normal"):
        pair.density(torch.zeros(1, 2))


def test_a_pair_without_networks_is_refused():
    class Bare(nn.Module):
        pass

    with pytest.raises(UserError, match="Bare has no networks"):
        precision.check_precision(Bare(), MIXED, CPU)
    precision.check_precision(Bare(), PLAIN, CPU)


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(UserError, match="no bfloat16"):
        precision.check_precision(PAIRS["vae"](), MIXED, torch.device("cuda"))
