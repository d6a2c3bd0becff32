"""Densities of images by the chain rule: mass one, the product of their conditionals, draws that fit them."""

import itertools

import pytest
import torch
from image_networks import BINARY, CONTEXTS, MIXTURE, NETWORKS, THREE_LEVELS, build, density
from laws import check_chain_rule, check_draws_fit, check_equal, check_estimate, check_mass_is_one, log_prob_of_all
from oracles import all_images

from probgen.distributions import Conditional, DiscretizedLogistic, FactoredImage
from probgen.layers.masks import causal_mask

every_network = pytest.mark.parametrize("name", NETWORKS)
every_context = pytest.mark.parametrize("kind", CONTEXTS)
GRIDS = {  # every image of them can be listed
    "2x3-binary": ((1, 2, 3), BINARY),
    "2x2-three-levels": ((1, 2, 2), THREE_LEVELS),
    "2x2-mixture": ((1, 2, 2), MIXTURE),
    "colour-2x1-binary": ((3, 2, 1), BINARY),
    "colour-1x2-binary": ((3, 1, 2), BINARY),
    "two-channels-1x2-mixture": ((2, 1, 2), MIXTURE),
    "one-colour-pixel-five-levels": ((3, 1, 1), Conditional("categorical", 5)),
    "one-pixel-256-levels": ((1, 1, 1), Conditional("logistic-mixture", 256, 3)),
    "five-in-a-column": ((1, 5, 1), BINARY),
}
every_grid = pytest.mark.parametrize("grid", GRIDS)


# --- the density


@every_network
@every_grid
def test_the_mass_of_all_images_is_one_and_the_map_is_the_conditionals(name, grid):
    p = density(name, *GRIDS[grid])
    check_mass_is_one(p)
    check_chain_rule(p)


@every_network
@pytest.mark.parametrize("kind", ["vector", "map"])
def test_so_it_is_under_every_context(name, kind):
    shape = (2, 2, 1)
    p = density(name, shape, THREE_LEVELS, CONTEXTS[kind](3, shape))
    check_mass_is_one(p)
    log_prob = log_prob_of_all(p)
    assert (log_prob[:, 0] - log_prob[:, 1]).abs().max() > 1e-2  # and contexts matter


@every_network
def test_log_prob_is_the_product_of_conditionals_one_after_the_other(name):
    """Each conditional from a pass that has not seen its pixel or any later one."""
    shape, family = (2, 2, 3), THREE_LEVELS
    p = density(name, shape, family)
    x = torch.randint(0, 3, (5, *shape)).double()
    total, before = torch.zeros(5).double(), torch.zeros_like(x)
    for i, j, c in itertools.product(range(2), range(3), range(2)):
        numbers = p.network(before - 1)[:, :, c, i, j]  # levels 0, 1, 2 are −1, 0, 1 to the network
        total += numbers.log_softmax(1)[torch.arange(5), x[:, c, i, j].long()]
        before[:, c, i, j] = x[:, c, i, j]
    check_equal(p.log_prob(x), total)
    check_equal(p.log_prob_map(x).sum((1, 2, 3)), total)


@every_network
def test_the_first_conditional_ignores_the_image(name):
    p = density(name, (3, 2, 3))
    x = torch.randint(0, 2, (40, 3, 2, 3)).double()
    first = p.log_prob_map(x)[:, 0, 0, 0].exp()
    on = x[:, 0, 0, 0] == 1
    check_equal(first[on], first[on][:1].expand(on.sum()))
    check_equal(first[~on], 1 - first[on][:1].expand((~on).sum()))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (1, 5, 1), (3, 2, 7)], ids=str)
@every_network
def test_images_of_every_size_in_every_batch(name, shape):
    p = density(name, shape, THREE_LEVELS)
    for batch in [(), (1,), (2, 3)]:
        x = p.sample(batch)
        assert x.shape == (*batch, *shape)
        assert p.log_prob(x).shape == batch
        assert p.log_prob_map(x).shape == (*batch, *shape)
        check_equal(p.log_prob(x), p.log_prob_map(x).sum((-3, -2, -1)))


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
@every_context
def test_no_images_have_no_numbers(name, kind):
    p = density(name, (1, 2, 3), BINARY, CONTEXTS[kind](0, (1, 2, 3)))
    batch = p.batch_shape or (0,)
    x = p.expand(batch).sample()
    assert x.shape == (0, 1, 2, 3)
    assert p.log_prob(x).shape == (0,)


@every_network
def test_each_image_is_scored_by_itself(name):
    shape = (2, 3, 4)
    p = density(name, shape, MIXTURE)
    x = p.sample((4, 3))
    alone = torch.stack([torch.stack([p.log_prob(image) for image in row]) for row in x])
    check_equal(p.log_prob(x), alone)
    assert len(alone.unique()) == 12


@every_network
def test_levels_of_any_type_are_scored_alike(name):
    p = density(name, (2, 2, 3), THREE_LEVELS)
    x = p.sample((5,))
    for dtype in (torch.uint8, torch.int64, torch.float32):
        assert torch.equal(p.log_prob(x.to(dtype)), p.log_prob(x))


@every_network
@every_context
def test_float32_scores_as_float64_does(name, kind):
    shape = (3, 3, 3)
    p = density(name, shape, Conditional("logistic-mixture", 256), CONTEXTS[kind](2, shape))
    x = torch.randint(0, 256, (2, *shape))
    context = None if p.context is None else p.context.float()
    single = FactoredImage(p.network.float(), p.conditional, shape, context)
    came = single.log_prob(x)
    assert came.dtype == torch.float32
    check_equal(came, single_to_double(single).log_prob(x), 1e-4)


