"""Every test starts from the same seed, and every shape annotation of probgen is checked at run time."""

import atexit
import os
import shutil
import tempfile
import warnings

import jaxtyping
import pytest
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from jaxtyping import install_import_hook
from typecheck import unless_nested

# Networks that judge samples are kept in the user's cache: tests have their own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="probgen-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# jaxtyping and beartype check `Float[Tensor, "b c h w"]` and the like on every call made by a test. A function inside a
# function would be given its checks anew, some milliseconds, whenever the outer one runs: left as it is.
jaxtyping.jaxtyped = unless_nested(jaxtyping.jaxtyped)
install_import_hook("probgen", "typecheck.checker")
# ArviZ 0.23 announces its successor at every import.
warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
# beartype's opinion on an annotation inside Pyro.
warnings.filterwarnings("ignore", category=BeartypeDecorHintPep585DeprecationWarning)


LONGEST = [  # first, so that no process waits for another one's last file
    "test_readme.py", "test_resume.py", "test_processes.py", "test_benchmarks.py", "test_launch.py",
    "test_annealing.py", "test_gradients.py", "test_cli_explain.py", "test_commands.py", "test_runs.py",
    "test_signals.py",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def _seed():
    import pyro

    pyro.set_rng_seed(0)
    pyro.clear_param_store()


@pytest.fixture
def untyped(monkeypatch):
    """As users run it: annotations are checked in tests only."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
