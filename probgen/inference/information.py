"""How far one density is from another, in nats, by draws.

    H(p, q) = E_p[−log q(x)]            KL(p ‖ q) = H(p, q) − H(p) = E_p[log p(x) − log q(x)] ≥ 0

The KL divergence is 0 where p = q only; it has no upper bound, and it is not symmetric, hence no distance.
Source: Kullback and Leibler 1951. The entropy H(p) = H(p, p) is `probgen.inference.entropy`.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributions import Distribution

from probgen.errors import UserError
from probgen.inference.estimates import Estimate


@torch.no_grad()
def cross_entropy(p: Distribution, q: Distribution, num_samples: int = 1000) -> Estimate:
    """H(p, q) = E_p[−log q(x)] in nats, the mean of independent draws x ~ p: unbiased, with its standard error.

    p: can be drawn from. q: can be scored. Both with an empty batch shape. Where p is known by data x only, minus the
    value of `probgen.inference.exact(q.log_prob, x)` is the same mean.

    Raises UserError for fewer than two draws, which have no error, for a batch of densities, or two over other shapes.
    """
    return Estimate.of(-q.log_prob(drawn(p, q, num_samples)), "estimate")


@torch.no_grad()
def kl_divergence(p: Distribution, q: Distribution, num_samples: int = 1000) -> Estimate:
    """KL(p ‖ q) = H(p, q) − H(p) in nats, both by the same draws x ~ p: unbiased, with its standard error.

    Arguments and errors as of `cross_entropy`; p can be scored, too. An estimate may be negative, the divergence is
    not. It is infinite where q gives no mass to what p draws, and misses this where p has not drawn it.
    """
    x = drawn(p, q, num_samples)
    return Estimate.of(p.log_prob(x) - q.log_prob(x), "estimate")


def drawn(p: Distribution, q: Distribution, num_samples: int) -> Shaped[Tensor, "n *shape"]:
    """x_1 … x_n ~ p."""
    if num_samples < 2:
        raise UserError(f"num_samples={num_samples} came, expected 2 or more")
    for density in (p, q):
        if density.batch_shape:
            raise UserError(f"a batch of densities of shape {tuple(density.batch_shape)} came, expected one")
    if p.event_shape != q.event_shape:
        came = f"{tuple(p.event_shape)} and {tuple(q.event_shape)}"
        raise UserError(f"densities over numbers of shape {came} came, expected two over the same")
    return p.sample(torch.Size([num_samples]))
