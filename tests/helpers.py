"""The command line run in this process, and small runs that the tests share."""

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

SHARED = Path(tempfile.mkdtemp(prefix="probgen-tests-"))
atexit.register(shutil.rmtree, SHARED, ignore_errors=True)

SMALL = ("--steps", 3, "--batch-size", 32, "--set", "hidden=16")


class Result(NamedTuple):
    """What one command gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.stdout.splitlines()[-1])


def probgen(*args: object) -> Result:
    """Run `probgen ARGS…` in this process; any exception but SystemExit is the test's failure."""
    from probgen.cli import run

    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    argv = ["probgen", *map(str, args)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Result(code, stdout.getvalue(), stderr.getvalue())


def ok(*args: object) -> Result:
    """Run a command that must succeed."""
    result = probgen(*args)
    assert result.code == 0, result
    assert "Traceback" not in result.stderr
    return result


def refused(*args: object, says: str | tuple[str, ...] = ()) -> str:
    """Run a command that must exit with 2 and say why in one line on stderr, with each text of `says` in it."""
    return check_refusal(probgen(*args), says)


def check_refusal(result: Result, says: str | tuple[str, ...] = ()) -> str:
    """One line on stderr, nothing on stdout, exit code 2; gives the line."""
    assert result.code == 2, result
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("probgen: ")
    assert result.stdout == ""
    for text in (says,) if isinstance(says, str) else says:
        assert text in result.stderr, f"{text!r} is not in {result.stderr!r}"
    return result.stderr


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    """`probgen ARGS…` as a process of its own."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "probgen", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{"env": environment, **pipes, **options})


def finish(process: subprocess.Popen[str], timeout: float = 60) -> Result:
    """Wait for a process."""
    stdout, stderr = process.communicate(timeout=timeout)
    return Result(process.returncode, stdout, stderr)


class Killed(BaseException):
    """Nothing can catch it: what a kill is to the code."""


def killed_at(step: int, *args: object) -> None:
    """Train, and die after `step` steps, wherever in a checkpoint's interval that is."""
    from probgen.inference.adversarial.trainer import AdversarialTrainer
    from probgen.inference.trainer import Trainer

    with contextlib.ExitStack() as patches:
        for kind in (Trainer, AdversarialTrainer):
            patches.enter_context(mock.patch.object(kind, "step", mortal(kind.step, step)))
        with contextlib.suppress(Killed):
            probgen("train", *args, "--quiet")
            raise AssertionError(f"the run ended before step {step}")


def mortal(real: Callable[[Any], Any], step: int) -> Callable[[Any], Any]:
    """A trainer's `step` that dies instead of the one after so many."""

    def dying(self: Any) -> Any:
        if self.steps_done == step:
            raise Killed
        return real(self)

    return dying


@functools.cache
def trained(name: str) -> Path:
    """A small run, made once; to be read only."""
    out = SHARED / name
    ok("train", *RUNS[name](), "--out", out, "--quiet")
    return out


def copy_of(name: str, place: Path) -> Path:
    """A small run of one's own, to be spoilt."""
    return Path(shutil.copytree(trained(name), place / "run"))


@functools.cache
def colour_images() -> Path:
    """30 colour pictures of 6 × 9 pixels, as n h w c."""
    file = SHARED / "colour.npz"
    np.savez(file, images=np.random.RandomState(0).randint(0, 256, (30, 6, 9, 3)).astype(np.uint8))
    return file


def pixel_run(model: str) -> tuple[object, ...]:
    """A small model that draws one pixel after the other."""
    return (model, "--data", "digits", "--steps", 3, "--batch-size", 16, "--set", "features=8")


RUNS = {
    "gaussian": lambda: ("gaussian", "--data", "digits"),
    "ppca": lambda: ("ppca", "--data", "digits", "--set", "latent_dim=3"),
    "ppca-2": lambda: ("ppca", "--data", "digits", "--set", "latent_dim=2"),
    "autoencoder": lambda: ("autoencoder", "--data", "digits", "--set", "latent_dim=3", *SMALL),
    "vae": lambda: ("vae", "--data", "digits", "--set", "latent_dim=3", *SMALL),
    "vae-2": lambda: ("vae", "--data", "digits", "--set", "latent_dim=2", *SMALL),
    "vae-conv": lambda: ("vae", "--data", "digits", "--set", "network=conv", "--set", "latent_dim=3", *SMALL),
    "vae-dynamic": lambda: ("vae", "--data", "digits", "--binarize", "dynamic", "--set", "latent_dim=3", *SMALL),
    "vae-static": lambda: ("vae", "--data", "digits", "--binarize", "static", *SMALL),
    "vae-threshold": lambda: ("vae", "--data", "digits", "--binarize", "threshold", *SMALL),
    "ring-gaussian": lambda: ("gaussian", "--data", "ring:300"),
    "ring-vae": lambda: ("vae", "--data", "ring:300", "--set", "likelihood=gaussian", *SMALL),
    "language": lambda: ("language", "--data", "sea-log", "--steps", 3, "--set", "features=16"),
    "language-words": lambda: ("language", "--data", "sea-log:words", "--steps", 3, "--set", "features=16"),
    "colour": lambda: ("vae", "--data", colour_images(), "--set", "network=conv", "--set", "latent_dim=3", *SMALL),
}
PIXEL_RUNS = ("pixelcnn", "gated-pixelcnn", "row-lstm", "diagonal-bilstm", "raster-lstm")
RUNS |= {name: functools.partial(pixel_run, name) for name in PIXEL_RUNS}
RUNS["pixelcnn-label"] = lambda: (*pixel_run("pixelcnn"), "--lr", 0.1, "--set", "condition=label", "--set", "blocks=1")
RUNS["vae-pixelcnn"] = lambda: (*RUNS["vae"](), "--set", "likelihood=pixelcnn", "--set", "pixelcnn_features=4")
IMAGE_RUNS = sorted(name for name in RUNS if not name.startswith("language"))


def picture(file: Path) -> np.ndarray:
    """A picture's pixels; fails where they are all alike."""
    with Image.open(file) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.min() < pixels.max(), f"{file} is blank"
    return pixels


def content(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def records(run: Path) -> list[dict[str, Any]]:
    """What a run has noted of its steps."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
