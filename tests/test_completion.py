"""Completion: what is known stays, and each drawn pixel is conditioned on the earlier ones, known or drawn."""

import pytest
import torch
from image_networks import NETWORKS, THREE_LEVELS, density
from laws import check_draws_fit, log_prob_of_all
from oracles import all_images

every_network = pytest.mark.parametrize("name", NETWORKS)
NUM = 5000


@every_network
@pytest.mark.parametrize("cached", [True, False])
def test_known_pixels_stay(name, cached):
    shape = (2, 3, 4)
    p = density(name, shape, THREE_LEVELS)
    x = torch.randint(0, 3, (30, *shape)).double()
    mask = torch.rand(30, *shape) < 0.4
    came = p.sample((30,), given=x, mask=mask, cached=cached)
    assert torch.equal(came[mask], x[mask])
    assert not torch.equal(came[~mask], x[~mask])
    assert set(came.unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("size", [(3, 4), (1, 3, 4), (2, 3, 4), (30, 1, 1, 4), (30, 2, 3, 4)], ids=str)
def test_a_mask_may_be_of_pixels_of_channels_or_of_each_image(size):
    p = density("pixelcnn", (2, 3, 4), THREE_LEVELS)
    x, mask = torch.randint(0, 3, (30, 2, 3, 4)).double(), torch.rand(size) < 0.5
    stays = mask.expand(30, 2, 3, 4)
    came = p.sample((30,), given=x, mask=mask)
    assert torch.equal(came[stays], x[stays])
    assert not torch.equal(came[~stays], x[~stays])


def test_one_image_can_be_completed_many_times():
    p = density("pixelcnn", (1, 2, 3))
    x, mask = torch.ones(1, 2, 3), torch.tensor([[True, True, True], [False] * 3])
    came = p.sample((50,), given=x, mask=mask)
    assert (came[:, :, 0] == 1).all()
    assert len(came.unique(dim=0)) > 1


@every_network
@pytest.mark.parametrize("num_known", [1, 2, 4])
def test_after_a_prefix_is_known_the_rest_is_drawn_from_its_exact_conditional(name, num_known):
    """p(rest | prefix) = p(x) / Σ p(x'), over all images x' that begin so."""
    shape = (1, 2, 3)
    p = density(name, shape)
    mask = (torch.arange(6) < num_known).reshape(1, 2, 3)
    x = torch.tensor([1.0, 0, 1, 1, 0, 0]).reshape(shape)
    begins_so = (all_images(2, shape) == x)[:, mask].all(1)
    log_prob = torch.where(begins_so, log_prob_of_all(p), -torch.inf).log_softmax(0)
    check_draws_fit(p, p.sample((NUM,), given=x, mask=mask), log_prob)
    with pytest.raises(AssertionError):
        check_draws_fit(p, p.sample((NUM,), given=1 - x, mask=mask), log_prob)


@every_network
def test_a_known_later_pixel_has_no_influence(name):
    shape = (2, 3, 3)
    p = density(name, shape, THREE_LEVELS)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[1, 1] = mask[2] = True
    drawn = []
    for known in (0.0, 2.0):
        torch.manual_seed(1)
        drawn.append(p.sample((20,), given=torch.full(shape, known), mask=mask))
    before = torch.arange(9).reshape(3, 3) < 4
    assert torch.equal(drawn[0][..., before], drawn[1][..., before])
    after = (torch.arange(9).reshape(3, 3) >= 4) & ~mask
    assert not torch.equal(drawn[0][..., after], drawn[1][..., after])  # but on what comes after it, it has


@every_network
def test_drawn_pixels_between_known_ones_are_conditioned_on_earlier_ones_only(name):
    """Π over the unknown pixels of p(x_i | x_<i), the known ones as they are."""
    torch.manual_seed(3)  # of which the known pixels say much about those before them
    shape = (1, 2, 3)
    p = density(name, shape)
    mask = torch.tensor([[False, True, False], [True, False, True]])
    x = torch.tensor([[0.0, 1, 0], [1, 0, 1]])[None]
    images = all_images(2, shape)
    agrees = (images == x)[:, :, mask].all((1, 2))
    log_prob = p.log_prob_map(images)[:, :, ~mask].sum((1, 2)).detach()
    log_prob = torch.where(agrees, log_prob, -torch.inf)
    assert abs(log_prob.exp().sum() - 1) < 1e-9
    check_draws_fit(p, p.sample((NUM,), given=x, mask=mask), log_prob)
    bayes = torch.where(agrees, log_prob_of_all(p), -torch.inf).log_softmax(0)
    with pytest.raises(AssertionError):  # which is not p(unknown | known)
        check_draws_fit(p, p.sample((NUM,), given=x, mask=mask), bayes)


def test_what_is_given_where_the_mask_is_false_is_of_no_account():
    p = density("pixelcnn", (1, 2, 2))
    mask = torch.tensor([[True, False], [False, False]])
    came = p.sample((5,), given=torch.tensor([[[1.0, torch.nan], [-7, 0.5]]]), mask=mask)
    assert (came[:, 0, 0, 0] == 1).all()
    assert set(came.unique().tolist()) == {0, 1}


@every_network
def test_all_known_is_the_image_itself_and_none_known_is_a_draw(name):
    shape = (2, 2, 3)
    p = density(name, shape, THREE_LEVELS)
    x = torch.randint(0, 3, (4, *shape)).double()
    assert torch.equal(p.sample((4,), given=x, mask=torch.ones(2, 3).bool()), x)
    drawn = []
    for options in ({}, {"given": x, "mask": torch.zeros(2, 3).bool()}):
        torch.manual_seed(1)
        drawn.append(p.sample((4,), **options))
    assert torch.equal(*drawn)
