"""The entropy of a density by draws, against the sum over all images."""

import pytest
import torch
from laws import check_coverage
from torch.distributions import Bernoulli, Independent

from probgen.distributions import Conditional, FactoredImage
from probgen.errors import UserError
from probgen.inference import entropy
from probgen.layers import PixelCNNNetwork

PROBABILITIES = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)


def test_its_intervals_cover_the_entropy_of_independent_pixels():
    pixels = Independent(Bernoulli(PROBABILITIES), 1)
    found = [entropy(pixels, 200) for _ in range(300)]
    check_coverage([e.value for e in found], [e.stderr for e in found], float(pixels.entropy()))
    assert {(e.kind, e.particles) for e in found} == {("estimate", 0)}


def test_it_is_that_of_all_images_of_a_chain():
    network = PixelCNNNetwork((1, 2, 2), 1, features=4, blocks=1).double()
    chain = FactoredImage(network, Conditional("bernoulli", 2), (1, 2, 2))
    images = torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(-1, 1, 2, 2)
    log_p = chain.log_prob(images).detach()
    truth = float(-(log_p.exp() * log_p).sum())
    estimate = entropy(chain, 4000)
    assert estimate.stderr < 0.02
    assert abs(estimate.value - truth) < 4.5 * estimate.stderr
    twin = chain.log_prob(chain.sample((4000,))).detach().mean()  # the sign forgotten
    assert abs(float(twin) - truth) > 50 * estimate.stderr


@pytest.mark.parametrize(("draws", "says"), [(1, "num_samples=1"), (0, "expected 2 or more")])
def test_one_draw_has_no_error(draws, says):
    with pytest.raises(UserError, match=says):
        entropy(Independent(Bernoulli(PROBABILITIES), 1), draws)


def test_a_batch_of_densities_is_refused():
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        entropy(Bernoulli(PROBABILITIES))
