"""FactoredImage as a Pyro site: plates, expansion, objectives; SVI with an empty guide is maximum likelihood."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from image_networks import BINARY, CONTEXTS, MIXTURE, NETWORKS, THREE_LEVELS, build, density
from laws import check_draws_fit, check_equal, log_prob_of_all
from oracles import all_images
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from probgen.distributions import FactoredImage

every_network = pytest.mark.parametrize("name", NETWORKS)
every_context = pytest.mark.parametrize("kind", CONTEXTS)
SHAPE = (2, 2, 3)


def some(kind, num, conditional=THREE_LEVELS):
    return density("gated-pixelcnn", SHAPE, conditional, CONTEXTS[kind](num, SHAPE))


def program(p, num):
    """An image for each entry of a plate."""

    def model(x=None):
        with pyro.plate("images", num):
            return pyro.sample("x", p, obs=x)

    return model


def empty_guide(x=None):
    pass


# --- shapes


@every_context
def test_expanded_it_is_the_same_density_over_a_larger_batch(kind):
    p = some(kind, 3)
    batch = (5, *(p.batch_shape or (3,)))
    wide = p.expand(batch)
    assert (wide.batch_shape, wide.event_shape) == (batch, SHAPE)
    assert wide.shape((2,)) == wide.sample((2,)).shape == (2, *batch, *SHAPE)
    x = wide.sample()
    check_equal(wide.log_prob(x), p.log_prob(x))
    check_equal(wide.log_prob(x[0]), p.log_prob(x[0]).expand(batch))
    assert len(x.flatten(0, 1).unique(dim=0)) > 5  # each entry is a draw of its own


def test_contexts_of_several_batch_axes_score_and_draw_each_by_itself():
    p = some("map", 6)
    grid = FactoredImage(p.network, p.conditional, SHAPE, p.context.reshape(2, 3, *p.context.shape[1:]))
    assert grid.batch_shape == (2, 3)
    x = grid.sample((4,))
    assert x.shape == (4, 2, 3, *SHAPE)
    check_equal(grid.log_prob(x), p.log_prob(x.reshape(4, 6, *SHAPE)).reshape(4, 2, 3))


def test_an_image_is_scored_under_every_context_of_a_batch():
    p = some("vector", 3)
    x = p.sample()[0]
    alone = [FactoredImage(p.network, p.conditional, SHAPE, context).log_prob(x) for context in p.context]
    check_equal(p.log_prob(x), torch.stack(alone))
    assert p.log_prob(x[None, None].expand(5, 1, *SHAPE)).shape == (5, 3)


def test_an_axis_of_the_batch_can_become_one_of_the_event():
    p = some("vector", 3).to_event(1)
    assert (p.batch_shape, p.event_shape) == ((), (3, *SHAPE))
    x = p.sample()
    check_equal(p.log_prob(x), p.base_dist.log_prob(x).sum())


# --- in a program


@every_network
@every_context
def test_in_a_plate_pyro_scores_and_draws_each_image(name, kind):
    p = density(name, SHAPE, MIXTURE, CONTEXTS[kind](4, SHAPE))
    x = p.expand((4,)).sample()
    trace = poutine.trace(program(p, 4)).get_trace(x)
    trace.compute_log_prob()
    check_equal(trace.nodes["x"]["log_prob"], p.log_prob(x))
    drawn = poutine.trace(program(p, 4)).get_trace(None)
    assert drawn.nodes["x"]["value"].shape == (4, *SHAPE)
    assert len(drawn.nodes["x"]["value"].unique(dim=0)) > 1
    drawn.compute_log_prob()
    check_equal(drawn.nodes["x"]["log_prob"], p.log_prob(drawn.nodes["x"]["value"]))


@pytest.mark.parametrize("kind", ["none", "vector"])
def test_what_a_plate_draws_fits_the_density(kind):
    shape = (1, 2, 2)
    p = density("gated-pixelcnn", shape, BINARY, CONTEXTS[kind](1, shape))
    log_prob = log_prob_of_all(p).reshape(16)
    check_draws_fit(p, program(p, 5000)(), log_prob)


def test_in_two_plates_there_is_an_image_for_each_pair():
    p = some("none", 0)
    with pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 2, dim=-2):
        x = pyro.sample("x", p)
    assert x.shape == (2, 3, *SHAPE)


def test_out_of_a_plate_it_is_one_image():
    trace = poutine.trace(lambda: pyro.sample("x", some("none", 0))).get_trace()
    assert trace.nodes["x"]["value"].shape == SHAPE
    assert trace.log_prob_sum().shape == ()


def test_a_subsampling_plate_takes_its_contexts_along():
    context = CONTEXTS["vector"](6, SHAPE)
    p = density("pixelcnn", SHAPE, THREE_LEVELS, context)
    x = p.sample()

    def model():
        with pyro.plate("images", 6, subsample=torch.tensor([4, 1])) as rows:
            pyro.sample("x", FactoredImage(p.network, p.conditional, SHAPE, context[rows]), obs=x[rows])

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    check_equal(trace.nodes["x"]["unscaled_log_prob"], p.log_prob(x)[[4, 1]])


@every_network
@every_context
def test_the_elbo_with_an_empty_guide_is_the_log_likelihood(name, kind):
    p = density(name, SHAPE, THREE_LEVELS, CONTEXTS[kind](4, SHAPE))
    x = p.expand((4,)).sample()
    loss = Trace_ELBO().differentiable_loss(program(p, 4), empty_guide, x)
    check_equal(loss, -p.log_prob(x).sum())
    parameters = list(p.network.parameters())
    came = torch.autograd.grad(loss, parameters)
    expected = torch.autograd.grad(-p.log_prob(x).sum(), parameters)
    for one, other in zip(came, expected, strict=True):
        check_equal(one, other)
        assert one.abs().max() > 0, "a parameter without a gradient"


# --- as the decoder of a latent variable model


class LatentPixels(nn.Module):
    """z ~ N(0, I); x | z by the chain rule, with a map of features that z is decoded to as its context."""

    def __init__(self, name):
        super().__init__()
        self.decoder = nn.Linear(2, 2 * 2 * 3).double()
        self.network = build(name, SHAPE, 3, context_shape=(2, 2, 3))

    def images(self, z):
        context = self.decoder(z).unflatten(-1, (2, 2, 3))
        return FactoredImage(self.network, THREE_LEVELS, SHAPE, context)

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            return pyro.sample("x", self.images(z), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


@every_network
def test_gradients_pass_through_the_context_to_the_decoder(name):
    pair = LatentPixels(name)
    x = torch.randint(0, 3, (5, *SHAPE)).double()
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    loss.differentiable_loss(pair.model, pair.guide, x).backward()
    assert pair.decoder.weight.grad.abs().min() > 0
    assert pair.decoder.weight.grad.shape == (12, 2)


def test_particles_of_a_latent_are_a_batch_axis_of_the_image():
    pair = LatentPixels("gated-pixelcnn")
    z, x = torch.randn(7, 5, 2).double(), torch.randint(0, 3, (5, *SHAPE)).double()
    came = pair.images(z).log_prob(x)
    check_equal(came, torch.stack([pair.images(particle).log_prob(x) for particle in z]))
    assert came.shape == (7, 5)


# --- learning


IMAGES = all_images(2, (1, 2, 2))
COUNTS = torch.tensor([9, 0, 1, 2, 0, 4, 3, 1, 1, 5, 0, 2, 7, 0, 1, 4])
DATA = IMAGES.repeat_interleave(COUNTS, 0)


def of_data(network):
    def model(x):
        pyro.module("network", network)
        with pyro.plate("images", len(x)):
            pyro.sample("x", FactoredImage(network, BINARY, (1, 2, 2), check_network=False), obs=x)

    return model


@every_network
def test_maximizing_the_elbo_reaches_the_entropy_of_the_data(name):
    """The cross-entropy of a density is never below the entropy of the data, and a rich one comes down to it."""
    network = build(name, (1, 2, 2), features=8)
    share = COUNTS / COUNTS.sum()
    entropy = -torch.xlogy(share, share).sum().item()
    model, elbo, losses = of_data(network), Trace_ELBO(), []
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(model, empty_guide, DATA) / len(DATA)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) > entropy - 1e-6
    assert losses[-1] < entropy + 0.02
    masses = FactoredImage(network, BINARY, (1, 2, 2)).log_prob(IMAGES).exp()
    assert (masses - share).abs().max() < 0.03


def test_a_step_of_svi_is_a_step_of_maximum_likelihood():
    one, other = (build("gated-pixelcnn", (1, 2, 2)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    svi = SVI(of_data(one), empty_guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
    optimizer = torch.optim.SGD(other.parameters(), lr=1e-3)
    for _ in range(3):
        loss = -FactoredImage(other, BINARY, (1, 2, 2)).log_prob(DATA).sum()
        check_equal(svi.step(DATA), loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for came, expected in zip(one.parameters(), other.parameters(), strict=True):
        check_equal(came, expected)
