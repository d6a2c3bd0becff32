"""A recorded step is Pyro's: the same loss, terms and gradients for the same noise, over a zoo of pairs."""

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn

from probgen.inference.adam import FusedAdam, all_laid_out
from probgen.inference.batches import TensorImages
from probgen.inference.compiled import function
from probgen.inference.compiled.recording import interpreted
from probgen.inference.compiled.step import CompiledStep, EagerStep
from probgen.inference.trainer import TrainConfig, Trainer, trainable_parameters
from probgen.models import registry
from probgen.models.contracts import Objective

NUM, SIZE = 6, 5


class Pair(nn.Module):
    """p(x, z) = N(z; 0, 1) Bernoulli(x; decoder(z)), and what most of the zoo varies."""

    latent = 3

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SIZE, 7), nn.Tanh(), nn.Linear(7, 2 * self.latent))
        self.decoder = nn.Sequential(nn.Linear(self.latent, 7), nn.Tanh(), nn.Linear(7, SIZE))

    def posterior(self, x):
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        return dist.Normal(mu, log_sigma.exp()).to_event(1)

    def prior(self):
        return dist.Normal(torch.zeros(self.latent, dtype=torch.float64), 1.0).to_event(1)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", self.posterior(x))


class Broadcasting(Pair):
    broadcasts = True


class TwoLatents(Pair):
    """p(a) p(b | a) p(x | b), whose guide goes the other way."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(3, 4), nn.Linear(2, 6)

    def model(self, x):
        with pyro.plate("images", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mu, raw = self.down(a).chunk(2, -1)
            b = pyro.sample("z", dist.Normal(mu, nn.functional.softplus(raw)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(b)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            b = pyro.sample("z", self.posterior(x))
            mu, raw = self.up(b).chunk(2, -1)
            pyro.sample("a", dist.Normal(mu, nn.functional.softplus(raw)).to_event(1))


class Plates(Pair):
    """Latents in a second plate, images masked and scaled, and one latent for all images."""

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", SIZE, dim=-1):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            with poutine.mask(mask=x > 0), poutine.scale(scale=0.3):
                pyro.sample("x", dist.Normal(z * self.decoder[0].bias[0], 0.5), obs=x)

    def guide(self, x):
        pyro.sample("mean", dist.Normal(self.decoder[0].bias.mean(), 0.1))
        with pyro.plate("images", len(x), dim=-2), pyro.plate("pixels", SIZE, dim=-1):
            pyro.sample("z", dist.Normal(self.encoder[0].weight[0] * x, 0.2))


class Flow(Pair):
    """A guide pushed through flows, one of them autoregressive."""

    def __init__(self):
        super().__init__()
        self.flows = nn.ModuleList([transforms.Planar(3), transforms.affine_autoregressive(3, [6])])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            mu, log_sigma = self.encoder(x).chunk(2, -1)
            base = dist.Normal(mu, log_sigma.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, list(self.flows)))


class Warming(Pair):
    """A weight of the KL that grows with the step."""

    training_step = 0

    @property
    def kl_weight(self):
        risen = torch.as_tensor((self.training_step + 1) / 10, dtype=torch.float64)
        return 0.7 * risen.clamp(max=1.0) if self.training else 1.0

    def model(self, x):
        with pyro.plate("images", len(x)):
            with poutine.scale(scale=self.kl_weight):
                z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with poutine.scale(scale=self.kl_weight):
            super().guide(x)


class Normed(Pair):
    """Batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.encoder.insert(1, nn.BatchNorm1d(7))
        self.decoder.insert(2, nn.Dropout(0.5))


class Tied(Pair):
    """One weight at two places, and one that nothing depends on."""

    def __init__(self):
        super().__init__()
        self.decoder[2].weight = nn.Parameter(self.encoder[0].weight.detach().T.clone())
        self.mirrored = self.decoder[2]
        self.unused = nn.Parameter(torch.zeros(2))


