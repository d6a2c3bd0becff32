"""`probgen elbo`: the terms of the bound, with their numbers."""

from pathlib import Path
from typing import Any

from probgen.commands.common import check_num, need_density, open_run, output_file, save_picture
from probgen.commands.evaluate import MOST_PARTICLES
from probgen.errors import UserError
from probgen.inference.elbo import elbo_terms
from probgen.plots import figure_png


def elbo_run(
    path: Path,
    *,
    split: str,
    num: int | None,
    index: int | None,
    particles: int,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
    out: Path | None = None,
) -> dict[str, Any]:
    """The terms of the ELBO, of one image or on average over `num`; their picture in the file `out`."""
    if out is not None:
        output_file(out, ".png")
    if not 1 <= particles <= MOST_PARTICLES:
        raise UserError(f"--particles {particles} came, expected 1 to {MOST_PARTICLES:,}")
    if num is not None:
        check_num(num)
    opened = open_run(path, model, device, seed)
    images = opened.split(split, data_dir, num)
    if index is not None:
        if not 0 <= index < len(images):
            raise UserError(f"--index {index} came, expected 0 to {len(images) - 1}")
        images = images[index : index + 1]
    need_density(opened, "ELBO")
    terms = elbo_terms(opened.model.model, opened.model.guide, images, particles)
    if out is not None:
        save_picture(out, figure_png(terms.plot()))
    head = {"model": opened.run.config.model, "data": opened.run.config.data, "split": split}
    each = {} if opened.run.config.vocabulary is None else {"each": "sentence"}
    return head | each | terms.to_json()
