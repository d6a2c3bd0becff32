"""Going on from a saved state, and `fit`, the whole of training in one call."""

import io

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_equal
from oracles import LinearGaussian
from torch import nn

from probgen.errors import UserError
from probgen.inference import TrainConfig, Trainer, fit
from probgen.inference.batches import TensorImages
from probgen.inference.loop import Loop
from probgen.models import VAE, Autoencoder
from probgen.models.contracts import Objective


def trainer_of(pair, x, **config):
    return Trainer(pair, TensorImages(x), TrainConfig(**({"steps": 20, "batch_size": 4, "lr": 0.05} | config)))


def weights(pair):
    return {name: p.detach().clone() for name, p in pair.named_parameters()}


def same(a, b, tolerance=0.0):
    return all(torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance) for name in a)


class Located(nn.Module):
    """x ~ N(μ, 1) and nothing latent: the loss is a parabola in μ."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


# --- resuming


RESUMED = {
    "linear-gaussian": lambda: LinearGaussian(),
    "vae": lambda: VAE((1, 1, 3), 2, latent_dim=2, hidden=(4,), kl="sampled", beta=2.0, kl_warmup=9),
    "autoencoder": lambda: Autoencoder((1, 1, 3), 2, latent_dim=2, hidden=(4,)),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_training_is_uninterrupted_training_bit_for_bit(name, ema):
    make = RESUMED[name]
    x = LinearGaussian().data(10) if name == "linear-gaussian" else torch.randint(0, 2, (10, 1, 1, 3)).float()
    config = {"ema": ema, "schedule": "cosine", "lr_warmup": 3, "clip_norm": 1.0}
    whole = trainer_of(make(), x, **config)
    for _ in range(5):
        whole.step()
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    first = [whole.step()["loss"].item() for _ in range(6)]

    pyro.set_rng_seed(99)
    resumed = trainer_of(make(), x, **config)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    second = [resumed.step()["loss"].item() for _ in range(6)]
    assert first == second
    assert same(weights(whole.pair), weights(resumed.pair))
    assert all(torch.equal(a, b) for a, b in zip(whole.average, resumed.average, strict=True))
    assert resumed.steps_done == 11


@pytest.mark.parametrize("lost", ["optimizer", "random", "steps_done", "average"])
def test_resuming_without_any_part_of_the_state_differs(lost):
    """The twins: a checkpoint that loses one thing is found out by the law above."""
    pair = LinearGaussian()
    x = pair.data(10)
    whole = trainer_of(pair, x, ema=0.9, schedule="linear")
    blank = trainer_of(LinearGaussian(), x, ema=0.9, schedule="linear")
    untouched = blank.state_dict()
    for _ in range(5):
        whole.step()
    buffer = io.BytesIO()
    torch.save(whole.state_dict() | {lost: untouched[lost]}, buffer)
    for _ in range(3):
        whole.step()
    buffer.seek(0)
    if lost in ("optimizer", "steps_done"):  # the one does not fit the other: found out at once
        with pytest.raises(ValueError, match="optimizer"):
            blank.load_state_dict(torch.load(buffer, weights_only=True))
        return
    blank.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(3):
        blank.step()
    averages = all(torch.equal(a, b) for a, b in zip(whole.average, blank.average, strict=True))
    assert not (averages and same(weights(pair), weights(blank.pair)))


def test_a_loop_resumes_with_what_it_remembers():
    x, valid = torch.full((6, 1), 10.0).double(), torch.full((6, 1), 3.0).double()

    def loop():
        return Loop(trainer_of(Located(), x, steps=40, lr=0.4, patience=3), valid=valid, quiet=True)

    whole = loop()
    history = whole.run()
    first = loop()
    for _ in range(9):
        first.one_step()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = loop()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert first.history + second.run() == history
    check_equal(second.final_weights()["mu"], whole.final_weights()["mu"], 0)


# --- fit


class Plain:
    """No module, but modules among its attributes."""

    def __init__(self):
        self.encoder, self.decoder = nn.Linear(3, 2).double(), nn.Linear(2, 3).double()
        self.name = "plain"

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class WithParams:
    """The mean and the spread of the data, as pyro.param."""

    def model(self, x):
        mu = pyro.param("mu", torch.zeros(3, dtype=torch.float64))
        sigma = pyro.param("sigma", torch.ones(3).double(), constraint=dist.constraints.positive)
        with pyro.plate("images", len(x)):
            pyro.sample("x", dist.Normal(mu, sigma).to_event(1), obs=x)

    def guide(self, x):
        pass


def test_fit_trains_the_modules_of_a_plain_object():
    pair, x = Plain(), LinearGaussian().data(50)
    before = [p.detach().clone() for m in (pair.encoder, pair.decoder) for p in m.parameters()]
    history = fit(pair, x, steps=200, batch_size=50, lr=0.05, progress=False)
    after = [p for m in (pair.encoder, pair.decoder) for p in m.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert history[-1]["loss"] < history[0]["loss"] - 0.5


def test_fit_trains_the_modules_of_a_plain_object_with_dropout_and_leaves_them_in_evaluation_mode():
    class Dropping(Plain):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def guide(self, x):
            seen.append(self.drop.training)
            super().guide(self.drop(x))

    seen, pair = [], Dropping()
    fit(pair, LinearGaussian().data(20), steps=3, progress=False)
    assert seen[-3:] == [True] * 3
    assert not pair.drop.training


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"patience": 5, "valid": LinearGaussian().data(20)}])
def test_fit_averages_and_stops_early_for_a_plain_object_too_or_says_that_it_cannot(options):
    """What may not happen: an option that is dropped without a word, or an AttributeError at the end."""
    torch.manual_seed(4)
    pair = Plain()
    torch.manual_seed(4)
    plain = Plain()
    x = LinearGaussian().data(20)
    try:
        fit(pair, x, steps=20, lr=0.1, progress=False, **options)
    except UserError:
        return
    fit(plain, x, steps=20, lr=0.1, progress=False)
    if "ema" in options:
        assert not torch.equal(pair.decoder.weight, plain.decoder.weight)


def test_fit_trains_pyro_params_to_the_maximum_likelihood():
    x = LinearGaussian().data(50)
    fit(WithParams(), x, steps=300, batch_size=50, lr=0.1, schedule="cosine", progress=False)
    check_equal(pyro.param("mu"), x.mean(0), 1e-3)
    check_equal(pyro.param("sigma"), x.std(0, correction=0), 1e-3)


def test_fit_leaves_evaluation_mode_and_a_history_whose_last_step_is_the_last():
    pair = LinearGaussian()
    history = fit(pair, pair.data(20), epochs=3, batch_size=8, progress=False)
    assert not pair.training
    assert history[-1]["step"] == 8
    for record in history:
        assert record["elbo"] == pytest.approx(record["log_likelihood"] - record["kl"], abs=1e-5)
        assert record["loss"] == pytest.approx(-record["elbo"], abs=1e-5)


def test_fit_twice_with_one_seed_is_the_same_and_with_another_is_not():
    runs = []
    for seed in (0, 0, 1):
        pair = LinearGaussian()
        fit(pair, pair.data(20), steps=5, batch_size=8, seed=seed, progress=False)
        runs.append(weights(pair))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("objective", [Objective("iwae", "sampled", 3), Objective("elbo", "closed-form", 3)])
@pytest.mark.parametrize("num_images", [1, 3, 10])
def test_fit_takes_as_many_particles_as_it_checks_images(objective, num_images):
    """The first check runs on three images: three particles must not be mistaken for them."""
    pair = LinearGaussian()
    pair.objective, pair.broadcasts = objective, True
    before = weights(pair)
    fit(pair, pair.data(num_images), steps=2, progress=False)
    assert not same(weights(pair), before)


class Broken(Located):
    """Located with one mistake."""

    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake

    def model(self, x):
        if self.mistake == "shape":
            x = x[:, :2] @ torch.zeros(3, 1)
        with pyro.plate("images", len(x)):
            if self.mistake == "latent":
                pyro.sample("z", dist.Normal(0.0, 1.0))
            events = 0 if self.mistake == "to_event" else 1
            pyro.sample("x", dist.Normal(self.mu.expand(x.shape[1]), 1.0).to_event(events), obs=x)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("latent", "Broken: the guide has no site 'z'"),
        ("to_event", r"Broken fails on a batch of shape \(3, 2\), test_fit.py line \d+: site 'x' has batch shape"),
        ("shape", r"Broken fails on a batch of shape \(3, 2\), test_fit.py line \d+: RuntimeError"),
    ],
)
def test_fit_checks_the_pair_first_and_tells_its_mistake_in_one_line(mistake, message):
    with pytest.raises(UserError, match=message) as error:
        fit(Broken(mistake), torch.zeros(10, 2).double(), steps=1, progress=False)
    assert "\n" not in str(error.value)


def test_the_first_check_draws_nothing_from_the_noise_of_training():
    pair, x = LinearGaussian(), LinearGaussian().data(10)
    fit(pair, x, steps=4, batch_size=4, lr=0.05, progress=False)
    trainer = trainer_of(LinearGaussian(), x, steps=4)
    pyro.set_rng_seed(0)
    for _ in range(4):
        trainer.step()
    assert same(weights(pair), weights(trainer.pair))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3, "epochs": 1}, "both steps and epochs"),
        ({"patience": 3}, "patience came without valid"),
    ],
)
def test_options_of_fit_that_contradict_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        fit(LinearGaussian(), LinearGaussian().data(5), progress=False, **options)


def test_fit_refuses_no_images_and_no_parameters():
    with pytest.raises(UserError, match="no images"):
        fit(LinearGaussian(), torch.zeros(0, 3).double(), progress=False)
    frozen = LinearGaussian().requires_grad_(False)
    with pytest.raises(UserError, match="LinearGaussian has no parameters to train"):
        fit(frozen, frozen.data(5), progress=False)
