"""What cannot be recorded or compiled is trained by Pyro: the same numbers, and the reason said once."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import ok, refused
from torch import nn

from probgen.inference.batches import TensorImages
from probgen.inference.compiled import backend
from probgen.inference.compiled.recording import NotStaticError
from probgen.inference.compiled.step import CompiledStep
from probgen.inference.fit import fit
from probgen.inference.trainer import TrainConfig, Trainer, trainable_parameters

X = torch.randint(2, (40, 6), generator=torch.Generator().manual_seed(0)).float()


class Pair(nn.Module):
    """p(z) p(x | z) with a place where each of the following does something that is not static."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.ones(6, 2))
        self.bias = nn.Parameter(torch.zeros(2))

    def twist(self, x):
        return 1.0

    def posterior(self, x):
        return dist.Normal(x @ self.weight + self.bias, 0.5)

    def prior(self, num):
        return dist.Normal(torch.zeros(2), 1.0)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", self.prior(len(x)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.twist(x) * z @ self.weight.T).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", self.posterior(x).to_event(1))


class LooksAtNumbers(Pair):
    def twist(self, x):
        return 1.0 if x.mean() > 0.4 else 2.0


class Counts(Pair):
    calls = 0

    def twist(self, x):
        self.calls += 1
        return 1 / self.calls


class CountsElsewhere(Pair):
    calls = [0]  # noqa: RUF012  shared on purpose

    def twist(self, x):
        self.calls[0] += 1
        return 1 / self.calls[0]


class RollsPythonsDice(Pair):
    def twist(self, x):
        return random.random()


class RollsNumpysDice(Pair):
    def twist(self, x):
        return float(np.random.rand())


class LooksThroughNumpy(Pair):
    def twist(self, x):
        return float(x.detach().numpy().mean())


class Discrete(Pair):
    def posterior(self, x):
        return dist.Bernoulli(logits=x @ self.weight + self.bias)

    def prior(self, num):
        return dist.Bernoulli(0.5 * torch.ones(2))


class SummedOut(Discrete):
    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Bernoulli(logits=self.weight.T[z] + self.bias.sum()).to_event(1), obs=x)

    def guide(self, x):
        pass


REASONS = {
    LooksAtNumbers: "looks at the numbers in its tensors, in test_compiled_fallback.py, line",
    Counts: "changes the attribute 'calls' of Counts",
    CountsElsewhere: "depends on more than the batch",
    RollsPythonsDice: "depends on more than the batch",
    RollsNumpysDice: "depends on more than the batch",
    LooksThroughNumpy: "numpy",
    Discrete: "site 'z': Bernoulli has no reparameterized draws",
    SummedOut: "sums over the values of discrete sites",
}


def made(kind):
    pyro.set_rng_seed(0)
    return kind()


@pytest.mark.parametrize("kind", REASONS)
def test_the_reason_is_told(kind):
    pair = made(kind)
    with pytest.raises(NotStaticError, match=REASONS[kind]):
        CompiledStep(pair, trainable_parameters(pair, X), machine_code=False)(X)


@pytest.mark.parametrize("kind", [LooksAtNumbers, Discrete, SummedOut, LooksThroughNumpy])
def test_such_a_pair_is_trained_as_ever_and_says_so_once(kind, capsys):
    histories = {}
    for mode in ("off", "on"):
        pair = made(kind)
        histories[mode] = fit(pair, X, steps=8, batch_size=10, compile=mode), [p.clone() for p in pair.parameters()]
        said = capsys.readouterr().err
        assert said.count("not compiled, Pyro runs at every step") == (mode == "on")
    (records, weights), (others, other_weights) = histories["off"], histories["on"]
    assert records == others
    assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


def test_nothing_is_said_where_progress_is_off(capsys):
    fit(made(Discrete), X, steps=2, batch_size=10, compile="on", progress=False)
    assert capsys.readouterr().err == ""


def test_a_machine_without_a_compiler():
    from torch._inductor import config

    trainer = Trainer(made(Pair), TensorImages(X), TrainConfig(steps=3, batch_size=10, compile="on"))
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        trainer.step()
    assert not trainer.compiled
    assert "no C++ compiler" in trainer.not_compiled


def test_a_compiler_that_fails(monkeypatch):
    import torch._inductor

    def broken(*_, **__):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(torch._inductor, "compile", broken)
    monkeypatch.setattr(backend, "check_compiler", lambda _: None)
    trainer = Trainer(made(Pair), TensorImages(X), TrainConfig(steps=3, batch_size=10, compile="on"))
    trainer.step()
    assert trainer.not_compiled == "torch could not compile it (RuntimeError)"


@pytest.mark.parametrize(("steps", "mode", "expected"), [(10, "on", True), (10_000, "off", False), (10, "auto", False)])
def test_who_compiles(steps, mode, expected):
    assert TrainConfig(steps=steps, compile=mode).compiles is expected


def test_long_runs_compile_by_themselves():
    assert TrainConfig(steps=10_000).compiles
    assert not TrainConfig(steps=9_999).compiles


def test_the_command_line_says_why_not(tmp_path):
    options = ["--data", "digits", "--binarize", "threshold", "--steps", "3", "--set", "student_forcing=0.5"]
    result = ok("train", "row-lstm", "--out", tmp_path / "run", *options, "--compile", "on", "--json")
    assert result.stderr.count("not compiled, Pyro runs at every step: the program looks at the numbers") == 1
    assert '"compiled": false, "not_compiled": "the program looks' in result.stdout
    assert "'auto', 'on' or 'off'" in refused("train", "vae", "--out", tmp_path / "b", "--compile", "yes")
