"""θ* = argmax_θ Σ_n log p(x_n; θ): for a Gaussian the mean and the variance of the data.

log p(x_1 … x_N; θ) = log Π_n p(x_n; θ) = Σ_n log p(x_n; θ), for independent data.
"""

import copy
import math
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from probgen.explanations.lines import Chain, Derivation, Line
from probgen.explanations.subject import Subject
from probgen.inference.elbo import elbo_terms
from probgen.inference.evidence import exact
from probgen.models.gaussian import BIN_VARIANCE, MultivariateGaussian, moments
from probgen.models.ppca import ProbabilisticPCA

NUMBERS = (0.5, 1.5, 2.0, 3.0, 4.5)
MU, SIGMA = 1.0, 2.0  # a θ that is not the best
OTHERS = (("μ one higher", 1.0, 1.0), ("σ half", 0.0, 0.5), ("σ double", 0.0, 2.0))  # shift of μ, factor of σ
CLIMBS = 100  # steps of L-BFGS

LOG_PROB = "probgen.models.MultivariateGaussian.log_prob"
FIT = "probgen.models.MultivariateGaussian.maximum_likelihood"
AUTOGRAD = "torch.autograd.grad"


def gaussian_at(mu: float, sigma: float) -> MultivariateGaussian:
    """N(x; μ, σ²) over single numbers."""
    model = MultivariateGaussian((1,)).double()
    with torch.no_grad():
        model.mu.fill_(mu)
        model.log_diagonal.fill_(math.log(sigma))
    return model


def log_likelihood(model: Any, x: Tensor) -> float:
    """Σ_n log p(x_n; θ)."""
    with torch.no_grad():
        return float(model.log_prob(x).sum())


def small() -> Derivation:
    """On five numbers and a Gaussian."""
    x = torch.tensor(NUMBERS, dtype=torch.float64)[:, None]
    best = MultivariateGaussian((1,)).double().maximum_likelihood(x)
    mu, sigma = best.mu.item(), best.log_diagonal.exp().item()
    opening = (
        f"The likelihood of independent data, and the θ = (μ, σ) where it is largest, shown on N = {len(x)} numbers, "
        "(0.5, 1.5, 2, 3, 4.5) and p(x; θ) = N(x; μ, σ²). "
        f"Their mean is x̄ = {mu:g}, their variance s² = {sigma**2:g}."
    )
    chains = (
        product_to_sum(x, best),
        at_the_top(x, best),
        *(gradients(x, m, s) for m, s in ((MU, SIGMA), (mu, sigma))),
    )
    closing = (
        "The data enter through x̄ and s² alone. Both derivatives vanish where μ = x̄ and σ² = s², and nowhere else: "
        "that is θ*. Without a closed form one climbs the same gradient, in small batches: that is training."
    )
    return Derivation("maximum-likelihood", opening, chains, closing)


def product_to_sum(x: Tensor, best: MultivariateGaussian) -> Chain:
    """The likelihood at a θ that is not the best."""
    flat, num = x[:, 0], len(x)
    mean, variance = flat.mean(), flat.var(correction=0)
    joint = MultivariateNormal(torch.full((num,), MU).to(x), SIGMA**2 * torch.eye(num, dtype=torch.float64))
    each = Normal(torch.tensor(MU).to(x), SIGMA).log_prob(flat)
    squares = -num / 2 * math.log(2 * math.pi * SIGMA**2) - float((flat - MU).square().sum()) / (2 * SIGMA**2)
    by_moments = -num / 2 * (math.log(2 * math.pi * SIGMA**2) + float((mean - MU) ** 2 + variance) / SIGMA**2)
    lines = (
        Line("", "log p(x_1 … x_5; θ)", float(joint.log_prob(flat)), "one density of five numbers", MULTIVARIATE),
        Line("=", "log Π_n p(x_n; θ)", float(each.exp().prod().log()), "independent", "torch.distributions.Normal"),
        Line("=", "Σ_n log p(x_n; θ)", log_likelihood(gaussian_at(MU, SIGMA), x), "logarithm of a product", LOG_PROB),
        Line("=", "−N/2 · log 2πσ² − Σ_n (x_n − μ)² / 2σ²", squares, "the Gaussian's density"),
        Line("=", "−N/2 · [log 2πσ² + ((x̄ − μ)² + s²) / σ²]", by_moments, "Σ_n (x_n − μ)² = N ((x̄ − μ)² + s²)"),
        Line("≤", "Σ_n log p(x_n; θ*)", log_likelihood(best, x), "θ* = (x̄, s) is the argmax", FIT),
    )
    return Chain(f"a product becomes a sum, at θ = ({MU:g}, {SIGMA:g})", lines)


MULTIVARIATE = "torch.distributions.MultivariateNormal"


