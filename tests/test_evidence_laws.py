"""Every bound on its side of the evidence, in its order, on models of many sizes whose evidence is known."""

import numpy as np
import pyro
import pytest
import torch
from laws import check_brackets, check_equal, check_rises
from oracles import Clusters, LinearGaussian, Parabola, array

from probgen.inference import ais, bdmc, elbo_terms, exact, iwae
from probgen.models import ProbabilisticPCA

SIZES = {f"{latent} of {dim}": LinearGaussian(dim, latent) for latent, dim in ((1, 3), (2, 3), (1, 8), (2, 8), (5, 8))}
PAIRS = {**SIZES, "clusters": Clusters(), "parabola": Parabola()}


def as_ppca(pair):
    """The same model as one of ours."""
    dim, latent_dim = pair.W.shape
    model = ProbabilisticPCA((dim,), latent_dim=latent_dim).double()
    with torch.no_grad():
        model.W.copy_(pair.W)
        model.mu.copy_(pair.mu)
        model.log_sigma.fill_(np.log(pair.sigma))
    return model


@pytest.mark.parametrize("name", SIZES)
def test_the_models_own_number_is_the_oracles(name):
    pair = SIZES[name]
    x = pair.data(20)
    check_equal(exact(as_ppca(pair).log_prob, x).per_image, pair.evidence(x))


@pytest.mark.parametrize("name", PAIRS)
def test_elbo_and_importance_weighted_bounds_rise_to_the_evidence(name):
    pair, repeats = PAIRS[name], 1000
    x = pair.data(4)
    copies = x.repeat(repeats, 1)
    draws = [elbo_terms(pair.model, pair.guide, copies).elbo]
    draws += [iwae(pair.model, pair.guide, copies, k, diagnose=False).per_image for k in (5, 50)]
    check_rises([d.reshape(repeats, 4) for d in draws], pair.evidence(x))


LARGEST_GAPS = {"1 of 3": 0.1, "2 of 3": 0.1, "1 of 8": 0.3, "2 of 8": 0.5, "5 of 8": 1.5, "parabola": 0.25}


@pytest.fixture(scope="module", params=[*LARGEST_GAPS, "clusters"])
def annealed(request):
    """Both ends of BDMC on images from the model with their evidence between, and the gap to expect at most."""
    pyro.set_rng_seed(0)
    pair = PAIRS[request.param]
    result = bdmc(pair.model, 400, pair.data(1), num_chains=4, num_distributions=30, num_leapfrog=2)
    bounds = result.lower.per_image, pair.evidence(result.images), result.upper.per_image
    return [array(b) for b in bounds], LARGEST_GAPS.get(request.param, 0.5)


def test_annealing_from_both_ends_has_the_evidence_between(annealed):
    bounds, gap = annealed
    check_brackets(*bounds, largest_gap=gap)


def test_ends_that_are_exchanged_or_moved_past_the_evidence_are_rejected(annealed):
    (lower, truth, upper), gap = annealed
    for wrong in ((upper + 2 * gap, truth, upper), (lower, truth, lower - 2 * gap)):
        with pytest.raises(AssertionError, match="wrong side"):
            check_brackets(*wrong, largest_gap=gap)
    for wrong in ((lower - 2 * gap, truth, upper), (lower, truth, upper + 2 * gap)):
        with pytest.raises(AssertionError, match="away"):
            check_brackets(*wrong, largest_gap=gap)


@pytest.mark.parametrize("name", SIZES)
def test_annealing_comes_closer_than_importance_sampling_with_as_many_weights(name):
    """On images that the model did not draw; gaps to the evidence, image by image."""
    pair = SIZES[name]
    x = torch.tensor(np.random.default_rng(3).normal(size=(1000, len(pair.mu))))
    annealed = ais(pair.model, x, num_chains=2, num_distributions=20, num_leapfrog=2).estimate
    importance = iwae(pair.model, pair.guide, x, 2, diagnose=False)
    gaps = [(array(e.per_image) - pair.evidence(x))[:, None] for e in (importance, annealed)]
    check_rises(gaps, 0.0)
