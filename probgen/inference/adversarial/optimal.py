"""The theory of the minimax game: the best discriminator against a generator, and what it measures.

    D*(x) = p(x) / (p(x) + q(x))                    p the density of real images, q that of generated ones
    V(D, q) = ∫ p log D + ∫ q log(1 − D)            at most V(D*, q)
    V(D*, q) = 2 · JSD(p, q) − log 4                lowest, −log 4, where q = p alone

for densities of one number, known on a grid, all in nats. Source: Goodfellow et al. 2014, Proposition 1 (equation 2)
and Theorem 1 (equation 6).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from probgen.errors import UserError

LARGEST_ERROR = 0.01  # of a density's mass on the grid


def optimal_discriminator(log_p: Float[Tensor, " n"], log_q: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """logit D* = log p − log q, from D*(x) = p(x) / (p(x) + q(x)); 0 where neither density reaches."""
    neither = torch.isneginf(log_p) & torch.isneginf(log_q)
    return torch.where(neither, 0.0, log_p - log_q)


def minimax_value(
    log_p: Float[Tensor, " n"],
    log_q: Float[Tensor, " n"],
    discriminator_logit: Float[Tensor, " n"],
    grid: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """V(D, q) = ∫ p log D + ∫ q log(1 − D), by the trapezoid rule; −inf for a D that rules out what does happen.

    Raises UserError where the grid does not hold the mass of both densities.
    """
    return expectation(log_p, logsigmoid(discriminator_logit), grid) + expectation(
        log_q, logsigmoid(-discriminator_logit), grid
    )


def jensen_shannon(
    log_p: Float[Tensor, " n"], log_q: Float[Tensor, " n"], grid: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """JSD(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m), m = (p + q) / 2, by the trapezoid rule; from 0 to log 2.

    Raises UserError where the grid does not hold the mass of both densities.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (expectation(log_p, log_p - log_m, grid) + expectation(log_q, log_q - log_m, grid)) / 2


def expectation(
    log_density: Float[Tensor, " n"], values: Float[Tensor, " n"], grid: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """∫ p(x) f(x) dx, what is infinite or undefined where p(x) = 0 left out."""
    density = log_density.exp()
    mass = float(torch.trapezoid(density.detach(), grid))
    if not abs(mass - 1) <= LARGEST_ERROR:
        raise UserError(
            f"a density with a mass of {mass:.4g} on the grid came, expected 1 ± {LARGEST_ERROR}: "
            f"widen or refine the grid, {len(grid)} points from {float(grid[0]):g} to {float(grid[-1]):g}"
        )
    return torch.trapezoid(torch.where(density > 0, density * values, 0.0), grid)