def at_the_top(x: Tensor, best: MultivariateGaussian) -> Chain:
    """The largest likelihood by closed form and by climbing, and others below it."""
    mu, sigma, num = best.mu.item(), best.log_diagonal.exp().item(), len(x)
    entropy = float(Normal(best.mu, best.log_diagonal.exp()).entropy().detach())
    lines = [
        Line("", "max_θ Σ_n log p(x_n; θ)", log_likelihood(best, x), "closed form: μ = x̄, σ² = s²", FIT),
        Line("=", "the same", log_likelihood(climbed(x), x), f"by its gradient, from θ = ({MU:g}, {SIGMA:g})", LBFGS),
        Line("=", "−N/2 · (log 2πs² + 1)", -num / 2 * (math.log(2 * math.pi * sigma**2) + 1), "put θ* in"),
        Line("=", "−N · H(p(x; θ*))", -num * entropy, "the entropy of the fitted Gaussian", ENTROPY),
    ]
    for told, shift, factor in OTHERS:
        value = log_likelihood(gaussian_at(mu + shift, sigma * factor), x)
        if len(lines) > 4:
            lines.append(Line("≤", "Σ_n log p(x_n; θ*)", log_likelihood(best, x), "the largest again", LOG_PROB))
        lines.append(Line("≥", f"Σ_n log p(x_n; θ), {told}", value, "another θ", LOG_PROB))
    return Chain(f"the maximum, at θ* = ({mu:g}, {sigma:.4g})", tuple(lines))


LBFGS, ENTROPY = "torch.optim.LBFGS", "torch.distributions.Normal.entropy"


