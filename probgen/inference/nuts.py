"""z ~ p(z | x) ∝ p(x, z) for one image, by Pyro's own NUTS (Hoffman and Gelman 2014).

The chains move in unconstrained coordinates u with z = T(u), whatever the support of z.
"""

from collections.abc import Callable, Mapping

import pyro
import torch
from jaxtyping import Shaped
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to

from probgen.console import progress_bar
from probgen.errors import UserError
from probgen.inference.randomness import own_randomness
from probgen.inference.traces import Program, Site, as_real, evaluating, owner, sample_sites, trace_pair
from probgen.models.contracts import Kind, kind_of


@torch.no_grad()
def check_posterior(model: Program, guide: Program, x: Shaped[Tensor, "b *shape"]) -> dict[str, Site]:
    """The latent sites of a pair that has a posterior for NUTS to draw from; the random state is left as it was.

    Raises UserError for several images, no latent site, a discrete one, one whose support depends on another, a guide
    without a density, and an improper prior.
    """
    if len(x) != 1:
        raise UserError(f"{len(x)} images came, expected one: a diagnosis is that of a single image, x[i : i + 1]")
    pair = owner(model)
    if kind_of(pair) is Kind.NONE:
        raise UserError(f"there is no posterior to compare the guide with: {getattr(pair, 'no_density', 'no density')}")
    with own_randomness(0), evaluating(model, guide), pyro.validation_enabled(False):
        sites, again = [
            {site.name: site for site in trace_pair(model, guide, as_real(x)) if not site.observed} for _ in range(2)
        ]
    if not sites:
        raise UserError("the model has no latent site: its log p(x) is exact, there is no guide to diagnose")
    for name, site in sites.items():
        if site.p.support.is_discrete:
            raise UserError(f"site {name!r} is discrete: NUTS draws from continuous posteriors only")
        try:
            unconstrained = biject_to(site.p.support).inv(site.value)
        except NotImplementedError as error:
            raise UserError(f"site {name!r}: NUTS knows no bijection from the reals to {site.p.support}") from error
        if not torch.equal(*(biject_to(s.p.support)(unconstrained) for s in (site, again[name]))):
            raise UserError(f"the support of site {name!r} depends on another latent site: NUTS needs a fixed one")
    return sites


def run_chains(
    model: Program,
    begin: Program,
    x: Tensor,
    sites: Mapping[str, Site],
    num_samples: int,
    warmup: int,
    seeds: list[int],
    progress: bool,
) -> list[tuple[dict[str, Tensor], int]]:
    """NUTS chains one after another, each from a draw of `begin` and on its own stream of random numbers."""
    chains = []
    with progress_bar(quiet=not progress) as bar:
        task = bar.add_task("NUTS", total=len(seeds) * (warmup + num_samples), terms="")
        for number, seed in enumerate(seeds, 1):
            bar.update(task, description=f"NUTS, chain {number} of {len(seeds)}")
            with own_randomness(seed):
                chains.append(run_chain(model, begin, x, sites, num_samples, warmup, lambda: bar.advance(task)))
    return chains


def run_chain(
    model: Program,
    begin: Program,
    x: Tensor,
    sites: Mapping[str, Site],
    num_samples: int,
    warmup: int,
    advance: Callable[[], None],
) -> tuple[dict[str, Tensor], int]:
    """Draws `1 draw …` of each site, and how many transitions diverged."""
    with torch.no_grad():
        nodes = sample_sites(poutine.trace(begin).get_trace(x))
    first = {name: biject_to(site.p.support).inv(nodes[name]["value"]) for name, site in sites.items()}
    chain = MCMC(
        NUTS(model),
        num_samples,
        warmup,
        initial_params=first,
        hook_fn=lambda *_: advance(),
        disable_progbar=True,
    )
    chain.run(x)
    divergences = chain.diagnostics()["divergences"]["chain 0"]
    return {name: z.detach().cpu() for name, z in chain.get_samples(group_by_chain=True).items()}, len(divergences)
