"""The ELBO's terms in the containers of others: an xarray Dataset, ArviZ's groups."""

from typing import Any

import numpy as np
import xarray
from torch import Tensor

from probgen.inference.arviz_bridge import to_arviz
from probgen.inference.terms import Draws, ElboTerms


def dataset(terms: ElboTerms) -> xarray.Dataset:
    """One variable for each term, over `image`; KL by latent dimension over `image` and `z_dim`."""
    found: dict[str, tuple[tuple[str, ...], Tensor]] = {
        "elbo": (("image",), terms.elbo),
        "elbo_stderr": (("image",), terms.stderr),
        "log_likelihood": (("image",), terms.log_likelihood),
        "kl": (("image",), terms.kl),
    }
    for seen in terms.observed:
        found[f"log_likelihood_{seen.name}"] = (("image",), seen.log_likelihood)
    for term in terms.latent:
        for key in ("log_prior", "log_guide", "kl"):
            found[f"{key}_{term.name}"] = (("image",), getattr(term, key))
        for key, value in (("kl_per_dim", term.kl_per_dim), ("guide_mean", term.guide_mean)):
            if value is not None:
                found[f"{key}_{term.name}"] = (("image", f"{term.name}_dim"), value)
    attributes = {"unit": "nats per image", "kind": terms.estimate.kind, "num_particles": terms.num_particles}
    variables = {
        name: (dims, value.cpu().numpy(), {} if name.startswith("guide_mean") else {"unit": "nats"})
        for name, (dims, value) in found.items()
    }
    for term in terms.latent:
        variables[f"kl_{term.name}"][2]["method"] = term.method
    return xarray.Dataset(variables, coords={"image": np.arange(len(terms.elbo))}, attrs=attributes)


def inference_data(terms: ElboTerms, draws: Draws) -> Any:
    """`posterior`: z ~ q, one chain; `log_likelihood`: of each observed site; `sample_stats`: priors, guide, weight.

    `log_weight` is log p(x, z) − log q(z | x), of which `iwae` takes the logarithm of the mean.
    """

    def one_chain(values: dict[str, Tensor], prefix: str = "") -> dict[str, np.ndarray]:
        return {prefix + name: value.cpu().numpy()[None] for name, value in values.items()}

    weight = sum(draws.log_likelihood.values()) + sum(draws.log_prior.values()) - sum(draws.log_guide.values())
    stats = one_chain(draws.log_prior, "log_prior_") | one_chain(draws.log_guide, "log_guide_")
    groups = {
        "posterior": one_chain(draws.values),
        "log_likelihood": one_chain(draws.log_likelihood),
        "sample_stats": stats | one_chain({"log_weight": weight}),  # type: ignore[dict-item]
    }
    dims = {
        name: ["image", *(f"{name}_dim_{i}" for i in range(value.ndim - 3))]
        for group in groups.values()
        for name, value in group.items()
    }
    return to_arviz({name: group for name, group in groups.items() if group}, dims)
