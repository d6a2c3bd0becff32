"""`probgen diagnose`: is the guide any good? Its draws beside those of NUTS, for one image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from probgen.commands.common import need_density, open_run
from probgen.errors import UserError
from probgen.files import make_directory, write_atomic
from probgen.inference.arviz_bridge import FEWEST_DRAWS, FEWEST_WEIGHTS, netcdf
from probgen.inference.diagnostics import Diagnosis, diagnose
from probgen.inference.nuts import check_posterior
from probgen.plots import figure_png, posterior

RESULT = "diagnosis.json"


@dataclass(frozen=True)
class Sampling:
    """How long to draw, and where chains start."""

    chains: int = 4
    samples: int = 500
    warmup: int = 500
    particles: int = 1000
    start: str = "guide"

    def check(self) -> None:
        """Raise UserError for numbers from which nothing can be told."""
        limits = {
            "chains": (1, 100),
            "samples": (FEWEST_DRAWS, 1_000_000),
            "warmup": (0, 1_000_000),
            "particles": (FEWEST_WEIGHTS, 1_000_000),
        }
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} {getattr(self, name)} came, expected {least} to {most:,}")
        if self.start not in ("guide", "prior"):
            raise UserError(f"--start {self.start} came, expected guide or prior")


def diagnose_run(
    path: Path,
    index: int,
    out: Path,
    *,
    split: str = "test",
    sampling: Sampling = Sampling(),
    seed: int = 0,
    data_dir: Path | None = None,
    model: str | None = None,
    device: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """Diagnose the guide of image `index` of a split, and write numbers, figures and draws into `out`."""
    sampling.check()
    check_out(out)
    opened = open_run(path, model, device, seed)
    images = opened.split(split, data_dir)
    if not 0 <= index < len(images):
        raise UserError(f"--index {index} came, expected 0 to {len(images) - 1}")
    pair, image = opened.model, images[index : index + 1]
    need_density(opened, "posterior to compare a guide with")
    check_posterior(pair.model, pair.guide, image)
    make_directory(out)
    diagnosis = diagnose(
        pair.model,
        pair.guide,
        image,
        num_chains=sampling.chains,
        num_samples=sampling.samples,
        warmup=sampling.warmup,
        num_particles=sampling.particles,
        start=sampling.start,
        seed=seed,
        progress=not quiet,
    )
    config = opened.run.config
    result = {"model": config.model, "data": config.data, "split": split, "index": index} | diagnosis.to_json()
    return result | {"files": write(out, diagnosis, result)}


def check_out(out: Path) -> None:
    """A new or empty directory, or one of a former diagnosis. Raises UserError for any other."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file, expected a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / RESULT).is_file():
        raise UserError(f"--out {out} exists and holds no diagnosis: choose another directory")


def write(out: Path, diagnosis: Diagnosis, result: dict[str, Any]) -> list[str]:
    """The figures, the draws where a library writes NetCDF, and the numbers; gives the names of the files."""
    figures: dict[str, Figure] = {
        "marginals.png": posterior.marginals(diagnosis),
        "pairs.png": posterior.pairs(diagnosis),
        "trace.png": posterior.chains(diagnosis),
    }
    contents = {name: figure_png(figure) for name, figure in figures.items()}
    if (draws := netcdf(diagnosis.to_arviz())) is not None:
        contents["posterior.nc"] = draws
    contents[RESULT] = (json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    for name, content in contents.items():
        write_atomic(out / name, content)
    return list(contents)
