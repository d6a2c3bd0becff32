"""What cannot be recorded or compiled is trained by Pyro: the same numbers, and the reason said once."""

import itertools
import random
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import ok, refused
from torch import nn

from probgen.inference import trainer
from probgen.inference.batches import TensorImages
from probgen.inference.compiled import backend, function
from probgen.inference.compiled.recording import NotStaticError, interpreted
from probgen.inference.compiled.step import CompiledStep
from probgen.inference.fit import fit
from probgen.inference.trainer import TrainConfig, Trainer, TrainingError, trainable_parameters

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


class CountsInADictionary(Pair):
    def __init__(self):
        super().__init__()
        self.state = {"calls": 0}

    def twist(self, x):
        self.state["calls"] += 1
        return min(1.0, self.state["calls"] / 10_000)


class Remembers(Pair):
    def __init__(self):
        super().__init__()
        self.seen = []

    def twist(self, x):
        self.seen.append(1)
        return min(1.0, len(self.seen) / 10_000)


class WritesToATensor(Pair):
    def __init__(self):
        super().__init__()
        self.count = torch.zeros(())

    def twist(self, x):
        self.count += 1
        return (self.count / 10_000).clamp(max=1.0)


class ReplacesATensor(WritesToATensor):
    def twist(self, x):
        self.count = self.count + 1
        return (self.count / 10_000).clamp(max=1.0)


class ReplacesABuffer(Pair):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def twist(self, x):
        self.count = self.count + 1
        return (self.count / 10_000).clamp(max=1.0)


class NoModule:
    """An object that has a module."""

    def __init__(self):
        self.inner, self.calls = Pair(), 0

    def model(self, x):
        self.calls += 1
        with pyro.poutine.scale(scale=min(1.0, self.calls / 10_000)):
            self.inner.model(x)

    def guide(self, x):
        self.inner.guide(x)

    def parameters(self):
        return self.inner.parameters()


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
    RollsNumpysDice: "draws from NumPy's generator",
    CountsInADictionary: "changes the attribute 'state'",
    Remembers: "changes the attribute 'seen'",
    WritesToATensor: "writes to the tensor 'count'",
    ReplacesATensor: "depends on more than the batch",
    ReplacesABuffer: "another tensor in place of the buffer 'count'",
    NoModule: "changes the attribute 'calls' of NoModule",
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


STATEFUL = [Counts, CountsInADictionary, Remembers, WritesToATensor, ReplacesATensor, ReplacesABuffer, NoModule]


@pytest.mark.parametrize("kind", [LooksAtNumbers, Discrete, SummedOut, LooksThroughNumpy, *STATEFUL])
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


class ChangesLate(Pair):
    """Nothing that two runs would show."""

    calls = 0

    def twist(self, x):
        type(self).calls += 1
        return 1.0 if type(self).calls < 50 else 3.0


class ChangesItsGradientLate(ChangesLate):
    """The loss stays."""

    def twist(self, x):
        zero = self.weight.sum() - self.weight.detach().sum()
        return 1.0 + (super().twist(x) - 1.0) * zero


@pytest.mark.parametrize("kind", [ChangesLate, ChangesItsGradientLate])
@pytest.mark.parametrize(("last", "ends"), [(0, False), (100, True)])
def test_what_changes_later_ends_the_run(kind, last, ends, monkeypatch):
    """A look at Pyro, which the twin does not take."""
    kind.calls = 0
    monkeypatch.setattr(trainer, "LOOKS", (10, last or 10**9))
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))
    pair, config = made(kind), TrainConfig(steps=120, batch_size=10, compile="on")
    kind.calls = 0
    run = Trainer(pair, TensorImages(X), config)
    for _ in range(60):
        run.step()
    kind.calls = 50
    with pytest.raises(TrainingError, match=r"step 101: .*no longer gives Pyro's") if ends else nullcontext():
        for _ in range(60):
            run.step()


