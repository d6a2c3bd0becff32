"""Small runs of every family, compared once for all tests."""

import functools
import json
from pathlib import Path

from helpers import SHARED, ok, trained

SMALL = ("--num", 20, "--particles", 5, "--samples", 60)
FAMILIES = ("gaussian", "vae", "pixelcnn", "autoencoder", "gan")
TOUR = (Path(__file__).parent.parent / "docs" / "tour.md").read_text()


@functools.cache
def run_of(name):
    """A small run of `helpers`, or a sampler."""
    if name not in ("gan", "ring-gan"):
        return trained(name)
    data = "ring:300" if name.startswith("ring") else "digits"
    ok("train", "gan", "--data", data, "--steps", 3, "--out", SHARED / "samplers" / name, "--quiet")
    return SHARED / "samplers" / name


@functools.cache
def compared(*names):
    """A comparison made once: its directory, and what was printed."""
    out = SHARED / f"comparison-{'-'.join(names)}"
    result = ok("compare", *map(run_of, names), "--out", out, *SMALL)
    return out, result


def record_of(*names):
    return json.loads((compared(*names)[0] / "comparison.json").read_text())


def rows_of(*names):
    return dict(zip(names, record_of(*names)["runs"], strict=True))
