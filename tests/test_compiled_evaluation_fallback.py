"""What cannot be recorded is left to Pyro, with the reason; what Pyro refuses is refused, recorded or not."""

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import LinearGaussian
from pyro import poutine
from recordable_pairs import DOUBLE, Loose, check_same, images, recording_only, seeded

from probgen.commands.evaluate import evaluate_run
from probgen.errors import UserError
from probgen.inference import ais, annealing, evidence, iwae
from probgen.models import Autoencoder


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


class Looking(LinearGaussian):
    """Looks at the numbers that it draws."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            sigma = 0.8 if float(z.detach().sum()) > 0 else 0.9
            pyro.sample("x", dist.Normal(z @ self.W.T, sigma).to_event(1), obs=x)


class Counting(LinearGaussian):
    """The twin: each call has a wider guide than the one before; a recording would keep the first one's width."""

    calls = 0

    def guide(self, x):
        self.calls += 1
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x @ self.G.T, 1 + 0.1 * (self.calls % 4)).to_event(1))


class CountingElsewhere(LinearGaussian):
    """The same in a place that nobody watches: the numbers tell."""

    calls = [0]  # noqa: RUF012

    def guide(self, x):
        self.calls[0] += 1
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(x @ self.G.T, 1 + 0.1 * (self.calls[0] % 4)).to_event(1))


class CountingObject(Loose):
    """No module; what it counts will matter only later."""

    def __init__(self):
        self.calls = 0

    def guide(self, x):
        self.calls += 1
        super().guide(x / (2 if self.calls > 100 else 1))


class Scaled(LinearGaussian):
    """A scale of one, but as a tensor: whether it is one for all images has to be looked at."""

    def model(self, x):
        with poutine.scale(scale=(self.mu * 0 + (x.max() < 100)).max()):
            super().model(x)


class Enumerated(LinearGaussian):
    """Each image is from one of two clusters, summed out; z is drawn."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z @ self.W.T + c[..., None], 0.8).to_event(1), obs=x)


REASONS = {
    Looking: "looks at the numbers",
    Counting: "changes the attribute 'calls' of Counting",
    CountingElsewhere: "something in Python that changes",
    CountingObject: "changes the attribute 'calls' of CountingObject",
    Scaled: "looks at the numbers",
    Enumerated: r"discrete sites \(enumeration\)",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_recorded_is_left_to_pyro_and_the_reason_told_once(monkeypatch, kind):
    monkeypatch.setattr(evidence, "CHUNK", 8)
    recording_only(monkeypatch)
    pair, x, told = kind(), images(None, 5), []
    ours, after = seeded(iwae, pair.model, pair.guide, x, 4, compile="on", tell=told.append)
    (reason,) = told
    assert re.search(REASONS[kind], reason)
    if kind in (Looking, Scaled, Enumerated):
        pyros, then = seeded(iwae, pair.model, pair.guide, x, 4, compile="off")
        check_same((ours.per_image, after), (pyros.per_image, then))


@pytest.mark.parametrize("kind", [Looking, Scaled, Enumerated])
def test_chains_that_cannot_be_recorded_are_left_to_pyro(monkeypatch, kind):
    recording_only(monkeypatch)
    pair, told = kind(), []
    options = {"num_chains": 2, "num_distributions": 4, "num_leapfrog": 1, "tell": told.append}
    ours, pyros = (seeded(ais, pair.model, images(None), compile=c, **options) for c in ("on", "off"))
    (reason,) = told
    assert re.search(REASONS[kind], reason)
    check_same((ours[0].estimate.per_image, ours[1]), (pyros[0].estimate.per_image, pyros[1]))


class Bounded(LinearGaussian):
    """The support of z depends on the images."""

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Uniform(x[:, 0] - 1, x[:, 0] + 1))
            pyro.sample("x", dist.Normal(z[..., None] * self.mu, 0.5).to_event(1), obs=x)


def test_a_path_whose_coordinates_are_those_of_other_images_is_noticed(monkeypatch):
    """The twin: the bounds of the first images' latents are constants of the recording."""
    monkeypatch.setattr(annealing, "CHUNK", 6)
    recording_only(monkeypatch)
    pair, told = Bounded(), []
    options = {"num_chains": 2, "num_distributions": 4, "num_leapfrog": 1, "tell": told.append}
    ours, pyros = (seeded(ais, pair.model, images(None), compile=c, **options)[0] for c in ("on", "off"))
    (reason,) = told
    assert "more than its inputs" in reason
    check_same(ours.estimate.per_image, pyros.estimate.per_image)


def test_a_reason_is_on_stderr_for_who_watches(monkeypatch, capsys):
    recording_only(monkeypatch)
    for progress in (False, True):
        iwae(Looking().model, Looking().guide, images(None, 2), 2, compile="on", progress=progress)
        assert ("not compiled, Pyro runs every time: the program looks" in capsys.readouterr().err) == progress


def scaled(x):
    with poutine.scale(scale=0.5):
        LinearGaussian().model(x)


def without_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2, dtype=DOUBLE), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z @ LinearGaussian().W.T, 1.0).to_event(2), obs=x)


def point(x):
    with pyro.plate("images", len(x)):
        pyro.sample("z", dist.Delta(torch.zeros(len(x), 2, dtype=DOUBLE)).to_event(1))


def heavier(x):
    """A scale that only the last image has."""
    with poutine.scale(scale=torch.where(x.amax() > 50, 2.0, 1.0)):
        LinearGaussian().model(x)


def coins(x):
    with pyro.plate("images", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1)[..., None]).expand([*z.shape[:-1], 3]).to_event(1), obs=x)


WRONG = {
    "scaled": (scaled, None, UserError, "scaled by 0.5"),
    "without a plate": (without_plate, None, UserError, "one number for each"),
    "a point": (None, point, UserError, "'z' is a point"),
    "another latent": (None, lambda x: None, UserError, "no site 'z'"),
    "the last image scaled": (heavier, None, UserError, "scaled by 2"),
    "the last image outside": (coins, None, ValueError, "within the support"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("compile", ["on", "off"])
def test_the_same_pairs_are_refused(monkeypatch, compile, name):
    """With the last image in a chunk of its own: what a recording does not look at is looked at all the same."""
    monkeypatch.setattr(evidence, "CHUNK", 2)
    recording_only(monkeypatch)
    model, guide, error, message = WRONG[name]
    pair = LinearGaussian()
    x = torch.ones(3, 3, dtype=DOUBLE)
    x[-1] = 99.0
    with pytest.raises(error, match=message):
        iwae(model or pair.model, guide or pair.guide, x, 2, compile=compile)


def test_an_improper_prior_is_refused_before_anything_is_recorded():
    pair = Autoencoder((1, 2, 2), 3, latent_dim=2, hidden=(4,))
    with pytest.raises(UserError, match="improper"):
        ais(pair.model, torch.zeros(2, 1, 2, 2), guide=pair.guide, num_distributions=5, compile="on")


def test_evaluate_refuses_another_word():
    with pytest.raises(UserError, match="--compile fast came, expected auto, on or off"):
        evaluate_run(Path(), split="test", num=1, data_dir=None, model=None, device="cpu", seed=0, compile="fast")