def trained_with(mode, looks, monkeypatch):
    """Weights after some steps, between which a compiled run looks at Pyro so often."""
    monkeypatch.setattr(trainer, "LOOKS", looks)
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))
    pair = made(Pair)
    run = Trainer(pair, TensorImages(X), TrainConfig(steps=8, batch_size=10, lr=0.1, compile=mode))
    for _ in range(8):
        run.step()
    return [parameter.detach().clone() for parameter in pair.parameters()]


def test_a_look_at_pyro_changes_nothing(monkeypatch):
    """The step's own gradient is taken, not that of the look, which has other noise."""
    seldom, always = (trained_with("on", looks, monkeypatch) for looks in ((10**9,), (1,)))
    assert all(torch.equal(a, b) for a, b in zip(seldom, always, strict=True))
    for ours, pyros in zip(always, trained_with("off", (1,), monkeypatch), strict=True):
        torch.testing.assert_close(ours, pyros)


ALIKE, GRADIENT, LOSS = (True, True), (True, False), (False, True)  # or where they differ
LOOKS = {
    "never": ([ALIKE], 1, False),
    "a gradient, once": ([GRADIENT, ALIKE, ALIKE, ALIKE, ALIKE], 5, False),
    "a gradient, twice": ([GRADIENT, GRADIENT, ALIKE, ALIKE, ALIKE], 5, False),
    "a gradient at every second call": ([GRADIENT, ALIKE, GRADIENT, ALIKE, GRADIENT], 5, True),
    "every gradient": ([GRADIENT] * 5, 5, True),
    "a loss": ([LOSS], 1, True),
    "a later loss": ([GRADIENT, ALIKE, ALIKE, LOSS, ALIKE], 5, True),
}


@pytest.mark.parametrize("differing", LOOKS)
def test_a_look_ends_a_run_where_the_loss_differs_or_most_gradients(differing, monkeypatch):
    """On some batches a gradient does where rounding moves a unit over its kink."""
    plain, seen = trained_with("on", (1,), monkeypatch), []
    found, num, ends = LOOKS[differing]

    def compared(step, *batch):
        seen.append(batch[0])
        return found[len(seen) - 1] if len(seen) <= len(found) else ALIKE

    monkeypatch.setattr(CompiledStep, "still_pyros", compared)
    with pytest.raises(TrainingError, match="no longer gives Pyro's") if ends else nullcontext():
        weights = trained_with("on", (1,), monkeypatch)
        assert all(torch.equal(a, b) for a, b in zip(weights, plain, strict=True)), "a look has drawn"
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen[:num], 2)), "one batch, looked at twice"
    assert len(seen) == num if ends else len(seen) > num


@pytest.mark.parametrize(
    ("loss", "gradient", "same"), [(1e-4, 0, True), (0, 5e-3, True), (3e-3, 0, False), (0, 0.05, False)]
)
def test_a_loss_is_compared_closely_and_a_gradient_up_to_kinks(loss, gradient, same):
    torch.manual_seed(0)
    g = torch.randn(50)
    other = g + gradient * g.norm() * torch.nn.functional.normalize(torch.randn(50), dim=0)
    results, others = [torch.tensor(3.0), g], [torch.tensor(3.0 * (1 + loss)), other]
    assert function.agree(results, others, kinks=function.KINKS) is same
    assert function.agree(results, others) is (same and gradient == 0), "operations in the same order have no kinks"


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


def test_what_has_no_wrapper_in_cpp_is_compiled_with_one_in_python(monkeypatch):
    wrappers = []

    def picky(graph, inputs):
        wrappers.append(torch._inductor.config.cpp_wrapper)
        if wrappers[-1]:
            raise RuntimeError("no such operation in C++")
        return interpreted(graph)

    import torch._inductor

    monkeypatch.setattr(torch._inductor, "compile", picky)
    monkeypatch.setattr(backend, "check_compiler", lambda _: None)
    trainer = Trainer(made(Pair), TensorImages(X), TrainConfig(steps=3, batch_size=10, compile="on"))
    trainer.step()
    assert trainer.compiled
    assert wrappers == [True, False]


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
