"""probgen: deep generative modelling as probabilistic programming.

Every model is a Pyro program, and every number it reports says what it is: exact, a bound, an estimate, none.
"""

from typing import Any

from probgen.version import __version__

__all__ = ["__version__", "load"]


def load(path: Any, model: str | None = None, *, device: str = "cpu") -> Any:
    """The trained model of a run directory, in `eval()` mode; see `probgen.runs.load`."""
    from probgen.runs import load as load_run

    return load_run(path, model, device=device)
