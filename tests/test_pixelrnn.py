"""The recurrent causal networks: what each pixel sees, and one pass of the whole image for one walk of the cursor."""

import itertools

import pytest
import torch
from laws import check_equal, check_per_image
from torch.utils.flop_counter import FlopCounterMode

from probgen.distributions.causality import check_causal, in_order
from probgen.distributions.conditionals import Conditional
from probgen.distributions.factored import FactoredImage
from probgen.errors import UserError
from probgen.layers import Cursor, DiagonalBiLSTMNetwork, RasterLSTMNetwork, RowLSTMNetwork
from probgen.layers.causal import ContextBias
from probgen.layers.diagonal_lstm import skew, unskew

NETWORKS = {"row": RowLSTMNetwork, "diagonal": DiagonalBiLSTMNetwork, "raster": RasterLSTMNetwork}
SHAPES = [(1, 5, 4), (3, 4, 5), (2, 3, 3)]
name = pytest.mark.parametrize("name", NETWORKS)
shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
layers = pytest.mark.parametrize("layers", [1, 2])
conditioned = pytest.mark.parametrize("conditioned", ["", "vector", "map"])
SMALLEST = 1e-18  # of the gradient of what is seen, through 60 steps of an LSTM: 1e-12; of the unseen, exactly 0


def made(name, shape, conditioned="", layers=2, outputs=2, **options):
    """A small network in double precision, with parameters so large that distant pixels matter."""
    context_shape = {"": None, "vector": (4,), "map": (4, *shape[1:])}[conditioned]
    network = NETWORKS[name](shape, outputs, features=4, layers=layers, context_shape=context_shape, **options).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def images(network, num):
    """Images on [−1, 1] and a context for each."""
    x = 2 * torch.rand(num, *network.image_shape).double() - 1
    return x, None if network.context_shape is None else torch.randn(num, *network.context_shape).double()


def walked(network, x, context):
    """The numbers of every conditional, pixel by pixel: each is asked for before its value is drawn."""
    channels, height, width = network.image_shape
    seen, numbers = torch.full_like(x, -1), torch.zeros(len(x), network.outputs, *x.shape[1:]).double()
    cursor = Cursor(height, width, channels)
    with torch.no_grad():
        for place in cursor:
            numbers[:, :, *place] = network(seen, context, cursor)
            seen[:, *place] = x[:, *place]
    return numbers


def sight(network, num=4):
    """|∂ numbers of place t / ∂ value of place s|, t s: the largest of a few images, of a random sum of the numbers."""
    size = torch.Size(network.image_shape).numel()
    x, context = images(network, num)
    x = x.repeat_interleave(size, 0).requires_grad_()
    numbers = in_order(network(x, None if context is None else context.repeat_interleave(size, 0)))
    place = torch.arange(size).repeat(num)
    of_place = numbers[torch.arange(len(x)), :, place] * torch.randn(network.outputs).double()
    (gradient,) = torch.autograd.grad(of_place.sum(), x)
    return in_order(gradient[:, None]).abs().reshape(num, size, size).amax(0)


def check_sees(came, expected):
    """The expected gradients are there, and no other: clearly not 0 where one should be, 0 elsewhere."""
    expected = torch.as_tensor(expected)
    assert (came[~expected] == 0).all(), f"{(came[~expected] != 0).sum()} pixels see what they must not"
    assert (came[expected] > SMALLEST).all(), f"{(came[expected] <= SMALLEST).sum()} pixels do not see what they could"


def earlier(shape):
    """Whether s comes before t, t s."""
    size = torch.Size(shape).numel()
    return torch.ones(size, size).tril(-1).bool()


