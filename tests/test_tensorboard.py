"""TensorBoard is shown what metrics.jsonl holds: the same numbers at the same steps, once each."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import finish, ok, probgen, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import probgen.commands.recorder as recorder
import probgen.commands.train as train_command
from probgen.inference.trainer import Trainer

TRAIN = ("vae", "--data", "digits", "--batch-size", 300, "--set", "latent_dim=2", "--set", "hidden=16", "--quiet")
NO_NUMBERS = ("step", "split", "time", "seconds", "epoch")

SUDDEN = """
import os, signal
import probgen.commands.recorder as recorder
from probgen.cli import run
from probgen.inference.trainer import Trainer

recorder.SECONDS_BETWEEN_CHECKPOINTS = 0.0
step = Trainer.step
Trainer.step = lambda self: os.kill(os.getpid(), signal.SIGKILL) if self.steps_done == 6 else step(self)
run()
"""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    trained("vae")  # before: other tests look at its pictures
    monkeypatch.setattr(recorder, "draw_progress", lambda *_: None)
    monkeypatch.setattr(train_command, "draw_progress", lambda *_: None)


def shown(run):
    """By tag, the steps and values that TensorBoard shows."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def written(run):
    """The same of metrics.jsonl."""
    curves = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name in record.keys() - set(NO_NUMBERS):
            curves.setdefault(f"{name}/{record['split']}", []).append((record["step"], record[name]))
    return curves


def check_same(run):
    """TensorBoard's are float32."""
    came, expected = shown(run), written(run)
    assert came.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in came[tag]] == [step for step, _ in points], tag
        assert [value for _, value in came[tag]] == pytest.approx([value for _, value in points], rel=1e-6), tag


def killed_after(step, *args):
    """Train, until an exception that nothing catches."""

    class Killed(BaseException):
        pass

    real = Trainer.step

    def mortal(self):
        if self.steps_done == step:
            raise Killed
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", mortal)
        with pytest.raises(Killed):
            probgen("train", *args)


@pytest.mark.parametrize("options", [(), ("--ema", 0.9, "--schedule", "cosine", "--binarize", "dynamic")])
def test_scalars_are_the_metrics(options, tmp_path):
    ok("train", *TRAIN, "--steps", 12, *options, "--out", tmp_path / "run")
    check_same(tmp_path / "run")
    tags = shown(tmp_path / "run").keys()
    assert tags >= {
        "loss/train",
        "elbo/train",
        "kl/train",
        "lr/train",
        "loss/valid",
        "elbo/valid",
        "active_units/valid",
    }
    assert len(shown(tmp_path / "run")["elbo/train"]) == 12


def test_a_point_that_is_missing_or_changed_is_noticed(tmp_path):
    ok("train", *TRAIN, "--steps", 6, "--out", tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    changed = json.loads(lines[2])
    changed["elbo"] += 0.01
    for wrong in (lines[:2] + lines[3:], [*lines[:2], json.dumps(changed) + "\n", *lines[3:]]):
        file.write_text("".join(wrong))
        with pytest.raises(AssertionError):
            check_same(tmp_path / "run")


@pytest.mark.parametrize("every", [0.0, 1e9], ids=["checkpoints", "none but the first"])
def test_after_resuming_every_step_is_shown_once(every, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_CHECKPOINTS", every)
    run = tmp_path / "run"
    killed_after(5, *TRAIN, "--steps", 12, "--out", run)
    ok("train", "--out", run, "--resume", "--quiet")
    check_same(run)


def test_a_kill_takes_no_points_that_the_checkpoint_has(tmp_path):
    """A real one, of a process: what were left in a buffer would be lost."""
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", SUDDEN, "train", *map(str, TRAIN), "--steps", "12", "--out", str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    assert finish(subprocess.Popen(command, env=environment, **pipes)).code == -signal.SIGKILL
    time.sleep(1.1)  # event files are read in the order of the seconds in their names
    ok("train", "--out", run, "--resume", "--quiet")
    check_same(run)


def test_overwriting_leaves_none_of_the_former_runs_points(tmp_path):
    run = tmp_path / "run"
    ok("train", *TRAIN, "--steps", 12, "--out", run)
    ok("train", *TRAIN, "--steps", 4, "--out", run, "--overwrite")
    check_same(run)
