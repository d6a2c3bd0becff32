"""ArviZ in both of its lines, 0.23 (Python 3.11) and 1.x (Python 3.12 and newer), behind one door.

They differ in names, in containers, and in one sign: 0.23's `psislw` takes log-weights, 1.x's takes minus the
log-weights. ArviZ is imported when it is first needed: it is slow to load.
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FEWEST_WEIGHTS = 25  # the tail that is fitted is the largest fifth: at least 5 weights
CONSTANT = 1e-3  # nats: weights that differ by less have no tail, only rounding


def load_arviz() -> Any:
    """The arviz module, without its announcement."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz


def pareto_k(log_weights: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """The shape k̂ of the tail of each image's importance weights (Vehtari et al. 2024); −inf for constant ones.

    Weights with a tail of k ≥ ½ have no variance, with k ≥ 1 no mean; their mean over S can be trusted below
    min(1 − 1 / log10 S, 0.7).
    """
    rows = log_weights.T.double().cpu().numpy()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        arviz = load_arviz()
        if hasattr(arviz, "psislw"):
            _, shape = arviz.psislw(rows)
        else:
            from arviz_stats.base import array_stats

            _, shape = array_stats.psislw(-rows)
    found = torch.as_tensor(np.atleast_1d(shape)).to(log_weights)
    # One weight beside nothing: 0.23 says inf, 1.x nan.
    found = torch.where(found.isnan(), torch.full_like(found, torch.inf), found)
    constant = (log_weights.amax(0) - log_weights.amin(0)) < CONSTANT
    return torch.where(constant, torch.full_like(found, -torch.inf), found)
