"""Bounds by recorded and compiled functions are Pyro's: the same numbers for the same noise."""

import functools
import math

import pyro
import pytest
import torch
from helpers import trained
from hypothesis import given
from hypothesis import strategies as st
from oracles import LinearGaussian
from recordable_pairs import (
    CONTINUOUS,
    DOUBLE,
    ZOO,
    Flow,
    TwoLatents,
    check_same,
    images,
    recording_only,
    seeded,
)

import probgen.commands.evaluate as command
from probgen.inference import ais, annealing, bdmc, evidence, iwae
from probgen.inference.annealed_path import AnnealedPath, CompiledDynamics
from probgen.inference.annealing import Settings, annealed
from probgen.inference.compiled.evaluation import Evaluation, alike_each, repays
from probgen.inference.evidence import even_parts, log_weights
from probgen.inference.gaps import inference_gaps
from probgen.inference.traces import evaluating
from probgen.models import VAE, ProbabilisticPCA


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def recorded(programs, told=None):
    """Everything recorded, nothing compiled: the numbers are Pyro's to the last digits."""
    return Evaluation(programs, "on", (told if told is not None else []).append, machine_code=False)


def weights_of(pair, x, k, evaluation):
    return evidence.Weights(pair.model, pair.guide, x, evidence.Counter({(len(x), k): 3}), evaluation)


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("kind", ZOO)
def test_recorded_weights_are_pyros(kind, num_particles):
    pair, told = kind(), []
    with evaluating(pair.model, pair.guide), torch.no_grad():
        log_weights(pair.model, pair.guide, images(pair), 1)
        run = weights_of(pair, images(pair), num_particles, recorded([pair.model, pair.guide], told))
        for x in (images(pair), images(pair)):
            check_same(seeded(run, x, num_particles), seeded(log_weights, pair.model, pair.guide, x, num_particles))
    assert told == []
    assert (x.shape[0], num_particles) in run.steps


WAYS = [(kind, end) for kind in CONTINUOUS for end in (False, True)]


# Pyro inverts an autoregressive flow by looks at its order: such chains from the guide are left to it.
@pytest.mark.parametrize(("kind", "from_the_guide"), [way for way in WAYS if way != (Flow, True)])
def test_recorded_steps_along_the_path_are_pyros(kind, from_the_guide):
    pair, told = kind(), []
    guide = pair.guide if from_the_guide else None
    evaluation = recorded([pair.model, *([guide] if guide else [])], told)
    with evaluating(pair.model), pyro.validation_enabled(False):
        for x in (images(pair).double(), images(pair).double() / 2):  # the second is only compared
            eager, ours = AnnealedPath(pair.model, guide, x), AnnealedPath(pair.model, guide, x)
            state = eager.start()
            ours.prepare(evaluation, state, 1)
            for beta in (0.0, 0.3, 1.0):
                dynamics = ours.log_density(beta), eager.log_density(beta)
                assert isinstance(dynamics[0], CompiledDynamics)
                check_same(*(d(state) for d in dynamics))
                check_same(*(d.value_and_gradient(state) for d in dynamics))
                moving = [torch.randn_like(u) for u in state], [torch.randn_like(u) for u in state]
                sizes = torch.rand(len(x), dtype=DOUBLE)
                check_same(*(d.leapfrog(state, *moving, sizes) for d in dynamics))
            check_same(ours.log_ratio(state), eager.log_ratio(state))
    assert told == []
    assert len(evaluation.recorded) == 1


@pytest.mark.parametrize("schedule", ["sigmoidal", "adaptive"])
def test_recorded_annealing_is_pyros(monkeypatch, schedule):
    """In chunks of images, the last one smaller; the pilots' chains are fewer than the run's."""
    monkeypatch.setattr(annealing, "SETTLING", 2)
    monkeypatch.setattr(annealing, "CHUNK", 12)
    pair = TwoLatents()
    settings = Settings(6, 4, 2, schedule)
    run = lambda e: annealed(pair.model, None, images(pair, 5), None, settings, e)  # noqa: E731
    evaluation = recorded([pair.model])
    ours, pyros = (seeded(run, e) for e in (evaluation, Evaluation([pair.model], "off")))
    check_same(ours[0].estimate.per_image, pyros[0].estimate.per_image)
    check_same(ours[0].acceptance, pyros[0].acceptance)
    assert ours[1] == pyros[1]
    assert evaluation.not_compiled is None
    assert len(evaluation.recorded) == 4  # 2 images or 1, 4 chains or 6


