"""NumPyro under jax.jit, KL in closed form.

`update`: one compiled call a step. `scan`: one compiled call for 20 steps. Batch, binary draw and step are inside.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO

from benchmarks.work import CASES, LEARNING_RATE, Case, Work

TOGETHER = 20


def dense(name: str, inputs: int, outputs: int, x: jax.Array) -> jax.Array:
    """A linear layer, weights as torch starts them."""
    bound = 1 / math.sqrt(inputs)

    def start(*shape: int):
        return lambda key: jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weight = numpyro.param(f"{name}_weight", start(inputs, outputs))
    return x @ weight + numpyro.param(f"{name}_bias", start(outputs))


def programs(sizes: Case):
    """Model and guide."""

    def model(x: jax.Array) -> None:
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(sizes.latent), 1.0).to_event(1))
            hidden = jax.nn.relu(dense("decoder_in", sizes.latent, sizes.hidden, z))
            logits = dense("decoder_out", sizes.hidden, sizes.pixels, hidden)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        hidden = jax.nn.relu(dense("encoder_in", sizes.pixels, sizes.hidden, x))
        mu, log_sigma = jnp.split(dense("encoder_out", sizes.hidden, 2 * sizes.latent, hidden), 2, -1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(mu, jnp.exp(log_sigma)).to_event(1))

    return model, guide


def setup(case: str, threads: int, together: bool) -> Work:
    """A training loop; `threads` are all the cores that this process sees."""
    sizes = CASES[case]
    images = jnp.asarray(sizes.images())
    svi = SVI(*programs(sizes), numpyro.optim.Adam(LEARNING_RATE), TraceMeanField_ELBO())
    state = svi.init(jax.random.key(0), jnp.zeros((sizes.batch, sizes.pixels)))
    count = sum(p.size for p in jax.tree.leaves(svi.get_params(state)))

    def step(carry, rows):
        state, key = carry
        key, draw = jax.random.split(key)
        uniform = jax.random.uniform(draw, (sizes.batch, sizes.pixels))
        x = (uniform * (sizes.levels - 1) < images[rows]).astype(jnp.float32)
        state, loss = svi.update(state, x)
        return (state, key), loss

    carry, rows = (state, jax.random.key(1)), sizes.row_numbers()
    one = jax.jit(step, donate_argnums=0)
    several = jax.jit(lambda carry, rows: jax.lax.scan(step, carry, rows), donate_argnums=0)

    def run(steps: int) -> int:
        nonlocal carry
        calls = math.ceil(steps / TOGETHER) if together else steps
        for _ in range(calls):
            if together:
                carry, _ = several(carry, np.stack(list(itertools.islice(rows, TOGETHER))))
            else:
                carry, _ = one(carry, next(rows))
        jax.block_until_ready(carry)
        return calls * TOGETHER if together else steps

    return Work(run, {"parameters": int(count)})
