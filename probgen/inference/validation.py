"""What is told of images that were not trained on, while a pair trains."""

from typing import Any

import torch
from torch import Tensor

from probgen.inference.elbo import elbo_terms
from probgen.inference.objective import step_objective
from probgen.inference.traces import as_real, evaluating
from probgen.models.contracts import Kind, kind_of


def validation_terms(pair: Any, x: Tensor) -> dict[str, Any]:
    """Loss per image and its terms on `x`, KL weight 1; a pair without a density has only a loss."""
    if kind_of(pair) is Kind.NONE:
        objective = step_objective(pair)
        with torch.no_grad(), evaluating(pair):
            losses = [(len(part), objective(as_real(part)).loss.item()) for part in x.split(1024)]
        return {"loss": sum(n * loss for n, loss in losses) / len(x)}
    terms = elbo_terms(pair.model, pair.guide, x)
    record = {
        "loss": -terms.estimate.value,
        "elbo": terms.estimate.value,
        "log_likelihood": float(terms.log_likelihood.mean()),
        "kl": float(terms.kl.mean()),
    }
    return record if terms.active_units is None else record | {"active_units": terms.active_units}
