"""Every test starts from the same seed, and every shape annotation of probgen is checked at run time."""

import warnings

import pytest
from jaxtyping import install_import_hook

# jaxtyping and beartype check `Float[Tensor, "b c h w"]` and the like on every call made by a test.
install_import_hook("probgen", "beartype.beartype")
# ArviZ 0.23 announces its successor at every import.
warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)


@pytest.fixture(autouse=True)
def _seed():
    import pyro

    pyro.set_rng_seed(0)
    pyro.clear_param_store()
