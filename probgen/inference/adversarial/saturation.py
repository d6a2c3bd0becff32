"""How strongly a sure discriminator pulls at the generator: d loss / d logit at D(G(z)) = d.

    minimax          −d          falls to 0 with d: where the generator is worst, it is told least
    non-saturating   −(1 − d)    stays near 1
    least-squares    s − 1       s the logit, which is D itself in this and the next two
    hinge            −1
    wasserstein      −1

Source: Goodfellow et al. 2014, section 3; Arjovsky and Bottou 2017 (arXiv 1701.04862), section 2.2, for the rest of the
story: the gradient in the generator's parameters is this number times the logit's own.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float64
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.adversarial.losses import LOSSES, Loss, make_loss
from probgen.inference.traces import evaluating

SURE, FOOLED, NUM_POINTS = 1e-6, 0.99, 241  # the probabilities that are looked at unless others come


@dataclass(frozen=True)
class Saturation:
    """Derivatives of generators' losses in one image's logit, by the loss's name; one for each of `logits`."""

    logits: Float64[Tensor, " n"]
    gradients: dict[str, Float64[Tensor, " n"]]

    @property
    def probabilities(self) -> Float64[Tensor, " n"]:
        """D(G(z)) = σ(logit), which is a probability for the first two losses only."""
        return self.logits.sigmoid()

    def rows(self) -> list[dict[str, float]]:
        """One row for each logit: `probability`, `logit` and each loss's derivative."""
        columns = {"probability": self.probabilities, "logit": self.logits, **self.gradients}
        table = torch.stack(list(columns.values()), dim=1)
        return [dict(zip(columns, row, strict=True)) for row in table.tolist()]

    def to_json(self) -> dict[str, Any]:
        """The rows, and what their numbers are."""
        return {"unit": "d loss / d logit of one image", "losses": list(self.gradients), "rows": self.rows()}


def generator_gradients(probabilities: Float64[Tensor, " n"] | None = None) -> Saturation:
    """The derivatives where the discriminator takes a generated image for real with these probabilities.

    probabilities: unless they come, from 10⁻⁶ to 0.99, evenly spread on a logarithmic axis.

    Raises UserError for a probability that is not between 0 and 1: the logit is infinite at both ends.
    """
    if probabilities is None:
        probabilities = torch.logspace(math.log10(SURE), math.log10(FOOLED), NUM_POINTS, dtype=torch.float64)
    inside = (probabilities > 0) & (probabilities < 1)
    if not inside.all():
        raise UserError(
            f"a probability of {float(probabilities[~inside][0]):g} came, expected more than 0 and less than 1; "
            "for one closer to an end than numbers reach, use `generator_gradients_at` with its logit"
        )
    return generator_gradients_at(probabilities.log() - torch.log1p(-probabilities))


def generator_gradients_at(logits: Float64[Tensor, " n"]) -> Saturation:
    """The derivatives at these logits, by differentiating each loss that depends on generated images alone."""
    losses = map(make_loss, LOSSES)
    return Saturation(logits, {loss.name: derivative(loss, logits) for loss in losses if not loss.needs_real})


def derivative(loss: Loss, logits: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """n · ∂ generator(logits) / ∂ logit_i: the loss is a mean, so that this is the derivative of one image's loss."""
    logits = logits.detach().requires_grad_()
    value = loss.generator(logits)
    (gradient,) = torch.autograd.grad(value, logits, grad_outputs=torch.full_like(value, len(logits)))
    return gradient


def generator_norms(sampler: Any, num: int) -> dict[str, Any]:
    """Norms of both generators' gradients for the players of a sampler: of log(1 − D(G(z))) and of −log D(G(z)).

    The logit is taken for that of a probability, whatever loss the players were trained with. num: draws of z, rounded
    down to whole packs, at least one. Gives also the mean of D(G(z)), `d_fake`: None where the players' own loss makes
    no probability of the logit.
    """
    packing = sampler.objective.packing
    num = max(packing, num - num % packing)
    parameters = [p for p in sampler.generator.parameters() if p.requires_grad]
    with evaluating(sampler), pyro.validation_enabled(False):
        labels = [torch.randint(sampler.num_classes, (num,))] if getattr(sampler, "takes_labels", False) else []
        y = [part.to(parameters[0].device) for part in labels]
        logits = sampler.judge(sampler.seen(sampler.model(num, *y)), *y)
        norms = {}
        for name in ("minimax", "non-saturating"):
            gradients = torch.autograd.grad(make_loss(name).generator(logits), parameters, retain_graph=True)
            norms[name] = float(torch.nn.utils.get_total_norm(gradients))
    probable = make_loss(sampler.objective.loss).is_probability
    d_fake = float(logits.detach().sigmoid().mean()) if probable else None
    return {"draws": num, "d_fake": d_fake, "norms": norms}
