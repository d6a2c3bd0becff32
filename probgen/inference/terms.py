"""The terms of the ELBO as an object: shapes, units, errors; it prints, plots, and converts.

log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))
           ╰──────────────── ELBO ───────────────╯   ╰──── ≥ 0, unknown ────╯
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probgen.errors import UserError
from probgen.inference.equation import Equation, Unicode
from probgen.inference.estimates import Estimate

if TYPE_CHECKING:  # heavy, and needed only by those who ask for them
    import xarray
    from matplotlib.figure import Figure
    from rich.console import RenderableType

ACTIVE_UNIT_VARIANCE = 0.01  # Burda et al. 2016, section 4: a unit is active when Var_x(E_q[z]) exceeds it

KLMethod = Literal["closed-form", "sampled", "enumerated"]
Gradient = Literal["reparameterized", "score-function", "exact"]


@dataclass(frozen=True)
class ObservedTerm:
    """E_q[log p(x | z)] of an observed site: the mean over particles, in nats, one number per image.

    stderr: Monte Carlo error of each image's number; nan for one particle.
    summed_out: discrete latents that the probability is a sum over; observed sites that share one are one term, named
        `x, y`.
    """

    name: str
    log_likelihood: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"]
    summed_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatentTerm:
    """A latent site: E_q[log p(z)], E_q[log q(z | x)] and KL(q ‖ p), in nats, one number per image.

    stderr: Monte Carlo error of each image's `kl`: zero for a closed form that needs no draw, nan for one particle.
    method: whether `kl` is the closed form of the two distributions, log_guide − log_prior of the draws, or
        the sum over the site's values.
    gradient: which one the site's draws give the guide in training: through the draw (`reparameterized`), by
        the `score-function` (unbiased, noisy), or `exact`, by enumeration.
    kl_per_dim: the closed form for each latent dimension, where both distributions factorize.
    guide_mean: E_q[z] for each image, where the guide's distribution has one.
    summed_out: discrete latents that p(z) is a sum over.
    """

    name: str
    log_prior: Float[Tensor, " b"]
    log_guide: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    stderr: Float[Tensor, " b"]
    method: KLMethod
    gradient: Gradient
    kl_per_dim: Float[Tensor, "b d"] | None
    guide_mean: Float[Tensor, "b d"] | None
    summed_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draws:
    """What was drawn, by site: values `k b …`, and their log-probabilities in nats, `k b`.

    A site that has all values of an enumerated one has no single draw: its log-probabilities are averages, it has no
    value.
    """

    values: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]
    log_prior: dict[str, Tensor]
    log_guide: dict[str, Tensor]


@dataclass(frozen=True)
class ElboTerms:
    """The ELBO of each image as a sum of terms, all in nats; b images, means over `num_particles` draws.

    `elbo` is `log_likelihood − kl` and these are the sums over `observed` and `latent`, exactly.

    stderr: Monte Carlo error of each image's ELBO; nan for one particle, 0 where nothing is drawn.
    equation: the pair's own, or the reason why it could not be read off the program.
    draws: kept on request (`elbo_terms(…, keep_draws=True)`).
    """

    observed: tuple[ObservedTerm, ...]
    latent: tuple[LatentTerm, ...]
    num_particles: int
    stderr: Float[Tensor, " b"]
    equation: Equation | str = ""
    draws: Draws | None = field(default=None, repr=False)

    @property
    def log_likelihood(self) -> Float[Tensor, " b"]:
        """E_q[log p(x | z)], over all observed sites."""
        return torch.stack([term.log_likelihood for term in self.observed]).sum(0)

    @property
    def kl(self) -> Float[Tensor, " b"]:
        """KL(q(z | x) ‖ p(z)), over all latent sites; zero where nothing is latent."""
        if not self.latent:
            return torch.zeros_like(self.log_likelihood)
        return torch.stack([term.kl for term in self.latent]).sum(0)

    @property
    def elbo(self) -> Float[Tensor, " b"]:
        """E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) ≤ log p(x)."""
        return self.log_likelihood - self.kl

    @property
    def estimate(self) -> Estimate:
        """The ELBO of each image and their mean; exact when nothing is latent, since it is then log p(x) itself."""
        if not self.latent:
            return Estimate.of(self.elbo, "exact")
        return Estimate.of(self.elbo, "lower bound", self.num_particles, self.stderr)

    @property
    def active_units(self) -> int | None:
        """Latent dimensions whose mean code varies over the images by more than 0.01 (Burda et al. 2016).

        None where the guide's distributions have no mean, or for a single image.
        """
        means = [term.guide_mean for term in self.latent]
        if not means or len(self.elbo) < 2:
            return None
        counts = [int((m.var(0) > ACTIVE_UNIT_VARIANCE).sum()) for m in means if m is not None]
        return sum(counts) if len(counts) == len(means) else None

    def to_json(self) -> dict[str, Any]:
        """Means over images with their standard errors (of one image: over its draws), in nats per image."""

        def number(per_image: Tensor, noise: Tensor | None = None) -> dict[str, float | None]:
            record = Estimate.of(per_image, "estimate", 0, noise).to_json()
            return {"value": record["value"], "stderr": record["stderr"]}

        return {
            "num_images": len(self.elbo),
            "particles": self.estimate.particles,
            "unit": "nats per image",
            "kind": self.estimate.kind,
            "equation": str(self.equation).splitlines(),
            "formulas": self.formulas,
            "elbo": number(self.elbo, self.stderr),
            "log_likelihood": {"total": number(self.log_likelihood, self.likelihood_stderr)}
            | {
                term.name: number(term.log_likelihood, term.stderr) | {"summed_out": list(term.summed_out)}
                for term in self.observed
            },
            "kl": {"total": number(self.kl, self.kl_stderr)}
            | {
                term.name: number(term.kl, term.stderr)
                | {
                    "method": term.method,
                    "gradient": term.gradient,
                    "log_prior": number(term.log_prior),
                    "log_guide": number(term.log_guide),
                    "summed_out": list(term.summed_out),
                    "per_dim": None if term.kl_per_dim is None else term.kl_per_dim.mean(0).tolist(),
                }
                for term in self.latent
            },
            "active_units": self.active_units,
        }

    @property
    def formulas(self) -> dict[str, Any]:
        """The equation's pieces: its three `terms`, and `p(x | z)` or `q(z | x)` of each site; empty without one."""
        if isinstance(self.equation, str):
            return {"terms": [], "p": {}, "q": {}}
        style = Unicode()
        factors = {"p": self.equation.model, "q": self.equation.guide}
        return {
            "terms": list(self.equation.terms(style)) if self.latent else [],
            **{letter: {f.name: style.factor(letter, f) for f in found} for letter, found in factors.items()},
        }

    @property
    def likelihood_stderr(self) -> Tensor | None:
        """Monte Carlo error of the whole likelihood term; None for several sites, whose errors are correlated."""
        return self.observed[0].stderr if len(self.observed) == 1 else None

    @property
    def kl_stderr(self) -> Tensor | None:
        """The same for the whole KL."""
        return self.latent[0].stderr if len(self.latent) == 1 else None

    def to_xarray(self) -> "xarray.Dataset":
        """A Dataset over `image`: `elbo`, `log_likelihood`, `kl`, and of each site `kl_z`, `log_prior_z`, …"""
        from probgen.inference.terms_convert import dataset

        return dataset(self)

    def to_arviz(self) -> Any:
        """Groups `posterior` (draws of the guide), `log_likelihood`, `sample_stats`, dims chain, draw, image.

        ArviZ's InferenceData, or from its line 1.x on an xarray.DataTree. Raises UserError without kept draws.
        """
        if self.draws is None:
            raise UserError("to_arviz() came on terms without draws: call elbo_terms(…, keep_draws=True)")
        from probgen.inference.terms_convert import inference_data

        return inference_data(self, self.draws)

    def plot(self) -> "Figure":
        """The terms of single images stacked, the ELBO's histogram, the KL of each latent dimension."""
        from probgen.plots.terms import terms_figure

        return terms_figure(self)

    def __rich__(self) -> "RenderableType":
        from probgen.inference.terms_view import as_rich

        return as_rich(self.to_json())

    def __str__(self) -> str:
        from probgen.inference.terms_view import as_text

        return as_text(self.to_json())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from probgen.inference.terms_view import as_html

        latex = None if isinstance(self.equation, str) else self.equation.latex
        return as_html(self.to_json(), latex)