def single_to_double(p):
    context = None if p.context is None else p.context.double()
    return FactoredImage(p.network.double(), p.conditional, p.event_shape, context)


@every_network
@every_context
def test_saved_and_loaded_gives_the_same_numbers(name, kind, tmp_path):
    shape = (2, 2, 3)
    context = CONTEXTS[kind](1, shape)
    options = {} if context is None else {"context_shape": context.shape[1:]}
    one, other = (build(name, shape, 3, **options) for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "weights.pt")
    before, after = (FactoredImage(network, THREE_LEVELS, shape, context) for network in (one, other))
    x = before.sample((5,))
    assert not torch.equal(after.log_prob(x), before.log_prob(x))
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(after.log_prob(x), before.log_prob(x))
    draws = []
    for p in (before, after):
        torch.manual_seed(3)
        draws.append(p.sample((5,)))
    assert torch.equal(*draws)


@every_network
def test_training_mode_changes_no_number_and_is_left_as_it_was(name):
    network = build(name, (1, 3, 3)).train()
    part = next(network.children()).eval()  # a part that is frozen
    p = FactoredImage(network, BINARY, (1, 3, 3))
    assert network.training
    assert not part.training
    x = p.sample((5,))
    trained = p.log_prob(x)
    assert network.training
    network.eval()
    assert torch.equal(p.log_prob(x), trained)


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "row-lstm", "diagonal-bilstm"])
def test_channels_last_gives_the_same_numbers(name):
    network = build(name, (3, 4, 5), 3)
    p = FactoredImage(network, THREE_LEVELS, (3, 4, 5))
    x = p.sample((4,))
    before, seeds = p.log_prob(x), []
    torch.manual_seed(3)
    seeds.append(p.sample((4,)))
    network.to(memory_format=torch.channels_last)
    check_equal(p.log_prob(x.to(memory_format=torch.channels_last)), before)
    torch.manual_seed(3)
    assert torch.equal(p.sample((4,)), seeds[0])


# --- entropy


@pytest.mark.parametrize("kind", ["none", "vector"])
def test_the_entropy_is_estimated_from_draws(kind):
    shape = (1, 2, 2)
    p = density("gated-pixelcnn", shape, THREE_LEVELS, CONTEXTS[kind](2, shape))
    log_prob = log_prob_of_all(p)
    exact = -(log_prob.exp() * log_prob).sum(0)
    estimates = torch.stack([p.entropy(200) for _ in range(30)])
    check_estimate(estimates, exact, largest_error=0.02)
    assert not estimates.requires_grad


# --- broken twins


def masked(shape, kind):
    """A PixelCNN whose first mask is of that kind."""
    network = build("pixelcnn", shape)
    first = network.first
    first.mask = causal_mask(kind, *first.weight.shape[:2], 3, 3, shape[0])[:, :, :2].double()
    return FactoredImage(network, BINARY, shape, check_network=False)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2, 1)], ids=str)
def test_a_mask_that_leaks_the_pixel_itself_has_not_mass_one(shape):
    check_mass_is_one(masked(shape, "A"))
    check_chain_rule(masked(shape, "A"))
    with pytest.raises(AssertionError, match="masses sum"):
        check_mass_is_one(masked(shape, "B"))
    with pytest.raises(AssertionError):
        check_chain_rule(masked(shape, "B"))


def test_a_mask_that_leaks_to_the_right_has_not_mass_one():
    p = masked((1, 2, 3), "A")
    p.network.first.mask[..., -1, 2] = 1
    with pytest.raises(AssertionError, match="masses sum"):
        check_mass_is_one(p)


class NoTails(Conditional):
    """Broken: the outermost bins of the mixture are as narrow as the others."""

    def log_prob(self, numbers, value):
        logits, loc, scale = self.mixture(numbers)
        wider = DiscretizedLogistic(loc + 1, scale, self.levels + 2, validate_args=False)
        return (logits.log_softmax(1) + wider.log_prob(value[:, None] + 1)).logsumexp(1)


def test_dropped_edge_bins_have_not_mass_one():
    network = build("gated-pixelcnn", (1, 2, 2), MIXTURE.size)
    check_mass_is_one(FactoredImage(network, MIXTURE, (1, 2, 2)))
    with pytest.raises(AssertionError, match="masses sum"):
        check_mass_is_one(FactoredImage(network, NoTails("logistic-mixture", 3, 2), (1, 2, 2)))


class TransposedMap(FactoredImage):
    """Broken: the terms sum to the density but stand at other pixels."""

    def log_prob_map(self, value):
        return super().log_prob_map(value).flip(2)


def test_conditionals_at_the_wrong_pixels_are_rejected():
    p = TransposedMap(build("gated-pixelcnn", (1, 2, 2)), BINARY, (1, 2, 2))
    check_mass_is_one(p)
    with pytest.raises(AssertionError):
        check_chain_rule(p)


def test_draws_of_another_network_do_not_fit():
    p, q = density("gated-pixelcnn", (1, 2, 3)), density("gated-pixelcnn", (1, 2, 3))
    check_draws_fit(p, p.sample((10_000,)))
    with pytest.raises(AssertionError, match="frequencies"):
        check_draws_fit(p, q.sample((10_000,)))


def test_every_image_is_listed_once():
    assert len(all_images(3, (1, 2, 2)).unique(dim=0)) == 81
