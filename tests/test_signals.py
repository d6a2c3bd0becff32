"""SIGTERM at any moment of training: it stops like Ctrl-C or at once, and the run ends as if it had never come."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from helpers import finish, ok, probgen, trained

import probgen.commands.recorder as recorder
import probgen.commands.train as train_command
from probgen.inference.trainer import Trainer

STEPS = 14
TRAIN = (
    "vae", "--data", "digits", "--batch-size", 300, "--steps", STEPS, "--binarize", "dynamic", "--ema", 0.9,
    "--set", "latent_dim=2", "--set", "hidden=16",
)  # fmt: skip
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])

AT_A_CALL = """
import os, signal, sys
import probgen.commands.recorder as recorder
import probgen.commands.train as train
import probgen.runs
from probgen.cli import run
from probgen.inference.trainer import Trainer

recorder.SECONDS_BETWEEN_CHECKPOINTS = 0.0
place, name, number = {place}, {name!r}, {number}
real = getattr(place, name)

def struck(*args, **options):
    if name != "step" or args[0].steps_done == 5:
        os.kill(os.getpid(), number)
    return real(*args, **options)

setattr(place, name, struck)
run()
"""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for name in ("vae", "gaussian"):  # before: other tests look at their pictures
        trained(name)
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(recorder, "draw_progress", lambda *_: None)
    monkeypatch.setattr(train_command, "draw_progress", lambda *_: None)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The weights of a run that nothing stopped."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    ok("train", *TRAIN, "--out", run, "--quiet")
    return (run / "weights.safetensors").read_bytes()


def check_resumable(run, unbroken):
    """Nothing half-written lies there; resumed, the run ends with the weights of one that was never stopped."""
    assert [p.name for p in run.rglob("*.tmp")] == []
    ok("train", "--out", run, "--resume", "--quiet")
    assert (run / "weights.safetensors").read_bytes() == unbroken


def steps_done(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["steps_done"]


def strike(monkeypatch, place, name, number, *, times=1, when=lambda *_: True):
    """Raise a signal so many times in a row whenever a function is called."""
    real = getattr(place, name)

    def struck(*args, **options):
        if when(*args):
            for _ in range(times):
                signal.raise_signal(number)
        return real(*args, **options)

    monkeypatch.setattr(place, name, struck)


def in_a_process(place, name, number, *args):
    """`probgen ARGS…` in a process of its own, which gets the signal when it calls `place.name`."""
    script = AT_A_CALL.format(place=place, name=name, number=int(number))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script, *map(str, args)]
    return finish(subprocess.Popen(command, env=environment, **pipes))


@BOTH
def test_one_signal_stops_after_the_step_saves_and_says_how_to_go_on(number, tmp_path, monkeypatch, unbroken):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        strike(patch, Trainer, "step", number, when=lambda trainer: trainer.steps_done == 5)
        result = probgen("train", *TRAIN, "--out", run)
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.splitlines() == [
        f"stopped after step 6, saved; go on with: probgen train --out {run} --resume"
    ]
    assert steps_done(run) == 6
    check_resumable(run, unbroken)


@BOTH
def test_a_second_signal_does_not_wait_for_the_step(number, tmp_path, monkeypatch, unbroken):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        strike(patch, Trainer, "step", number, times=2, when=lambda trainer: trainer.steps_done == 5)
        result = probgen("train", *TRAIN, "--out", run)
    assert result.code == 130
    assert "Traceback" not in result.stderr
    assert steps_done(run) == 5
    check_resumable(run, unbroken)


@pytest.mark.parametrize("name", ["replace", "fsync"])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_while_a_file_is_written(name, times, tmp_path, monkeypatch, unbroken):
    """Before its bytes are on the disk, and before the rename; the second leaves the file as it was."""
    run, written = tmp_path / "run", []
    with monkeypatch.context() as patch:
        strike(patch, os, name, signal.SIGTERM, times=times, when=lambda *_: written.append(0) or len(written) == 9)
        result = probgen("train", *TRAIN, "--out", run, "--quiet")
    assert result.code == 130
    assert steps_done(run) < STEPS
    ok("evaluate", run, "--num", 3, "--method", "elbo")
    check_resumable(run, unbroken)


def test_a_signal_in_the_last_step_comes_too_late(tmp_path, monkeypatch, unbroken):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        strike(patch, Trainer, "step", signal.SIGTERM, when=lambda trainer: trainer.steps_done == STEPS - 1)
        result = probgen("train", *TRAIN, "--out", run, "--quiet", "--json")
    assert (result.code, result.json["finished"]) == (0, True)
    check_resumable(run, unbroken)


def test_a_process_stops_at_sigterm(tmp_path, unbroken):
    run = tmp_path / "run"
    result = in_a_process("Trainer", "step", signal.SIGTERM, "train", *TRAIN, "--out", run)
    assert result.code == 130
    assert len(result.stderr.splitlines()) == 1
    assert steps_done(run) == 6
    check_resumable(run, unbroken)


def test_sigterm_before_there_is_a_run_leaves_nothing(tmp_path):
    """Not handled yet, since there is nothing to save: the process ends as any other does."""
    result = in_a_process("train", "load_data", signal.SIGTERM, "train", *TRAIN, "--out", tmp_path / "run")
    assert result.code == -signal.SIGTERM
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_sigterm_before_a_closed_form_is_saved_leaves_a_run_to_resume(tmp_path):
    run = tmp_path / "run"
    command = ("train", "gaussian", "--data", "digits", "--out", run)
    result = in_a_process("probgen.runs.Run", "save_weights", signal.SIGTERM, *command)
    assert result.code == -signal.SIGTERM
    assert not (run / "weights.safetensors").exists()
    check_resumable(run, (trained("gaussian") / "weights.safetensors").read_bytes())