class Recurrent(Pair):
    """torch's LSTM keeps its weights in two places."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 4, batch_first=True)
        self.out = nn.Linear(4, 1)

    def model(self, x):
        with pyro.plate("images", len(x)):
            before = nn.functional.pad(x, (1, 0))[:, :-1, None]
            logits = self.out(self.lstm(before)[0])[..., 0]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pass


class Loose:
    """No module: parameters by `pyro.param`, one of them positive."""

    def model(self, x):
        scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(SIZE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(self, x):
        shift = pyro.param("shift", torch.zeros(SIZE))
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, 0.3).to_event(1))


class InPyroModule(PyroModule):
    """Pyro's own modules register their parameters while a program runs."""

    def __init__(self):
        super().__init__()
        self.encoder = PyroModule[nn.Linear](SIZE, 6)
        self.scale = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, True), self.scale).expand([len(x), SIZE]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            mu, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, raw.exp()).to_event(1))


class Gamma(Pair):
    """Reparameterized draws by rejection, implicit gradients, a Beta likelihood's mass at its ends avoided."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.full((3,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            a, b = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.LogNormal(a, b.exp()).to_event(1))


ZOO = [Pair, Broadcasting, TwoLatents, Plates, Flow, Warming, Normed, Tied, Recurrent, Loose, InPyroModule, Gamma]
OBJECTIVES = {
    "sampled": Objective(),
    "closed-form": Objective(kl="closed-form"),
    "3 particles": Objective(num_particles=3),
    "closed-form, 3 particles": Objective(kl="closed-form", num_particles=3),
    "iwae": Objective("iwae", num_particles=3),
}


@pytest.fixture(autouse=True)
def double():
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()


def binary(num=NUM, size=SIZE, seed=0):
    return torch.randint(2, (num, size), generator=torch.Generator().manual_seed(seed)).double()


def made(kind, objective=OBJECTIVES["sampled"]):
    pyro.set_rng_seed(3)
    pair = kind()
    if isinstance(pair, nn.Module):
        pair = pair.double().train()
    pair.objective = objective
    return pair, trainable_parameters(pair, binary())


def numbers(step, parameters, x, seed=11):
    """Loss, terms, gradients, and the generator's next number."""
    pyro.set_rng_seed(seed)
    result = step(x)
    pairs = zip(parameters, result.gradients, strict=True)
    gradients = [torch.zeros_like(p) if gradient is None else gradient.clone() for p, gradient in pairs]
    assert all(p.grad is None for p in parameters)
    terms = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in result.terms.items()}
    return {"loss": result.loss.detach(), **terms, **dict(enumerate(gradients)), "next": torch.rand(())}


def check_same(a, b, tolerance=1e-10):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ZOO)
def test_a_recorded_step_is_pyros(kind, objective):
    if objective == "iwae" and kind in (Plates, InPyroModule):
        pytest.skip("the bound needs every site in the images' plate")
    pair, parameters = made(kind, OBJECTIVES[objective])
    step = CompiledStep(pair, parameters, machine_code=False)
    for seed in (0, 1, 2):
        x = binary(seed=seed)
        buffers = [b.clone() for b in pair.buffers()] if isinstance(pair, nn.Module) else []
        pyros = numbers(EagerStep(pair, parameters), parameters, x, seed)
        for b, before in zip(pair.buffers() if buffers else [], buffers, strict=True):
            b.copy_(before)
        ours = numbers(step, parameters, x, seed)
        check_same(ours, pyros)
        with torch.no_grad():
            for parameter in parameters:  # the next step sees other weights, and another step's number
                parameter.sub_(0.05 * torch.randn_like(parameter))
        if hasattr(pair, "training_step"):
            pair.training_step += 4


class Everything(TwoLatents):
    """Two latents, batch norm, dropout, and a weight that grows."""

    training_step = 0
    kl_weight = Warming.kl_weight

    def __init__(self):
        super().__init__()
        self.encoder.insert(1, nn.BatchNorm1d(7))
        self.decoder.insert(2, nn.Dropout(0.5))

    def model(self, x):
        with poutine.scale(scale=self.kl_weight):
            super().model(x)

    def guide(self, x):
        with poutine.scale(scale=self.kl_weight):
            super().guide(x)


def test_machine_code_is_the_recording():
    """Compiled: the same noise, new at every step, buffers and the step's number too."""
    histories = []
    for machine_code in (True, False):
        pair, parameters = made(Everything)
        step = CompiledStep(pair, parameters, machine_code=machine_code)
        # Not Adam: the bias before the batch norm has no gradient but rounding, which Adam would make a step of.
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        pyro.set_rng_seed(4)
        losses, seen = [], int(pair.encoder[1].num_batches_tracked)
        for number in range(4):
            pair.training_step = number
            losses.append(step(binary()).loss.item())
            optimizer.step()
        assert len(set(losses)) == 4
        assert pair.encoder[1].num_batches_tracked == seen + 4
        histories.append(pair.state_dict() | {"losses": torch.tensor(losses), "next": torch.rand(())})
    check_same(*histories)


