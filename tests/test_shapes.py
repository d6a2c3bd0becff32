"""One finite number for each image, whatever the images, the latents, the draws and the chunks."""

import math
from unittest import mock

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probgen.errors import UserError
from probgen.inference import ais, annealing, elbo_terms, evidence, exact, iwae
from probgen.models import VAE, MultivariateGaussian, ProbabilisticPCA

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
small = st.integers(1, 4)
image_shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
point_shapes = st.tuples(st.integers(1, 6))
chunks = st.sampled_from([1, 2, 3, 7, 10**6])


@st.composite
def pairs(draw):
    """Sizes of a VAE and of a batch for it."""
    levels = draw(st.one_of(st.none(), st.integers(2, 9)))
    fitting = ["gaussian"] if levels is None else ["gaussian", "categorical", "discretized-logistic"]
    return {
        "shape": draw(st.one_of(image_shapes, point_shapes)),
        "levels": levels,
        "likelihood": draw(st.sampled_from([*fitting, *(["bernoulli"] if levels == 2 else [])])),
        "latent_dim": draw(small),
        "hidden": draw(st.sampled_from([(3,), (4, 2)])),
        "batch": draw(small),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "stored": draw(st.booleans()) and levels is not None,
        "broadcasts": draw(st.booleans()),
    }


def made(sizes):
    """The VAE, and images: whole numbers as they are stored, or of the model's type."""
    pyro.set_rng_seed(0)
    options = {name: sizes[name] for name in ("likelihood", "latent_dim", "hidden")}
    vae = VAE(sizes["shape"], sizes["levels"], **options).to(sizes["dtype"])
    vae.broadcasts = sizes["broadcasts"]
    shape = (sizes["batch"], *sizes["shape"])
    x = torch.randn(shape) if sizes["levels"] is None else torch.randint(sizes["levels"], shape)
    return vae, x.to(torch.uint8 if sizes["stored"] else sizes["dtype"])


def check_numbers(numbers, x, dtype):
    """One for each image, of the model's precision, none of them infinite or nan."""
    assert numbers.shape == (len(x),)
    assert numbers.dtype == dtype
    assert numbers.isfinite().all()


@few
@given(pairs(), small, chunks, st.sampled_from(["closed-form", "sampled"]))
def test_terms_of_the_elbo(sizes, num_particles, chunk, kl):
    vae, x = made(sizes)
    terms = elbo_terms(vae.model, vae.guide, x, num_particles, kl=kl, chunk_size=chunk)
    for numbers in (terms.elbo, terms.kl, terms.log_likelihood):
        check_numbers(numbers, x, sizes["dtype"])
    (latent,) = terms.latent
    if kl == "closed-form":
        assert latent.kl_per_dim.shape == (len(x), vae.latent_dim)
        assert (latent.kl_per_dim >= 0).all()
    assert latent.guide_mean.shape == (len(x), vae.latent_dim)
    assert (terms.estimate.particles, terms.estimate.kind) == (num_particles, "lower bound")
    assert math.isfinite(terms.estimate.value)


@few
@given(pairs(), st.sampled_from([1, 2, 5, 30]), chunks)
def test_importance_weighted_bounds(sizes, num_particles, chunk):
    vae, x = made(sizes)
    with mock.patch.object(evidence, "CHUNK", chunk):
        estimate = iwae(vae.model, vae.guide, x, num_particles)
    check_numbers(estimate.per_image, x, sizes["dtype"])
    assert estimate.particles == num_particles
    assert (estimate.pareto_k is not None) == (num_particles >= 25)
    if estimate.pareto_k is not None:
        assert estimate.pareto_k.shape == (len(x),)


@few
@given(pairs(), st.integers(1, 3), st.integers(2, 4), st.integers(1, 2), chunks, st.booleans())
def test_annealed_bounds(sizes, num_chains, num_distributions, num_leapfrog, chunk, from_the_guide):
    vae, x = made(sizes)
    options = {"num_chains": num_chains, "num_distributions": num_distributions, "num_leapfrog": num_leapfrog}
    with mock.patch.object(annealing, "CHUNK", chunk), mock.patch.object(annealing, "SETTLING", 2):
        result = ais(vae.model, x, guide=vae.guide if from_the_guide else None, **options)
    check_numbers(result.estimate.per_image, x, sizes["dtype"])
    assert result.estimate.particles == num_chains
    assert result.acceptance.shape == (len(x),)
    assert ((result.acceptance >= 0) & (result.acceptance <= 1)).all()


@few
@given(image_shapes, small, st.one_of(st.none(), st.integers(2, 9)), st.integers(1, 5))
def test_exact_numbers(shape, batch, levels, chunk_size):
    pyro.set_rng_seed(0)
    x = torch.randn(batch, *shape) if levels is None else torch.randint(levels, (batch, *shape), dtype=torch.uint8)
    models = [MultivariateGaussian(shape, levels)]
    if math.prod(shape) > 1:
        models.append(ProbabilisticPCA(shape, levels, latent_dim=1))
    for model in models:
        check_numbers(exact(model.log_prob, x, chunk_size=chunk_size).per_image, x, torch.float32)


@pytest.mark.parametrize(
    "estimate",
    [elbo_terms, iwae, lambda model, guide, x: ais(model, x, num_distributions=2)],
    ids=["elbo", "iwae", "ais"],
)
def test_a_batch_without_images_is_refused(estimate):
    vae = VAE((1, 2, 2), 2, latent_dim=1, hidden=(3,))
    with pytest.raises(UserError, match="image"):
        estimate(vae.model, vae.guide, torch.zeros(0, 1, 2, 2))