def climbed(x: Tensor) -> MultivariateGaussian:
    """The Gaussian at the end of a climb of Σ_n log p(x_n; θ)."""
    model = gaussian_at(MU, SIGMA)
    parameters = [model.mu, model.log_diagonal]
    climber = torch.optim.LBFGS(
        parameters, max_iter=CLIMBS, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        climber.zero_grad()
        loss = -model.log_prob(x).sum()
        loss.backward()
        return loss

    climber.step(closure)  # type: ignore[no-untyped-call, unused-ignore]
    return model


def gradients(x: Tensor, mu: float, sigma: float) -> Chain:
    """Both derivatives at one θ, by autograd and by hand."""
    model, num = gaussian_at(mu, sigma), len(x)
    by_mu, by_log_sigma = torch.autograd.grad(model.log_prob(x).sum(), [model.mu, model.log_diagonal])
    residual = x[:, 0] - mu
    top = math.isclose(mu, float(x.mean()))
    sums = (float(residual.sum() / sigma**2), float(residual.square().sum() / sigma**2 - num))
    ends = [Line("=", "0", 0.0, "where μ = x̄ and σ² = s²")] if top else []
    joined = float(by_mu.square() + by_log_sigma.square()) ** 0.5
    lines = (
        Line("", "|∇_θ Σ_n log p(x_n; θ)|, in μ and log σ", joined, "by differentiating the program", AUTOGRAD),
        Line(
            "=", "|(Σ_n (x_n − μ) / σ²,  Σ_n (x_n − μ)² / σ² − N)|", math.hypot(*sums), "by hand",
        ),
        *ends,
    )  # fmt: skip
    where = "at θ*" if top else "elsewhere"
    return Chain(f"the gradient {where}, θ = ({mu:g}, {sigma:.4g})", lines, unit="nats per unit of μ, log σ")


# --- on a run


def trained(subject: Subject) -> Derivation:
    """On a Gaussian or probabilistic PCA that was fitted."""
    if not isinstance(subject.pair, MultivariateGaussian | ProbabilisticPCA):
        raise subject.refuse("maximum-likelihood")
    opening = (
        f"The likelihood of independent {subject.thing}s, and where it is largest, shown on {subject.who}: the first "
        f"{len(subject.images):,} of the {subject.split} split, flattened to d = {subject.images[0].numel()} numbers."
    )
    if subject.pair.levels is not None:
        opening += " A grey level is a bin of width one, whose variance 1/12 counts."
    closing = (
        "The data enter through their mean and covariance alone: whatever else is in them, a Gaussian neither learns "
        "nor draws."
    )
    return Derivation("maximum-likelihood", opening, (sum_over_images(subject), *top_of(subject)), closing)


def covariance_of(pair: Any) -> Float64[Tensor, "d d"]:
    """Σ, or W Wᵀ + σ² I."""
    if isinstance(pair, MultivariateGaussian):
        return pair.scale_tril @ pair.scale_tril.T
    return pair.W @ pair.W.T + (2 * pair.log_sigma).exp() * torch.eye(len(pair.mu)).to(pair.W)


@torch.no_grad()
def sum_over_images(subject: Subject) -> Chain:
    """The likelihood of many images: each by itself, by the program, and by their moments alone."""
    pair, x = subject.pair, subject.images
    num, size = len(x), x[0].numel()
    sigma, levels = covariance_of(pair), pair.levels
    ppca_levels = levels is not None and isinstance(pair, ProbabilisticPCA)
    mean, spread = moments(x, None if ppca_levels else levels)
    mean = mean + (0.5 if ppca_levels else 0.0)
    noise = size * BIN_VARIANCE / float(2 * (2 * pair.log_sigma).exp()) if ppca_levels else 0.0
    shift = (mean - pair.mu)[:, None]
    fitted = float(torch.linalg.solve(sigma, spread + shift @ shift.T).trace())
    log_volume = size * math.log(2 * math.pi) + float(torch.linalg.slogdet(sigma)[1])
    by_moments = -num / 2 * (log_volume + fitted) - num * noise
    words = " − N d / 24σ²" if ppca_levels else ""
    elbo = elbo_terms(pair.model, pair.guide, x).elbo.sum()
    lines = [
        Line("", "log p(x_1 … x_N; θ) = Σ_n log p(x_n; θ)", exact(pair.log_prob, x).value * num, "independent", EXACT),
        Line("=", "Σ_n ELBO(x_n)", float(elbo), "q(z | x) = p(z | x), or nothing is latent", TERMS),
        Line(
            "=", f"−N/2 · [d log 2π + log |Σ| + tr Σ⁻¹ (S + (x̄ − μ)(x̄ − μ)ᵀ)]{words}", by_moments,
            "through mean x̄ and covariance S alone", "probgen.models.gaussian.moments",
        ),
    ]  # fmt: skip
    remarks = []
    if not singular(spread):
        data, density = MultivariateNormal(mean, spread), MultivariateNormal(pair.mu, sigma)
        parts = -num * (float(data.entropy() + kl_divergence(data, density)) + noise)
        reason = "cross-entropy = entropy + KL"
        lines.append(Line("=", f"−N · [H(N(x̄, S)) + KL(N(x̄, S) ‖ N(μ, Σ))]{words}", parts, reason, KL))
    else:
        remarks.append(SINGULAR.format(thing=subject.thing))
    if shrunk(pair):
        remarks.append(SHRUNK.format(shrinkage=pair.shrinkage))
    return Chain(f"the {subject.split} {subject.thing}s, N = {num:,}", tuple(lines), remark=" ".join(remarks))


EXACT, TERMS, KL = "probgen.inference.exact", "probgen.inference.elbo_terms", "torch.distributions.kl_divergence"
SINGULAR = (
    "The covariance S of these {thing}s is singular: N(x̄, S) has no density, and log p has no line as entropy and KL."
)
SHRUNK = "This Σ was shrunk, λ = {shrinkage:g}: θ is on purpose not the maximum of the likelihood, which is not shown."


def singular(covariance: Float64[Tensor, "d d"]) -> bool:
    """Whether it has no density, up to rounding: by the measure of `MultivariateGaussian.maximum_likelihood`."""
    scale_tril, failed = torch.linalg.cholesky_ex(covariance)
    return bool(failed) or bool(scale_tril.diagonal().min() < 1e-6 * covariance.diagonal().mean().sqrt())


def shrunk(pair: Any) -> bool:
    """Whether the run's covariance was moved away from the maximum on purpose."""
    return bool(getattr(pair, "shrinkage", 0.0))


def top_of(subject: Subject) -> tuple[Chain, ...]:
    """The maximum on training images beside the run's own θ; nothing where it was not sought (shrinkage)."""
    pair, x = subject.pair, subject.training
    if x is None or shrunk(pair):
        return ()
    best = copy.deepcopy(pair).maximum_likelihood(x)
    parameters = [p for p in best.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(best.log_prob(x).mean(), parameters)
    slope = float(torch.cat([s.flatten() for s in slopes]).norm())
    fit = f"probgen.models.{type(pair).__name__}.maximum_likelihood"
    values = [exact(p.log_prob, x).value for p in (best, pair)]
    top = Line("", "1/N Σ_n log p(x_n; θ*)", values[0], f"closed form, of these {subject.thing}s", fit)
    own = Line("≥", "1/N Σ_n log p(x_n; θ)", values[1], "θ of this run", EXACT)
    gradient = (
        Line("", "|∇_θ 1/N Σ_n log p(x_n; θ)| at θ*", slope, "by differentiating the program", AUTOGRAD),
        Line("=", "0", 0.0, "θ* is a maximum"),
    )
    return (
        Chain(f"the first {len(x):,} training {subject.thing}s", (top, own)),
        Chain("the gradient there", gradient, unit="nats per unit of θ"),
    )