@pytest.mark.parametrize("machine_code", [False, True])
def test_images_may_come_in_the_type_that_they_are_stored_in(machine_code):
    """Whole numbers are the same numbers in eight bits, in sixty-four and in floating point."""
    pair, parameters = made(Pair)
    step, x = CompiledStep(pair, parameters, machine_code=machine_code), binary()
    found = [numbers(step, parameters, x.to(dtype)) for dtype in (torch.float64, torch.uint8, torch.int64)]
    for other in found[1:]:
        check_same(other, found[0], tolerance=0)
    other_images = numbers(step, parameters, (1 - x).to(torch.uint8))
    with pytest.raises(AssertionError, match="loss"):
        check_same(other_images, found[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_a_trainer_hands_its_compiled_step_floats(dtype, monkeypatch):
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))
    pair, _ = made(Pair)
    trainer = Trainer(pair, TensorImages(binary().to(dtype)), TrainConfig(steps=2, batch_size=4, compile="on"))
    trainer.step()
    assert trainer.compiled
    ((_, images, *_),) = trainer.gradient.recorded.recordings
    floats = dtype if dtype.is_floating_point else torch.get_default_dtype()
    assert images[:3] == ((4, SIZE), (SIZE, 1), floats)


def repeated(step, x, times=3):
    """The losses of several steps on the same weights."""
    return {step(x).loss.item() for _ in range(times)}


def test_a_step_that_repeats_its_noise_is_noticed():
    """The twin: noise drawn when it was recorded."""
    pair, parameters = made(Pair)
    step = CompiledStep(pair, parameters, machine_code=False)
    assert len(repeated(step, binary())) == 3

    def frozen(x):
        pyro.set_rng_seed(0)
        return step(x)

    assert len(repeated(frozen, binary())) == 1


# --- our own models, in the layouts of memory that they choose

MODELS = {
    "gaussian": {},
    "ppca": {},
    "autoencoder": {},
    "vae": {"kl_warmup": 5},
    "vae conv": {"network": "conv", "hidden": (4, 8)},
    "vae pixelcnn": {"likelihood": "pixelcnn", "kl": "sampled", "pixelcnn_features": 4},
    "vae iwae": {"objective": "iwae", "num_particles": 3},
    "pixelcnn": {"features": 4, "blocks": 2},
    "gated-pixelcnn": {"features": 4, "blocks": 1},
    "row-lstm": {"features": 4, "layers": 1},
    "diagonal-bilstm": {"features": 4, "layers": 1},
    "raster-lstm": {"features": 4, "layers": 1},
}


def trained_by(name, machine_code, steps=4):
    """A model after some steps of Adam, recorded or (None) by Pyro."""
    pyro.set_rng_seed(2)
    pair = registry.build(registry.find_class(name.split()[0]), (1, 8, 8), 2, MODELS[name]).double().train()
    x = torch.randint(2, (5, 1, 8, 8)).double()
    parameters = trainable_parameters(pair, x)
    step = (
        EagerStep(pair, parameters)
        if machine_code is None
        else CompiledStep(pair, parameters, machine_code=machine_code)
    )
    adam = FusedAdam(parameters, lr=1e-2)
    for number in range(steps):
        if hasattr(pair, "training_step"):
            pair.training_step = number
        adam.move(step(x).gradients)
    return {k: v.clone() for k, v in pair.state_dict().items()} | {"next": torch.rand(())}


@pytest.mark.parametrize("name", MODELS)
def test_our_models_learn_what_they_learn_by_pyro(name):
    check_same(trained_by(name, machine_code=False), trained_by(name, None), 1e-9)


def test_a_gradient_in_another_layout_would_move_the_wrong_weights():
    """The twin: gradients as they come, under a fused optimizer."""
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    gradient = torch.randn(4, 3, 2, 2)
    moved = []
    for (handed,) in (all_laid_out([gradient], [weight]), [gradient]):
        with torch.no_grad():
            weight.zero_()
        weight.grad = handed
        torch.optim.Adam([weight], lr=1.0, fused=True).step()
        moved.append(torch.equal(weight.detach().sign(), -gradient.sign()))
    assert moved == [True, False]
