"""What keeps the discriminator's gradient in the images small, or near 1.

    r1                 γ/2 · E ‖∇D(x)‖²               at real images
    r2                 γ/2 · E ‖∇D(G(z))‖²            at generated images
    gradient-penalty   γ · E (‖∇D(x̂)‖ − 1)²           between them, x̂ = ε x + (1 − ε) G(z), ε ~ U(0, 1)

D is the logit. A `judge` gives one logit for each image, or for each pack of so many consecutive images; the gradient
is that of a logit in all pixels of its images, and the mean is over logits. Real and generated images are constants
here: a penalty has a gradient in the discriminator's parameters and in nothing else.

What is computed is ∇_{x_i} Σ_j D(x)_j, the gradient of the sum of the batch's logits in each image. Where a logit
depends on its own images only, that is ∇D(x_i). With `minibatch_statistics` a logit depends on the whole batch x, and
image i's influence on the others' logits is penalized too, as in StyleGAN2 (Karras et al. 2020, arXiv 1912.04958),
whose R1 is so computed beside a standard deviation over the batch.

Sources: Mescheder et al. 2018 (arXiv 1801.04406), equations 9 and 10, for the first two; Gulrajani et al. 2017
(arXiv 1704.00028), equation 3, for the third.
"""

import difflib
from collections.abc import Callable
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probgen.errors import UserError
from probgen.models.contracts import RegularizerName

Judge = Callable[[Tensor], Tensor]
REGULARIZERS: tuple[str, ...] = get_args(RegularizerName)


def penalty(
    name: str,
    judge: Judge,
    real: Float[Tensor, "b *shape"],
    fake: Float[Tensor, "b *shape"],
    gamma: float,
    on_real: Float[Tensor, " p"] | None = None,
    on_fake: Float[Tensor, " p"] | None = None,
) -> Float[Tensor, ""]:
    """The penalty of a name, weights included, to be added to the discriminator's loss.

    on_real, on_fake: the judge's logits at `real` and `fake`, if they are there already: r1 and r2 then spare their
        pass through the judge, but the images must have required gradients, and nothing before them, when they were
        judged. Without `on_real`, the gradient penalty takes it that there is one logit for each image.

    Raises UserError for an unknown name.
    """
    if name not in REGULARIZERS:
        near = difflib.get_close_matches(name, REGULARIZERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown regularizer {name!r}: {hint}expected one of {', '.join(REGULARIZERS)}")
    total = real.new_zeros(())
    if name in ("r1", "r1+r2"):
        total = total + gamma / 2 * r1_penalty(judge, real, on_real)
    if name in ("r2", "r1+r2"):
        total = total + gamma / 2 * r2_penalty(judge, fake, on_fake)
    if name == "gradient-penalty":
        packing = 1 if on_real is None else len(real) // len(on_real)
        total = total + gamma * gradient_penalty(judge, real, fake, packing=packing)
    return total


def r1_penalty(
    judge: Judge, real: Float[Tensor, "b *shape"], logits: Float[Tensor, " p"] | None = None
) -> Float[Tensor, ""]:
    """E ‖∇D(x)‖² at real images; the caller weighs it by γ/2. logits: the judge's there, if they have come already."""
    if logits is None:
        real = real.detach().requires_grad_()
        logits = judge(real)
    return gradient_norm_squared(logits, real)


def r2_penalty(
    judge: Judge, fake: Float[Tensor, "b *shape"], logits: Float[Tensor, " p"] | None = None
) -> Float[Tensor, ""]:
    """E ‖∇D(G(z))‖² at generated images; the caller weighs it by γ/2. logits: as for `r1_penalty`."""
    return r1_penalty(judge, fake, logits)


def gradient_norm_squared(logits: Float[Tensor, " p"], images: Float[Tensor, "b *shape"]) -> Float[Tensor, ""]:
    """(1/p) Σ_i ‖∇ logit_i‖², where the logits have been computed already.

    images: those that the logits were computed from, as a tensor that required gradients then. To have the
        discriminator's loss and its penalty from one pass: `x = real.detach().requires_grad_(); logits = judge(x)`.
    """
    return gradient_at(logits, images).square().sum() / len(logits)


def gradient_penalty(
    judge: Judge,
    real: Float[Tensor, "b *shape"],
    fake: Float[Tensor, "b *shape"],
    mix: Float[Tensor, " p"] | None = None,
    packing: int = 1,
) -> Float[Tensor, ""]:
    """E (‖∇D(x̂)‖ − 1)², x̂ = ε x + (1 − ε) G(z); the caller weighs it by γ.

    mix: ε for each logit, drawn from U(0, 1) if it does not come; the images of a pack share theirs.
    packing: how many consecutive images the judge gives one logit for.

    Raises UserError where the judge gives another number of logits.
    """
    if mix is None:
        mix = torch.rand(len(real) // packing, dtype=real.dtype, device=real.device)
    share = mix.repeat_interleave(packing).reshape(-1, *[1] * (real.ndim - 1))
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    logits = judge(between)
    if len(logits) * packing != len(real):
        raise UserError(
            f"{len(logits)} logits of {len(real)} images came, expected one for each {packing}: set packing"
        )
    gradient = gradient_at(logits, between).reshape(len(logits), -1)
    # at a gradient of 0 the norm has no derivative: vector_norm takes 0 there, a square root nan
    return (torch.linalg.vector_norm(gradient, dim=1) - 1).square().mean()


def gradient_at(logits: Float[Tensor, " p"], images: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """∇_x Σ_i logit_i, itself differentiable.

    Row by row the gradient of the one logit that an image belongs to, where it has no part in the others.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient
