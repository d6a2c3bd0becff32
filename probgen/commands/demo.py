"""`probgen demo`: every kind of model on real handwritten digits, pictures, and one table."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probgen import plots
from probgen.commands.common import OpenedRun, open_run
from probgen.commands.compare import compare_runs
from probgen.commands.elbo import elbo_run
from probgen.commands.evaluate import evaluate_run
from probgen.commands.pixels import complete_run
from probgen.commands.sample import reconstruct_run, sample_run
from probgen.commands.texts import sample_sentences
from probgen.commands.train import train
from probgen.commands.traverse import traverse_run
from probgen.console import stderr_console, stdout_console
from probgen.errors import UserError
from probgen.files import make_directory, write_atomic
from probgen.inference.elbo import elbo_terms
from probgen.tables import comparison, print_elbo

MAIN = "vae"
RUNS: Mapping[str, Mapping[str, Any]] = {
    "gaussian": {},
    "ppca": {"options": {"latent_dim": 16}},
    "autoencoder": {"epochs": 100, "options": {"latent_dim": 16}},
    "vae": {
        "epochs": 200,
        "lr": 2e-3,
        "schedule": "cosine",
        "options": {"latent_dim": 16, "network": "conv", "hidden": (32, 64)},
    },
    "pixelcnn": {
        "epochs": 40,
        "batch_size": 32,
        "lr": 3e-3,
        "schedule": "cosine",
        "options": {"features": 24, "blocks": 3},
    },
    "gan": {
        "steps": 2500,
        "batch_size": 64,
        "ema": 0.995,
        "schedule": "cosine",
        "options": {"hidden": (256, 256)},
    },
    "language": {
        "data": "sea-log:words",
        "epochs": 40,
        "batch_size": 16,
        "lr": 3e-3,
        "schedule": "cosine",
        "options": {"dropout": 0.5},
    },
}
COMPARED = ("vae", "pixelcnn", "gan")
PARTICLES = 500
PROMPT = "The wind"


def run_demo(out: Path, *, quiet: bool = False) -> None:
    """Train, evaluate and picture each model into `out`; a former demo there is replaced."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / "results.json").is_file():
        raise UserError(f"{out} exists and is no demo: choose another --out")
    make_directory(out)
    started, console = time.time(), stderr_console()
    write_atomic(out / "results.json", b"{}\n")
    results = {}
    for name, given in RUNS.items():
        if not quiet:
            console.print(f"[bold]{name}[/bold] on {given.get('data', 'digits')} …")
        results[name] = one_model(name, given, out, quiet)
    write_atomic(out / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    picture(out)
    if not quiet:
        console.print(f"comparing {', '.join(COMPARED)} …")
    compare(out, quiet)
    table = comparison(results)
    write_atomic(out / "table.txt", (table + "\n").encode())
    print_elbo(elbo_of(out))
    stdout_console().print(f"\n{table}\n", markup=False)
    stdout_console().print(f"{PROMPT} … (its sentences, drawn word by word)")
    for sentence in sentences(out):
        stdout_console().print(f"  {sentence}", markup=False, highlight=False)
    if not quiet:
        files = ", ".join(sorted(path.name for path in out.glob("*.*")))
        console.print(f"all in {time.time() - started:.0f} s; look at {out}/: {files}", highlight=False, markup=False)


def compare(out: Path, quiet: bool) -> None:
    """Models of three kinds, exact, bound and none, on one page."""
    request = {"samples": None, "particles": PARTICLES, "num": None, "data_dir": None, "model": None}
    runs = [out / "runs" / name for name in COMPARED]
    compare_runs(runs, out / "comparison", split="test", seed=0, device="cpu", quiet=True, **request)


def one_model(name: str, given: Mapping[str, Any], out: Path, quiet: bool) -> dict[str, Any]:
    """Train and evaluate one model in its own run directory."""
    place = out / "runs" / name
    summary = train(name, {"data": "digits", **given}, place, overwrite=place.exists(), quiet=quiet)
    result = evaluate_run(
        place, split="test", particles=PARTICLES, num=None, data_dir=None, model=None, device="cpu", seed=0
    )
    return result | {"seconds": summary["seconds"]}


def picture(out: Path) -> None:
    """The VAE's pictures, side by side in the demo's folder, the PixelCNN's (completions, a film), and the GAN's."""
    run = out / "runs" / MAIN
    common: dict[str, Any] = {"model": None, "device": "cpu"}
    sample_run(run, 100, out / "samples.png", seed=0, temperature=1.0, mean=False, **common)
    reconstruct_run(run, 20, out / "reconstructions.png", split="test", data_dir=None, **common)
    traverse_run(run, out / "traversals.png", between=None, num=16, data_dir=None, **common)
    traverse_run(run, out / "interpolation.png", between=(0, 1), num=16, data_dir=None, **common)
    shutil.copyfile(run / "pictures" / "curve.png", out / "curve.png")
    write_atomic(out / "elbo_terms.png", terms_picture(open_run(run, None, "cpu", seed=0)))
    pixels, film = out / "runs" / "pixelcnn", out / "pixels.gif"
    sample_run(pixels, 36, out / "pixels.png", seed=0, temperature=1.0, mean=False, animate=film, **common)
    sample_run(out / "runs" / "gan", 100, out / "gan.png", seed=0, temperature=1.0, mean=False, **common)
    complete_run(
        pixels, 8, "top", out / "completions.png", draws=6, split="test", label=None, seed=0, data_dir=None, **common
    )


def sentences(out: Path) -> list[str]:
    """Sentences from the language model, also into a file."""
    unfit: dict[str, Any] = {}
    return sample_sentences(
        out / "runs" / "language", 5, out / "sentences.txt", PROMPT, seed=0, temperature=0.8, model=None, device="cpu",
        unfit=unfit,
    )  # fmt: skip


def terms_picture(opened: OpenedRun) -> bytes:
    """The terms of the ELBO on the test images."""
    terms = elbo_terms(opened.model.model, opened.model.guide, opened.split("test"), 10)
    return plots.figure_png(terms.plot())


def elbo_of(out: Path) -> dict[str, Any]:
    """The VAE's ELBO, averaged over the test images."""
    return elbo_run(
        out / "runs" / MAIN,
        split="test",
        num=None,
        index=None,
        particles=10,
        data_dir=None,
        model=None,
        device="cpu",
        seed=0,
    )
