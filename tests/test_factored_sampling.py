"""Draws of images by the chain rule: they fit the density, and are the same cached or not."""

import pytest
import torch
from image_networks import BINARY, CONTEXTS, MIXTURE, NETWORKS, THREE_LEVELS, density
from laws import check_draws_fit, check_same_draws, log_prob_of_all

from probgen.distributions import Conditional
from probgen.layers.causal import RowMemory

every_network = pytest.mark.parametrize("name", NETWORKS)
every_context = pytest.mark.parametrize("kind", CONTEXTS)
GRIDS = {
    "2x3-binary": ((1, 2, 3), BINARY),
    "2x2-three-levels": ((1, 2, 2), THREE_LEVELS),
    "colour-1x2-binary": ((3, 1, 2), BINARY),
    "two-channels-2x1-mixture": ((2, 2, 1), MIXTURE),
}
NUM = 5000


# --- draws fit the density


@every_network
@pytest.mark.parametrize("grid", GRIDS)
def test_draws_have_the_frequencies_of_the_masses(name, grid):
    p = density(name, *GRIDS[grid])
    check_draws_fit(p, p.sample((NUM,)))


@every_network
@pytest.mark.parametrize("kind", ["vector", "map"])
def test_draws_under_each_context_fit_its_density(name, kind):
    shape = (1, 2, 2)
    p = density(name, shape, BINARY, CONTEXTS[kind](2, shape))
    draws, log_prob = p.sample((NUM,)), log_prob_of_all(p)
    for i in range(2):
        check_draws_fit(p, draws[:, i], log_prob[:, i])
    with pytest.raises(AssertionError, match="frequencies"):
        check_draws_fit(p, draws[:, 0], log_prob[:, 1])


def means_fed_back(p, num):
    """Broken: what each pixel is conditioned on is the mean of the pixels before it, not what was drawn there."""
    shape, top = p.event_shape, p.conditional.levels - 1
    drawn, seen = torch.zeros(2, num, *shape, dtype=torch.float64)
    for i in range(shape[1]):
        for j in range(shape[2]):
            numbers = p.network(seen * (2 / top) - 1)[:, :, 0, i, j]
            drawn[:, 0, i, j] = p.conditional.draw(numbers, torch.rand(num, p.conditional.noise_size).double())
            masses = p.conditional.probabilities(numbers)
            seen[:, 0, i, j] = (torch.arange(top + 1.0, dtype=torch.float64) @ masses).detach()
    return drawn


@every_network
@pytest.mark.parametrize("grid", ["2x2-three-levels"])
def test_a_sampler_that_feeds_back_the_mean_is_rejected(name, grid):
    p = density(name, *GRIDS[grid])
    with pytest.raises(AssertionError, match="frequencies"):
        check_draws_fit(p, means_fed_back(p, NUM))


# --- cached equals naive


@every_network
@every_context
@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 3, 2)], ids=str)
def test_the_cached_sampler_draws_what_the_naive_one_draws(name, kind, shape):
    check_same_draws(density(name, shape, MIXTURE, CONTEXTS[kind](2, shape)))


@every_network
@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (2, 2, 7), (3, 1, 1)], ids=str)
def test_so_it_does_at_odd_sizes(name, shape):
    check_same_draws(density(name, shape, THREE_LEVELS))


@pytest.mark.parametrize(("first_kernel", "kernel"), [(1, 3), (5, 1), (7, 5)])
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn", "row-lstm"])
def test_so_it_does_with_every_kernel_and_depth(name, depth, first_kernel, kernel):
    p = density(name, (2, 3, 3), THREE_LEVELS, depth=depth, first_kernel=first_kernel, kernel=kernel)
    check_same_draws(p)


@every_network
def test_so_it_does_in_a_completion_and_at_another_temperature(name):
    shape = (2, 4, 3)
    p = density(name, shape, THREE_LEVELS)
    mask = torch.rand(20, *shape) < 0.5
    check_same_draws(p, given=p.sample((20,)), mask=mask, temperature=0.7)


def stays_where_it_is(begin_row):
    """Broken: a new row is written over the last one, instead of the oldest, and so no row above is ever kept."""

    def broken(self):
        self.rows = [self.rows[-1], *self.rows[:-1]]
        begin_row(self)

    return broken


def test_a_cache_that_forgets_its_rows_is_rejected(monkeypatch):
    p = density("gated-pixelcnn", (1, 5, 6), THREE_LEVELS)
    monkeypatch.setattr(RowMemory, "begin_row", stays_where_it_is(RowMemory.begin_row))
    monkeypatch.setattr(type(p.network), "links", stale_links(type(p.network).links))
    with pytest.raises(AssertionError, match=r"differ at \(channel, row, column\) .*\[0, [1-4], "):
        check_same_draws(p)


def stale_links(links):
    """Broken: the vertical stack is evaluated for the first row only."""

    def broken(self, x, context, cursor):
        if cursor is not None and cursor.row > 0:
            return [row[:, :, 0, cursor.column] for row in cursor.memory[self]]
        return links(self, x, context, cursor)

    return broken


def test_a_network_that_takes_no_cursor_is_sampled_naively():
    p = density("pixelcnn", (1, 3, 3), THREE_LEVELS)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = p.network

        def forward(self, x, context=None):
            return self.inner(x, context)

    q = type(p)(Plain(), THREE_LEVELS, (1, 3, 3))
    torch.manual_seed(2)
    came = q.sample((5,))
    torch.manual_seed(2)
    assert torch.equal(came, p.sample((5,)))


# --- what a draw leaves behind


def test_a_draw_is_an_ordinary_tensor_that_autograd_can_use():
    p = density("gated-pixelcnn", (1, 3, 3))
    x = p.sample((4,))
    assert not x.requires_grad
    assert not x.is_inference()
    p.log_prob(x).sum().backward()
    assert all(parameter.grad is not None for parameter in p.network.parameters())
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (x * scale).sum().backward()
    assert scale.grad == x.sum()


def stop(image):
    raise KeyboardInterrupt


def test_the_number_of_threads_is_left_as_it_was():
    p, before = density("pixelcnn", (1, 2, 2)), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        p.sample((4,))
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyboardInterrupt):
            p.sample((4,), watch=stop)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_same_seed_gives_the_same_images_and_another_one_others():
    p, drawn = density("pixelcnn", (1, 4, 4)), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(p.sample((10,)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
@pytest.mark.parametrize("cached", [True, False])
def test_each_finished_pixel_can_be_watched(name, cached):
    p, seen = density(name, (3, 2, 3), THREE_LEVELS, first_kernel=3), []
    came = p.sample((5,), cached=cached, watch=lambda image: seen.append(image.clone()))
    assert len(seen) == 6
    assert torch.equal(seen[-1], came)
    for number, image in enumerate(seen, 1):
        finished = (torch.arange(6) < number).reshape(2, 3)
        assert torch.equal(image[..., finished], came[..., finished])
        assert (image[..., ~finished] == 0).all()


def test_a_cold_draw_is_the_most_probable_value_at_every_pixel():
    p = density("gated-pixelcnn", (1, 3, 3), Conditional("categorical", 5))
    cold = p.sample((20,), temperature=1e-6)
    assert len(cold.unique(dim=0)) == 1
    x = cold[:1]
    for level in range(5):
        for place in range(9):
            other = x.clone()
            other.reshape(-1)[place] = level
            row, column = divmod(place, 3)
            assert p.log_prob_map(other)[0, 0, row, column] <= p.log_prob_map(x)[0, 0, row, column]
