"""`probgen traverse`: what z does to an image, one dimension after the other, from image to image, or from z to z."""

from pathlib import Path

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from probgen import plots
from probgen.commands.common import OpenedRun, check_num, open_run, output_file
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.checks import sites_of
from probgen.inference.elbo import elbo_terms
from probgen.inference.predict import decode, mean_of
from probgen.inference.traces import as_real, evaluating, sample_sites
from probgen.models.contracts import Kind, kind_of

STEPS = np.linspace(-3, 3, 7)  # standard deviations of the prior that a traversal walks through
MANIFOLD_SIDE = 16
ARC = np.linspace(0, 1, 10).tolist()  # places of a walk from one z to another
MOST_ROWS = 100  # of walks from z to z


def traverse_run(
    path: Path,
    out: Path,
    *,
    between: tuple[int, int] | None,
    num: int,
    data_dir: Path | None,
    model: str | None,
    device: str,
) -> None:
    """What each latent dimension does: one row each, by KL; or from one test image to another; or the plane of z.

    Of an implicit model: `num` walks from one z to another.
    """
    output_file(out, ".png")
    check_num(num, 1000)
    opened = open_run(path, model, device, seed=0)
    levels = need_images(opened)
    if kind_of(opened.model) is Kind.IMPLICIT and between is None:
        return write_atomic(out, wander(opened, check_num(num, MOST_ROWS), levels))
    need_code(opened)
    name, size = only_code(opened)
    images = opened.split("test", data_dir)
    if between is not None:
        picture = interpolation(opened, images, between, levels)
    elif size == 2 and kind_of(opened.model) is not Kind.NONE:
        picture = manifold(opened, name, levels)
    else:
        picture = dimensions(opened, name, images[:1000], num, levels)
    write_atomic(out, picture)


def need_code(opened: OpenedRun) -> None:
    """Raise UserError for a model that finds no code for an image."""
    if kind_of(opened.model) is Kind.IMPLICIT:
        raise UserError(
            f"{opened.run.config.model} has no guide: no z is known for an image, only an image for each z; "
            "probgen traverse without --between walks from one z to another"
        )


@torch.no_grad()
def wander(opened: OpenedRun, num: int, levels: int) -> bytes:
    """Rows of x = G(z), from one z ~ p(z) to another on the arc between them.

    Not on the straight line: its middle is shorter than any z that the generator has seen (White 2016).
    """
    pair, rows, steps = opened.model, num, len(ARC)
    with evaluating(pair), pyro.validation_enabled(False):
        trace = poutine.trace(pair.model).get_trace(2 * rows)
        latent = sample_sites(trace)
        if "z" not in latent or latent["z"]["value"].dim() != 2:
            raise UserError(f"{opened.run.config.model} has no latent vector 'z', expected one to walk along")
        y = latent["y"]["value"][:rows].repeat_interleave(steps) if "y" in latent else None
        start, end = latent["z"]["value"].chunk(2)
        codes = arc(start, end, torch.tensor(ARC).to(start)).flatten(0, 1)
        walk = poutine.condition(pair.model, data={"z": codes})
        images = walk(len(codes)) if y is None else walk(len(codes), y)
    return plots.grid(images, levels, columns=steps)


def arc(start: Tensor, end: Tensor, steps: Tensor) -> Tensor:
    """Spherical interpolation, b d and b d to b steps d: directions on the great circle, lengths linearly."""
    lengths = start.norm(dim=-1), end.norm(dim=-1)
    angle = ((start * end).sum(-1) / (lengths[0] * lengths[1])).clamp(-1 + 1e-6, 1 - 1e-6).acos()[:, None, None]
    first, last = (side / length[:, None] for side, length in zip((start, end), lengths, strict=True))
    t = steps[None, :, None]
    along = (((1 - t) * angle).sin() * first[:, None] + (t * angle).sin() * last[:, None]) / angle.sin()
    return along * torch.lerp(lengths[0][:, None, None], lengths[1][:, None, None], t)


