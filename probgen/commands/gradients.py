"""`probgen gradients`: the reparameterized and the score-function gradient of the same ELBO."""

from pathlib import Path
from typing import Any

import torch

from probgen.commands.common import OpenedRun, check_num, need_density, open_run, output_file, save_picture
from probgen.errors import UserError
from probgen.inference.adversarial.saturation import generator_gradients, generator_norms
from probgen.inference.gradients import FEWEST_DRAWS, compare_gradients
from probgen.models.contracts import Kind, kind_of
from probgen.plots import figure_png, gradients_figure, saturation_figure

MOST_DRAWS = 100_000
SHOWN = (0.5, 0.1, 0.01, 1e-3, 1e-6)  # values of D(G(z)) in the table


def gradients_run(
    path: Path,
    out: Path | None,
    *,
    num: int,
    draws: int,
    split: str,
    data_dir: Path | None,
    model: str | None,
    device: str,
    seed: int,
    quiet: bool = True,
) -> dict[str, Any]:
    """Both estimators of the gradient of the mean ELBO of the first `num` images; their picture in `out`."""
    if out is not None:
        output_file(out, ".png")
    check_num(num)
    if not FEWEST_DRAWS <= draws <= MOST_DRAWS:
        raise UserError(f"--draws {draws} came, expected {FEWEST_DRAWS} to {MOST_DRAWS:,}")
    opened = open_run(path, model, device, seed)
    if kind_of(opened.model) is Kind.IMPLICIT:
        return adversarial(opened, out, draws)
    need_density(opened, "ELBO")
    pair, images = opened.model, opened.split(split, data_dir, num)
    comparison = compare_gradients(pair.model, pair.guide, images, list(pair.parameters()), draws, progress=not quiet)
    if out is not None:
        save_picture(out, figure_png(gradients_figure(comparison)))
    config = opened.run.config
    head = {"model": config.model, "data": config.data, "split": split, "num_images": len(images)}
    return head | comparison.to_json()


def adversarial(opened: OpenedRun, out: Path | None, draws: int) -> dict[str, Any]:
    """What is left of the generator's gradient as D(G(z)) → 0, exactly; and how large it is for this run's players."""
    exact = generator_gradients(torch.tensor(SHOWN, dtype=torch.float64))
    if out is not None:
        save_picture(out, figure_png(saturation_figure(generator_gradients())))
    config = opened.run.config
    head = {"model": config.model, "data": config.data, "loss": opened.model.objective.loss}
    return head | {"saturation": exact.to_json(), "players": generator_norms(opened.model, draws)}