def test_machine_code_gives_the_exact_evidence_of_a_linear_gaussian():
    """With the posterior as guide every weight is the evidence."""
    pair, told = ProbabilisticPCA((3,), latent_dim=2).double(), []
    x = images(pair, 4)
    bound, after = seeded(iwae, pair.model, pair.guide, x, 30, compile="on", tell=told.append)
    torch.testing.assert_close(bound.per_image, pair.log_prob(x).detach())
    assert after == seeded(iwae, pair.model, pair.guide, x, 30, compile="off")[1]
    assert told == []


def test_machine_code_draws_the_generators_noise():
    pair, told = TwoLatents(), []
    options = {"tell": told.append, "diagnose": False}
    ours, pyros = (seeded(iwae, pair.model, pair.guide, images(pair), 5, compile=c, **options) for c in ("on", "off"))
    check_same((ours[0].per_image, ours[1]), (pyros[0].per_image, pyros[1]))
    assert told == []


def test_machine_code_anneals_as_pyro_does():
    """Both ends; step sizes among its inputs are columns of a matrix, and the code is for one layout in memory."""
    pair, told = LinearGaussian(), []
    options = {"num_chains": 2, "num_distributions": 5, "num_leapfrog": 2, "tell": told.append}
    ours, pyros = (seeded(bdmc, pair.model, 3, pair.data(1), compile=c, **options) for c in ("on", "off"))
    for name in ("lower", "upper"):
        check_same(getattr(ours[0], name).per_image, getattr(pyros[0], name).per_image)
    assert ours[1] == pyros[1]
    assert told == []


@pytest.mark.parametrize("method", [None, "ais", "bdmc"])
def test_evaluate_says_the_same_either_way(monkeypatch, method):
    recording_only(monkeypatch)
    monkeypatch.setattr(annealing, "SETTLING", 3)
    monkeypatch.setattr(command, "inference_gaps", functools.partial(inference_gaps, steps=2, num_final=10))
    torch.set_default_dtype(torch.float32)
    found = [evaluated(method, compile) for compile in ("on", "off")]
    assert found[0].keys() == found[1].keys()
    for name, estimate in found[0].items():
        assert estimate["value"] == pytest.approx(found[1][name]["value"], rel=1e-4)


def evaluated(method, compile):
    """The estimates of a trained VAE."""
    options = {"split": "test", "num": 4, "data_dir": None, "model": None, "device": "cpu", "seed": 0}
    short = {"particles": 4, "annealing": command.Annealing(chains=2, distributions=4)}
    return command.evaluate_run(trained("vae"), method=method, compile=compile, **options, **short)["estimates"]


def test_only_what_repays_is_compiled(monkeypatch):
    def never(*_):
        raise AssertionError("compiled")

    monkeypatch.setattr(Evaluation, "best", never)
    pair = LinearGaussian()
    for compile in ("auto", "off"):
        iwae(pair.model, pair.guide, pair.data(4), 100, compile=compile)
        ais(pair.model, pair.data(2), num_chains=2, num_distributions=4, num_leapfrog=1, compile=compile)
    with pytest.raises(AssertionError, match="compiled"):
        iwae(pair.model, pair.guide, pair.data(4), 100, compile="on")
    large = VAE((1, 28, 28), 2, latent_dim=50, hidden=(400,))
    evaluation = Evaluation([large.model, large.guide], "auto")
    calls, rows = 8 * 10_000, 625  # 5000 particles of MNIST's test images
    assert evaluation.wanted(calls, rows)
    assert not evaluation.wanted(calls // 100, rows)
    assert not Evaluation([large.model], "off").wanted(calls, rows)
    assert repays(20_000, 10, 10)  # of a small model, the time in Pyro's handlers alone


@given(st.integers(1, 300), st.integers(1, 60))
def test_parts_are_even_and_few(total, most):
    parts = even_parts(total, most)
    assert sum(parts) == total
    assert max(parts) <= most
    assert max(parts) - min(parts) <= 1
    assert len(parts) <= 1.5 * math.ceil(total / most)


def test_a_share_of_large_errors_is_no_rounding():
    a = torch.linspace(-1, 1, 300, dtype=DOUBLE)
    kinked, shifted, broken = a.clone(), a + 1e-3, a.clone()
    kinked[:2] += 1
    broken[0] = math.nan
    assert alike_each(a, a + 1e-12, 1e-9)
    assert alike_each(a, kinked, 1e-9)
    assert alike_each(broken, broken, 1e-9)
    assert not alike_each(a, shifted, 1e-9)
    assert not alike_each(a, broken, 1e-9)
