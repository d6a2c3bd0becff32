"""ArviZ in both of its lines, 0.23 (Python 3.11) and 1.x (Python 3.12 and newer), behind one door.

They differ in names, in containers (0.23's InferenceData, 1.x's xarray.DataTree), and in one sign: 0.23's `psislw`
takes log-weights, 1.x's takes minus the log-weights. ArviZ is imported when it is first needed: it is slow to load.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FEWEST_WEIGHTS = 25  # the tail that is fitted is the largest fifth: at least 5 weights
FEWEST_DRAWS = 4  # of a chain: it is split in halves, each with a variance
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


def r_hat(draws: Float[Tensor, "chain draw *shape"]) -> Float[Tensor, "*shape"]:
    """R̂ of each dimension: rank-normalized, split and folded (Vehtari et al. 2021).

    nan for a single chain, for fewer than FEWEST_DRAWS, and where all draws of all chains are one number.
    """
    if len(draws) < 2:
        return draws.new_full(draws.shape[2:], torch.nan)
    return statistic(load_arviz().rhat, draws)


def ess(draws: Float[Tensor, "chain draw *shape"], method: str = "bulk") -> Float[Tensor, "*shape"]:
    """How many independent draws each dimension's are worth: `bulk`, `tail` (5% and 95% quantiles), `mean` or `sd`."""
    return statistic(load_arviz().ess, draws, method=method)


def statistic(function: Callable[..., Any], draws: Tensor, **options: Any) -> Tensor:
    """A statistic of ArviZ for each dimension of draws that have chains and draws in front."""
    import xarray

    chains, length, *shape = draws.shape
    if length < FEWEST_DRAWS:
        return draws.new_full(shape, torch.nan)
    flat = draws.detach().double().cpu().numpy().reshape(chains, length, -1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = function(xarray.Dataset({"draws": (["chain", "draw", "dim"], flat)}), **options)
    return torch.as_tensor(np.asarray(found["draws"]), dtype=draws.dtype).reshape(shape)


def to_arviz(groups: Mapping[str, Mapping[str, np.ndarray]], dims: Mapping[str, Sequence[str]] | None = None) -> Any:
    """What ArviZ works on: an InferenceData (0.23), or an xarray.DataTree (1.x), with the same groups and variables.

    groups: arrays by group and variable. They begin with chain and draw, but in groups with `data` in their name
        (`observed_data`, `constant_data`), as in ArviZ's schema.
    dims: names of the other dimensions of a variable, in whatever groups it is; in `log_likelihood`, which has no
        dimensions within an observation, the first of them.
    """
    arviz = load_arviz()
    old = arviz.__version__.startswith("0.")
    with warnings.catch_warnings():  # 0.23 warns of groups outside its schema
        warnings.simplefilter("ignore")
        datasets = {
            group: arviz.dict_to_dataset(
                dict(variables),
                dims={name: list(names) for name, names in (dims or {}).items() if name in variables},
                skip_event_dims="log_likelihood" in group,
                **{"default_dims" if old else "sample_dims": [] if "data" in group else None},
            )
            for group, variables in groups.items()
        }
        if old:
            return arviz.InferenceData(**datasets)
        import xarray

        return xarray.DataTree.from_dict(datasets)


def netcdf(tree: Any) -> bytes | None:
    """What `to_arviz` made as a NetCDF file; None without a library that writes groups (h5netcdf or netCDF4)."""
    modules = {"h5netcdf": "h5netcdf", "netcdf4": "netCDF4"}
    engines = [engine for engine, module in modules.items() if importlib.util.find_spec(module)]
    if not engines:
        return None
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree.to_netcdf(Path(place) / "draws.nc", engine=engines[0])
        return (Path(place) / "draws.nc").read_bytes()