def dimensions(opened: OpenedRun, name: str, images: Tensor, num: int, levels: int) -> bytes:
    """Rows of E[x | z], one dimension of z moved through the prior's range, the others at the first image's code.

    Ordered by the KL of each dimension; without a density, by the variance of its codes, and moved as far.
    """
    codes = mean_codes(opened, images, name)
    kl = kl_of_dimensions(opened, images)
    sizes, unit = (codes.var(0), "variance") if kl is None else (kl, "nats")
    values = torch.as_tensor(STEPS, dtype=codes.dtype, device=opened.device)
    rows, names = [], []
    for dim in sizes.argsort(descending=True)[:num].tolist():
        z = codes[:1].repeat(len(values), 1)
        z[:, dim] = values if kl is not None else codes[:, dim].mean() + values * codes[:, dim].std()
        rows.append(decode(opened.model, {name: z}, len(z), opened.image_shape))
        names.append(f"{name}[{dim}]\n{float(sizes[dim]):.2f} {unit}")
    return plots.traversal(rows, names, STEPS.tolist(), levels)


def kl_of_dimensions(opened: OpenedRun, images: Tensor) -> Tensor | None:
    """The mean KL of each latent dimension; None where there is no density, or it does not factorize."""
    if kind_of(opened.model) is Kind.NONE:
        return None
    per_dim = elbo_terms(opened.model.model, opened.model.guide, images).latent[0].kl_per_dim
    return None if per_dim is None else per_dim.mean(0)


@torch.no_grad()
def mean_codes(opened: OpenedRun, images: Tensor, name: str) -> Tensor:
    """E_q[z] of each image, shape b d; a draw where the guide's distribution does not tell its mean."""
    with evaluating(opened.model):
        node = sample_sites(poutine.trace(opened.model.guide).get_trace(as_real(images)))[name]
    return mean_of(node["fn"], node["value"])


def interpolation(opened: OpenedRun, images: Tensor, between: tuple[int, int], levels: int) -> bytes:
    """On the straight line from one test image's code to another's; the images themselves at the ends."""
    for index in between:
        if not 0 <= index < len(images):
            raise UserError(f"--between {between[0]} {between[1]} came, expected indices 0 to {len(images) - 1}")
    name, _ = only_code(opened)
    ends = images[list(between)]
    codes = mean_codes(opened, ends, name)
    steps = torch.linspace(0, 1, 10, device=opened.device)[:, None]
    z = (1 - steps) * codes[0] + steps * codes[1]
    line = decode(opened.model, {name: z}, len(z), opened.image_shape)
    return plots.grid(torch.cat([ends[:1].float(), line, ends[1:].float()]), levels, columns=12)


def manifold(opened: OpenedRun, name: str, levels: int) -> bytes:
    """E[x | z] over the plane of a two-dimensional code, at equal steps of the prior's probability."""
    places = torch.linspace(0.5 / MANIFOLD_SIDE, 1 - 0.5 / MANIFOLD_SIDE, MANIFOLD_SIDE)
    z = torch.distributions.Normal(0.0, 1.0).icdf(places)
    plane = torch.cartesian_prod(z.flip(0), z).flip(1).to(opened.device)
    return plots.grid(decode(opened.model, {name: plane}, len(plane), opened.image_shape), levels, MANIFOLD_SIDE)


def need_images(opened: OpenedRun) -> int:
    """The number of grey levels. Raises UserError for points, of which there is no such picture."""
    if opened.levels is None:
        raise UserError("this run was trained on points, not images: probgen sample draws them")
    return opened.levels


def only_code(opened: OpenedRun) -> tuple[str, int]:
    """Name and size of the one latent vector. Raises UserError for a model with none, or several."""
    blank = torch.zeros(2, *opened.image_shape, device=opened.device)
    latent = [name for name, role in sites_of(opened.model, blank).items() if role == "latent"]
    if len(latent) != 1:
        came = "no latent site" if not latent else f"{len(latent)} latent sites ({', '.join(latent)})"
        raise UserError(f"{opened.run.config.model} has {came}, expected one latent vector")
    codes = mean_codes(opened, blank, latent[0])
    if codes.dim() != 2:
        raise UserError(f"site {latent[0]!r} has shape {tuple(codes.shape[1:])} per image, expected one vector")
    return latent[0], codes.shape[1]