def triangle(shape):
    """What one Row LSTM layer sees, with kernels of 3: in its row two pixels, above it a triangle to both sides.

    d rows above, the states of d pixels to each side take part; their gates look a pixel further to the left, and the
    first layer, which looks at a pixel's left neighbour and the three pixels above it, one more.
    """
    pixels = [(i, j, g) for i in range(shape[1]) for j in range(shape[2]) for g in range(shape[0])]

    def sees(here, there):
        (i, j, g), (row, column, channel) = here, there
        above = i - row
        if above == 0:
            return j - 2 <= column < j or (column == j and channel < g)
        return above > 0 and j - above - 2 <= column <= j + above

    return torch.tensor([[sees(here, there) for there in pixels] for here in pixels])


# --- what each pixel sees


@name
@shape
@layers
@conditioned
def test_no_pixel_sees_itself_or_a_later_one(name, shape, layers, conditioned):
    came = sight(made(name, shape, conditioned, layers))
    assert (came[~earlier(shape)] == 0).all()
    assert (came[earlier(shape)] > SMALLEST).float().mean() > 0.9  # else being blind to the rest would say nothing


@pytest.mark.parametrize("name", ["diagonal", "raster"])
@shape
@layers
@pytest.mark.parametrize("first_kernel", [3, 7])
def test_diagonal_and_raster_lstm_see_all_earlier_pixels(name, shape, layers, first_kernel):
    options = {"first_kernel": first_kernel} if name == "diagonal" else {}
    check_sees(sight(made(name, shape, layers=layers, **options)), earlier(shape))


@shape
def test_row_lstm_sees_a_triangle_and_is_blind_beside_it(shape):
    expected = triangle(shape)
    assert (earlier(shape) & ~expected).any()
    check_sees(sight(made("row", shape, layers=1, first_kernel=3)), expected)


def test_from_the_right_the_last_pixel_above_is_seen_in_the_image_only():
    """The features of a pixel lag behind its value, and those of a row's last pixel come too late for it."""
    network = made("diagonal", (1, 4, 6), first_kernel=3)
    with torch.no_grad():
        for layer in network.layers:
            layer.right.weight[:, -1] = 0
    expected = earlier((1, 4, 6)).reshape(4, 6, 4, 6)
    for i, j in itertools.product(range(1, 4), range(4)):
        expected[i, j, i - 1, 5] = False
    check_sees(sight(network), expected.reshape(24, 24))


@name
@conditioned
def test_first_conditional_knows_no_pixel_and_the_last_one_does(name, conditioned):
    network = made(name, (2, 3, 3), conditioned)
    x, context = images(network, 3)
    context = None if context is None else context[:1].expand_as(context)
    numbers = in_order(network(x, context))
    check_equal(numbers[:, :, 0], numbers[:1, :, 0].expand(3, -1))
    assert numbers[:, :, -1].std(0).min() > 1e-5


@name
@shape
@pytest.mark.parametrize("conditioned", ["vector", "map"])
def test_context_reaches_every_place_by_every_way(name, shape, conditioned):
    network = made(name, shape, conditioned)
    size = torch.Size(shape).numel()
    x, context = (numbers.repeat_interleave(size, 0) for numbers in images(network, 4))
    one, place = torch.arange(4 * size), torch.arange(size).repeat(4)  # one image for each place, four times
    in_order(network(x, context.requires_grad_()))[one, :, place].sum().backward()
    came = context.grad.flatten(2)[one, :, place // shape[0]] if conditioned == "map" else context.grad
    assert (came.abs().reshape(4, size, 4).amax(0) > SMALLEST).all()
    weights = [module.linear.weight for module in network.modules() if isinstance(module, ContextBias)]
    assert len(weights) == {"row": 2, "diagonal": 4, "raster": 1}[name]
    assert all((weight.grad.abs().amax(1) > SMALLEST).all() for weight in weights)


@name
def test_every_parameter_learns(name):
    network = made(name, (2, 3, 3), "vector")
    network(*images(network, 4)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in network.parameters())


# --- whole images, and pixel by pixel


@name
@shape
@layers
@conditioned
def test_walk_of_the_cursor_gives_what_the_whole_pass_gives(name, shape, layers, conditioned):
    network = made(name, shape, conditioned, layers)
    x, context = images(network, 3)
    whole = network(x, context)
    assert whole.shape == (3, 2, *shape)
    assert whole.std() > 1e-2  # else equality would say nothing
    check_equal(walked(network, x, context), whole)


@name
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (2, 4, 1), (1, 2, 9)], ids=str)
def test_images_of_one_row_or_column(name, shape):
    network = made(name, shape)
    x, _ = images(network, 2)
    check_equal(walked(network, x, None), network(x))


