"""Freed memory stays with the process once it was asked to keep it, and goes back before."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probgen.inference import heap, trainer
from probgen.inference.batches import TensorImages
from probgen.inference.training import TrainConfig
from probgen.models import VAE

BLOCKS = 256  # of 1 MiB: far above what the start of a Python may leave behind
PROGRAM = f"""
import os, runpy, sys
own = runpy.run_path({heap.__file__!r})  # alone: importing the package would load torch

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "keep":
    own["keep_freed_memory"]()
before = resident()
blocks = [bytearray(b"x") * 2**20 for _ in range({BLOCKS})]
del blocks
print((resident() - before) / 2**20 / {BLOCKS})
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
@pytest.mark.parametrize(("asked", "keeps"), [("keep", True), ("no", False)])
def test_freed_memory_is_kept_when_asked_for(asked, keeps):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", PROGRAM, asked]
    done = subprocess.run(command, env=plain, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert (float(done.stdout) > 0.75) is keeps
    assert (float(done.stdout) < 0.25) is not keeps


@pytest.mark.parametrize("where", ["another libc", "a user's own choice"])
def test_elsewhere_nothing_happens(monkeypatch, where):
    if where == "another libc":
        monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    else:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    heap.keep_freed_memory()


def test_a_trainer_asks_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: asked.append(True))
    images = TensorImages(torch.zeros(4, 1, 2, 2))
    trainer.Trainer(VAE((1, 2, 2), 2, latent_dim=1, hidden=(2,)), images, TrainConfig(1))
    assert asked == [True]
