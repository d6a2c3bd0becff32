"""Memory of training, in a fresh process: how it grows with the steps, and with the size of a memory-mapped file.

    python -m benchmarks.memory STEPS FILE.npy      # one measurement, in JSON

Anonymous memory is what the process holds; pages of the mapped file the system takes back when it wants them.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, FailedError, environment

SIDE = 28
KIB_KEYS = {"RssAnon": "anonymous", "RssFile": "file", "VmHWM": "peak"}
DISK = "/var/tmp" if Path("/var/tmp").is_dir() else None  # /tmp may be memory itself
EARLY = 100  # steps after which everything that is made once has been made


def held() -> dict[str, float]:
    """MiB of this process: anonymous, of files (libraries included), and the highest sum so far."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {KIB_KEYS[words[0][:-1]]: int(words[1]) / 1024 for words in lines if words[0][:-1] in KIB_KEYS}


def sparse_file(path: Path, megabytes: int) -> Path:
    """Black images but for one pixel, so that the file is grey; they take no room on the disk."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (megabytes * 10**6 // SIDE**2, SIDE, SIDE))
    images[0, 0, 0] = 255
    images.flush()
    return path


def measure(steps: int, path: Path) -> dict[str, float]:
    """Train a small VAE on the images of a file, as `probgen train` does, and look every tenth step."""
    from probgen.data import load_data
    from probgen.inference.loop import Loop, Recorder
    from probgen.inference.trainer import TrainConfig, Trainer
    from probgen.models import VAE

    data = load_data(path, binarize="dynamic")
    vae = VAE(data.image_shape, data.levels, latent_dim=8, hidden=(64,))
    seen: dict[int, dict[str, float]] = {}

    class Watch(Recorder):
        """Looks at the process."""

        def stepped(self, loop: Loop) -> None:
            done = loop.trainer.steps_done
            if done % 10 == 0 or done == steps:
                seen[done] = held()

    Loop(Trainer(vae, data.train, TrainConfig(steps, batch_size=64)), recorder=Watch(), quiet=True).run()
    early = seen[min(seen, key=lambda done: abs(done - EARLY))]
    most = {key: max(look[key] for look in seen.values()) for key in early}
    return {**most, "growth": seen[steps]["anonymous"] - early["anonymous"]}


def fresh(steps: int, path: Path, threads: int) -> dict[str, float]:
    """`measure` in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", str(steps), str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(threads), capture_output=True, text=True)
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or ["no reason given"])[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


def settings(quick: bool) -> Iterator[tuple[int, int]]:
    """Pairs of steps and megabytes of the file; the first is what the others are compared with."""
    few, many, small, large = (20, 40, 1, 2) if quick else (200, 4000, 100, 2000)
    yield from [(few, small), (many, small), (few, large), (many, large)]


def main() -> None:
    found: dict[str, Any] = measure(int(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