@pytest.mark.parametrize("kernel", [1, 5])
def test_kernel_of_the_row_lstm(kernel):
    network = made("row", (2, 3, 4), kernel=kernel, first_kernel=3)
    x, _ = images(network, 2)
    check_equal(walked(network, x, None), network(x))


@name
@shape
def test_walk_takes_the_arithmetic_of_one_pass(name, shape):
    network = made(name, shape)
    x, _ = images(network, 2)
    with FlopCounterMode(display=False) as whole:
        network(x)
    with FlopCounterMode(display=False) as walk:
        walked(network, x, None)
    assert 0 < walk.get_total_flops() < 1.1 * whole.get_total_flops()


@name
def test_each_image_by_itself(name):
    network = made(name, (2, 4, 3))
    check_per_image(network, images(network, 4)[0])


@name
@shape
@pytest.mark.parametrize("completed", [False, True])
def test_cached_draws_are_those_of_whole_passes(name, shape, completed):
    network = made(name, shape, "vector", outputs=3)
    p = FactoredImage(network, Conditional("categorical", 3), shape, torch.randn(4, 4).double())
    known = {"given": torch.randint(3, (2, 4, *shape)), "mask": torch.rand(shape) < 0.4} if completed else {}
    drawn = []
    for cached in (True, False):
        torch.manual_seed(1)
        drawn.append(p.sample((2,), **known, cached=cached))
    check_equal(*drawn)
    assert len(drawn[0].unique()) == 3
    assert not completed or (drawn[0] == known["given"])[..., known["mask"]].all()


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 5), (5, 1), (3, 4), (4, 3)])
def test_unskew_is_the_inverse_of_skew_and_diagonals_are_diagonals(h, w):
    maps = torch.randn(2, h, w, 3)
    diagonals = skew(maps)
    check_equal(unskew(diagonals, h, w), maps)
    for d, diagonal in enumerate(diagonals):
        rows = [i for i in range(h) if 0 <= d - i < w]
        check_equal(diagonal, torch.stack([maps[:, i, d - i] for i in rows], 1))


# --- twins that are not causal, and are found out


def states_from_the_right_in_their_own_row(shape, monkeypatch):
    monkeypatch.setattr("probgen.layers.diagonal_lstm.shifted_down", lambda x: x)
    return made("diagonal", shape)


def no_mask_along_the_row(shape, monkeypatch):
    network = made("row", shape)
    for layer in network.layers:
        layer.along.mask.fill_(1)
    return network


def value_read_before_it_is_predicted(shape, monkeypatch):
    monkeypatch.setattr("probgen.layers.raster_lstm.delayed", lambda values: values)
    return made("raster", shape)


TWINS = [
    states_from_the_right_in_their_own_row,
    no_mask_along_the_row,
    value_read_before_it_is_predicted,
]


@pytest.mark.parametrize("twin", TWINS)
@shape
def test_leaks_are_found(twin, shape, monkeypatch):
    network = twin(shape, monkeypatch)
    with pytest.raises(UserError, match=r"not causal: the distribution of the pixel at row \d"):
        check_causal(network, shape, torch.zeros(()).double())
    assert (sight(network)[~earlier(shape)] > SMALLEST).any()


@name
@shape
def test_the_networks_pass_the_check_that_finds_leaks(name, shape):
    check_causal(made(name, shape), shape, torch.zeros(()).double())
