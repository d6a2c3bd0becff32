"""The multivariate Gaussian scored on grey levels."""

from collections.abc import Sequence

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor
from torch.distributions import constraints


class DequantizedMultivariateNormal(MultivariateNormal):
    """E_u[log N(x + u; μ, Σ)], u uniform on the unit cube: a Gaussian scored on dequantized grey levels.

    As for `DequantizedNormal`, the noise is integrated out in closed form; its covariance is I / 12, hence

        E_u[log N(x + u; μ, Σ)] = log N(x + ½; μ, Σ) − tr(Σ⁻¹) / 24,

    a lower bound on the log-probability of the levels x (Theis et al. 2016, equation 3).
    """

    has_rsample = False
    is_bound = True  # exp(log_prob) sums to less than one: what is drawn is not quite what is scored

    def __init__(self, loc: Tensor, scale_tril: Tensor, levels: int) -> None:
        self.levels = levels
        super().__init__(loc, scale_tril=scale_tril, validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Vectors of grey levels 0 … levels − 1."""
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The expected log-density of x + u in nats, of the batch's shape."""
        identity = torch.eye(self.event_shape[0], dtype=self.loc.dtype, device=self.loc.device)
        inverse = torch.linalg.solve_triangular(self._unbroadcasted_scale_tril, identity, upper=False)
        return super().log_prob(value + 0.5) - inverse.square().sum((-2, -1)) / 24

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a real vector and give the levels of its bins; the outermost levels take the tails."""
        with torch.no_grad():
            return super().rsample(torch.Size(sample_shape)).floor().clamp(0, self.levels - 1)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> "DequantizedMultivariateNormal":
        """The same distribution over a larger batch."""
        size = self.event_shape[0]
        return DequantizedMultivariateNormal(
            self.loc.expand(*batch_shape, size), self.scale_tril.expand(*batch_shape, size, size), self.levels
        )
