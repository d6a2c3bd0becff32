"""Generators and discriminators: shapes and ranges, who sees whom in a batch, packs, norms, classes, refusals."""

import copy
import math

import numpy as np
import pytest
import torch
from laws import check_equal
from oracles import array
from torch import nn

from probgen.errors import UserError
from probgen.layers import (
    GAN_ACTIVATIONS,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)
from probgen.layers.discriminators import spread
from probgen.layers.residual import ResidualBlock, fixup

MLP_SHAPES = [(2,), (1, 8, 8), (1, 28, 28), (3, 32, 32)]
DCGAN_SHAPES = [(1, 28, 28), (3, 32, 32), (3, 48, 48), (1, 64, 64), (2, 29, 39)]
RESNET_SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 64, 64), (2, 9, 14)]
CASES = (
    [("mlp", shape) for shape in MLP_SHAPES]
    + [("dcgan", shape) for shape in DCGAN_SHAPES]
    + [("resnet", shape) for shape in RESNET_SHAPES]
)
SMALL = [("mlp", (2,)), ("mlp", (1, 8, 8)), ("dcgan", (2, 28, 28)), ("resnet", (2, 8, 8))]
cases = pytest.mark.parametrize(("network", "shape"), CASES)
small = pytest.mark.parametrize(("network", "shape"), SMALL)


def generator(network, shape, *, latent_dim=4, norm="none", num_classes=None):
    """A small one, in float64."""
    made = {
        "mlp": lambda: MLPGenerator(latent_dim, shape, (8, 6), "relu", num_classes),
        "dcgan": lambda: DCGANGenerator(latent_dim, shape, (4, 6), norm, num_classes),
        "resnet": lambda: ResNetGenerator(latent_dim, shape, (4, 6), num_classes),
    }[network]()
    return shaken(made)


def discriminator(network, shape, *, norm="none", **options):
    """A small one, in float64."""
    made = {
        "mlp": lambda: MLPDiscriminator(shape, (8, 6), "leaky-relu", norm=norm, **options),
        "dcgan": lambda: DCGANDiscriminator(shape, (4, 6), norm=norm, **options),
        "resnet": lambda: ResNetDiscriminator(shape, (4, 6), norm=norm, **options),
    }[network]()
    return shaken(made)


def shaken(network):
    """As after some training: no weight is 0, none so small that an effect drowns in rounding."""
    network = network.double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def images(num, shape):
    return torch.randn(num, *shape, dtype=torch.float64)


def noise(num, latent_dim=4):
    return torch.randn(num, latent_dim, dtype=torch.float64)


def logits_seen(network, x):
    """Which images (columns) each logit (rows) depends on, by gradients."""
    x = x.clone().requires_grad_()
    gradients = [torch.autograd.grad(logit, x, retain_graph=True)[0] for logit in network(x)]
    return torch.stack([gradient.flatten(1).abs().amax(1) > 0 for gradient in gradients])


# --- shapes and ranges


@cases
def test_generator_makes_images_between_minus_one_and_one_and_vectors_of_any_size(network, shape):
    made = generator(network, shape)(100 * noise(5))
    assert made.shape == (5, *shape)
    assert (made.abs().max() <= 1) == (len(shape) == 3)
    assert (made.std(0) > 1e-4).any(), "z makes no difference"


@cases
def test_discriminator_gives_a_logit_and_features_for_each_image(network, shape):
    d = discriminator(network, shape)
    x = images(3, shape)
    assert d(x).shape == (3,)
    assert d.features(x).shape == (3, d.last.in_features)
    assert d(x).std() > 1e-6


@cases
def test_every_parameter_learns(network, shape):
    norms = ("none", "batch") if network == "dcgan" else ("none",)
    for norm in norms:
        g, d = generator(network, shape, norm=norm), discriminator(network, shape, norm=norm)
        d(g(noise(4))).square().sum().backward()
        for name, parameter in [*g.named_parameters(), *d.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("name", GAN_ACTIVATIONS)
def test_mlps_are_their_formula(name):
    activation = GAN_ACTIVATIONS[name]()
    g = MLPGenerator(4, (3,), (8,), name).double()
    first, _, last, _ = g.body
    z = noise(5)
    check_equal(g(z), activation(z @ first.weight.T + first.bias) @ last.weight.T + last.bias)
    d = MLPDiscriminator((3,), (8,), name).double()
    x = images(5, (3,))
    h = activation(x @ d.body[1].weight.T + d.body[1].bias)
    check_equal(d(x), (h @ d.last.weight.T + d.last.bias).squeeze(1))


def test_leaky_relu_has_slope_one_fifth():
    check_equal(GAN_ACTIVATIONS["leaky-relu"]()(torch.tensor([-5.0, 5.0])), [-1.0, 5.0])


def test_hidden_widths_go_from_the_image_inwards_and_the_generator_mirrors():
    g, d = DCGANGenerator(4, (3, 32, 32), (5, 7), "none"), DCGANDiscriminator((3, 32, 32), (5, 7), norm="none")
    convolutions = [layer for layer in d.body if isinstance(layer, nn.Conv2d)]
    transposed = [layer for layer in g.body if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.in_channels for layer in convolutions] == [3, 5, 7]
    assert [layer.out_channels for layer in transposed][::-1] == [3, 5, 7]
    dense = [layer.out_features for layer in MLPGenerator(4, (2,), (5, 7), "relu").body if isinstance(layer, nn.Linear)]
    assert dense == [5, 7, 2]


@pytest.mark.parametrize("side", range(28, 65))
def test_dcgan_reaches_every_side(side):
    shape = (1, side, 92 - side)
    g, d = DCGANGenerator(2, shape, (2,), "batch"), DCGANDiscriminator(shape, (2,), norm="batch")
    with torch.no_grad():
        assert d(g(torch.randn(2, 2))).shape == (2,)


# --- who sees whom


@small
def test_an_image_is_judged_by_itself(network, shape):
    for norm in ("none", "spectral"):
        d = discriminator(network, shape, norm=norm)
        assert logits_seen(d, images(4, shape)).equal(torch.eye(4).bool())


@small
def test_the_batch_is_seen_by_batch_norm_and_by_its_statistic(network, shape):
    d = discriminator(network, shape, minibatch_statistics=True)
    assert logits_seen(d, images(4, shape)).all()
    if network != "resnet":
        d = discriminator(network, shape, norm="batch")
        assert logits_seen(d, images(4, shape)).all()
        assert logits_seen(d.eval(), images(4, shape)).equal(torch.eye(4).bool())


@small
def test_a_pack_is_judged_by_its_images_and_no_others(network, shape):
    d = discriminator(network, shape, packing=3)
    expected = torch.block_diag(*[torch.ones(1, 3)] * 2).bool()
    assert logits_seen(d, images(6, shape)).equal(expected)
    mixed = logits_seen(lambda x: d(x[[0, 2, 4, 1, 3, 5]]), images(6, shape))
    assert not mixed.equal(expected)  # the twin: packs of images that are not consecutive


def test_packed_images_lie_side_by_side():
    d = discriminator("mlp", (2,), packing=2)
    x = images(4, (2,))
    check_equal(d(x), d.last(d.body(torch.cat([x[::2], x[1::2]], 1))).squeeze(1))
    d = discriminator("resnet", (3, 8, 8), packing=2)
    x = images(4, (3, 8, 8))
    check_equal(d(x), d.last(d.body(torch.cat([x[::2], x[1::2]], 1))).squeeze(1))


@small
def test_features_and_the_last_layer_make_the_logit(network, shape):
    for norm in ("none", "spectral"):
        d = discriminator(network, shape, norm=norm).eval()
        x = images(3, shape)
        check_equal(d(x), d.features(x) @ d.last.weight[0] + d.last.bias)


@small
def test_features_of_packs_are_those_of_an_image_among_its_copies(network, shape):
    d = discriminator(network, shape, packing=2)
    x = images(3, shape)
    copies = torch.stack([x, x], 1).flatten(0, 1)
    assert d.features(x).shape[0] == 3
    check_equal(d(copies), d.features(x) @ d.last.weight[0] + d.last.bias)


# --- the statistic of the batch


def test_minibatch_statistic_is_the_mean_standard_deviation():
    h = images(7, (5,))
    check_equal(spread(h), np.sqrt(array(h).var(0) + 1e-8).mean())
    assert abs(spread(h) - array(h).std(0, ddof=1).mean()) > 1e-2  # the twin


@small
def test_the_last_layer_sees_the_statistic_as_one_more_feature(network, shape):
    d = discriminator(network, shape, minibatch_statistics=True)
    x = images(5, shape)
    h, weight, bias = array(d.features(x)), array(d.last.weight)[0], array(d.last.bias)
    check_equal(d(x), h @ weight[:-1] + weight[-1] * np.sqrt(h.var(0) + 1e-8).mean() + bias)


@small
def test_a_collapsed_batch_is_told_from_a_varied_one(network, shape):
    x = images(6, shape)
    collapsed = x[:1].expand_as(x)
    seeing, blind = discriminator(network, shape, minibatch_statistics=True), discriminator(network, shape)
    assert (seeing(collapsed)[0] - seeing(x)[0]).abs() > 1e-4
    check_equal(blind(collapsed)[0], blind(x)[0])


@pytest.mark.parametrize("num", [1, 3])
def test_images_all_alike_have_no_spread_and_a_gradient_that_is_a_number(num):
    h = torch.ones(num, 4, dtype=torch.float64).requires_grad_()
    value = spread(h)
    (gradient,) = torch.autograd.grad(value, h)
    assert value == 0 if num == 1 else value < 1.01e-4
    assert gradient.isfinite().all()
    if num > 1:  # the twin, without the 1e-8
        (gradient,) = torch.autograd.grad(h.var(0, correction=0).sqrt().mean(), h)
        assert gradient.isnan().any()


# --- norms


@small
def test_spectral_norm_leaves_every_matrix_a_largest_singular_value_of_one(network, shape):
    classes = {"num_classes": 3}
    plain, d = discriminator(network, shape, **classes), discriminator(network, shape, norm="spectral", **classes)
    with torch.no_grad():
        for _ in range(100):  # each training pass is a step of the power iteration
            d(images(3, shape), torch.tensor([0, 1, 2]))
    for normed in (True, False):
        values = [largest_singular_value(layer) for layer in matrices(d if normed else plain)]
        assert len(values) >= 4
        assert np.allclose(values, 1, atol=2e-2) == normed, values


def matrices(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding)]


def largest_singular_value(layer):
    return np.linalg.svd(array(layer.weight).reshape(len(layer.weight), -1), compute_uv=False)[0]


def test_batch_norm_stands_in_all_layers_but_those_next_to_the_data():
    d = DCGANDiscriminator((1, 32, 32), (4, 6, 8), norm="batch").body
    assert [type(layer).__name__ for layer in d][:5] == ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    g = DCGANGenerator(4, (1, 32, 32), (4, 6, 8), "batch").body
    assert [type(layer).__name__ for layer in g][-2:] == ["ReLU", "ConvTranspose2d"]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in g) == 3
    mlp = MLPDiscriminator((2,), (4, 6, 8), "relu", norm="batch").body
    assert [type(layer).__name__ for layer in mlp][1:6] == ["Linear", "ReLU", "Linear", "BatchNorm1d", "ReLU"]


def test_generators_see_the_batch_through_batch_norm_only():
    z = noise(4)
    for norm in ("none", "batch"):
        g = generator("dcgan", (1, 28, 28), norm=norm)
        assert torch.allclose(g(z)[:2], g(z[:2])) == (norm == "none")
        check_equal(g.eval()(z)[:2], g(z[:2]))


# --- gradients of gradients


@small
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_the_penalty_on_the_gradient_has_a_gradient(network, shape, norm):
    for options in ({}, {"packing": 2}, {"minibatch_statistics": True}, {"num_classes": 3}):
        d = discriminator(network, shape, norm=norm, **options)
        y = torch.tensor([0, 1, 2, 0]) if "num_classes" in options else None
        check_penalty(d, images(4, shape), y)


def test_the_penalty_goes_through_batch_norm():
    check_penalty(discriminator("mlp", (2,), norm="batch"), images(4, (2,)))
    check_penalty(discriminator("dcgan", (1, 28, 28), norm="batch"), images(4, (1, 28, 28)))


def check_penalty(network, x, y=None):
    """R1 = ‖∂D/∂x‖², its gradient finite everywhere and not 0 in the first layer."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(network(x, y).sum(), x, create_graph=True)
    slope.square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 1e-12 for gradient in gradients)


def test_the_penalty_of_images_all_alike_is_a_number():
    d = discriminator("mlp", (2,), minibatch_statistics=True)
    check_penalty(d, torch.ones(4, 2, dtype=torch.float64))
    check_penalty(d, torch.ones(1, 2, dtype=torch.float64))


@small
def test_the_penalty_has_the_right_gradient(network, shape):
    d = discriminator(network, shape, minibatch_statistics=True)
    x, step = images(3, shape), 1e-5
    parameter = next(d.parameters())
    way = torch.randn_like(parameter)

    def penalty():
        seen = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(d(seen).sum(), seen, create_graph=True)
        return slope.square().sum()

    (gradient,) = torch.autograd.grad(penalty(), parameter)
    parameter.data += step * way
    above = penalty().item()
    parameter.data -= 2 * step * way
    check_equal((gradient * way).sum(), (above - penalty().item()) / (2 * step), 1e-3)


# --- classes


@small
def test_labels_change_the_image(network, shape):
    g = generator(network, shape, num_classes=3)
    z = noise(1).expand(4, -1)
    made = g(z, torch.tensor([0, 1, 2, 0]))
    check_equal(made[0], made[3])
    assert all((made[0] - made[k]).abs().max() > 1e-4 for k in (1, 2))


def test_the_embedded_label_joins_the_noise():
    g = generator("mlp", (3,), num_classes=3)
    z, y = noise(4), torch.tensor([0, 2, 1, 2])
    check_equal(g(z, y), g.body(torch.cat([z, g.embedding.weight[y]], 1)))


@small
@pytest.mark.parametrize("statistics", [False, True])
def test_the_logit_of_a_class_is_a_projection(network, shape, statistics):
    d = discriminator(network, shape, num_classes=3, minibatch_statistics=statistics)
    x, y = images(4, shape), torch.tensor([0, 2, 1, 2])
    h, table = array(d.features(x)), array(d.embedding.weight)
    seen = np.c_[h, np.full(4, np.sqrt(h.var(0) + 1e-8).mean())] if statistics else h
    unconditional = seen @ array(d.last.weight)[0] + array(d.last.bias)
    check_equal(d(x, y), unconditional + np.einsum("bf,bf->b", table[y], h))
    assert np.abs(array(d(x, y)) - unconditional).max() > 1e-4


# --- the start


@pytest.mark.parametrize("channels", [(3, 3), (3, 5), (5, 3)])
def test_residual_branches_start_at_zero(channels):
    block = ResidualBlock(*channels).double()
    h = images(2, (channels[0], 6, 5))
    for started in (False, True):
        if started:
            fixup(block)
        assert torch.allclose(block(h), block.skip(h)) == started
    assert (channels[0] != channels[1]) or block(h).equal(h)


def test_whole_networks_start_as_their_skips():
    d, g = ResNetDiscriminator((1, 28, 28), (4, 6)), ResNetGenerator(4, (1, 28, 28), (4, 6))
    for network, inputs in ((d, torch.randn(2, 1, 28, 28)), (g, torch.randn(2, 4))):
        skips = copy.deepcopy(network)
        skips.body = nn.Sequential(*(layer.skip if isinstance(layer, ResidualBlock) else layer for layer in skips.body))
        assert sum(isinstance(layer, ResidualBlock) for layer in network.body) == 4
        assert network(inputs).equal(skips(inputs))
        assert not shaken(network)(inputs.double()).equal(skips.double()(inputs.double()))


def test_fixup_divides_the_first_layer_by_the_root_of_the_number_of_blocks():
    blocks = nn.Sequential(*[ResidualBlock(64, 64) for _ in range(9)])
    fixup(blocks)
    expected = math.sqrt(2 / 1.04 / (64 * 9) / 9)  # He et al. 2015 for a slope of 0.2, over √9
    for block in blocks:
        assert block.first.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_dcgan_starts_as_in_the_paper():
    networks = [DCGANGenerator(64, (3, 32, 32), (32, 64), "none"), DCGANDiscriminator((3, 32, 32), (32, 64))]
    for layer in [layer for network in networks for layer in network.modules()]:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_no_network_starts_blind(norm):
    for network, kind in (("mlp", MLPDiscriminator), ("dcgan", DCGANDiscriminator), ("resnet", ResNetDiscriminator)):
        d = kind((1, 28, 28), (8, 8), *(["relu"] if network == "mlp" else []), norm=norm)
        logits = d(torch.randn(16, 1, 28, 28))
        assert logits.isfinite().all()
        assert logits.std() > 1e-5


# --- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DCGANGenerator(4, (2,), (4,), "batch"), r"network=dcgan came with .* \(2,\), expected .* network=mlp"),
        (lambda: DCGANDiscriminator((2,), (4,)), r"network=dcgan came with .* \(2,\), expected .* network=mlp"),
        (lambda: DCGANGenerator(4, (1, 8, 8), (4,), "batch"), r"8×8 pixels, expected sides of 28 to 64: set network="),
        (lambda: DCGANDiscriminator((1, 32, 65), (4,)), r"32×65 pixels, expected sides of 28 to 64: set network="),
        (lambda: DCGANDiscriminator((1, 27, 32), (4,)), r"27×32 pixels, expected sides of 28 to 64: set network="),
        (lambda: ResNetGenerator(4, (2,), (4,)), r"network=resnet came with .* \(2,\), expected .* network=mlp"),
        (lambda: ResNetDiscriminator((2,), (4,)), r"network=resnet came with .* \(2,\), expected .* network=mlp"),
        (lambda: ResNetGenerator(4, (1, 7, 9), (4,)), r"7×9 pixels, expected sides of 8 or more: set network=mlp"),
        (lambda: ResNetDiscriminator((1, 9, 7), (4,)), r"9×7 pixels, expected sides of 8 or more: set network=mlp"),
        (lambda: ResNetDiscriminator((1, 9, 9), (4,), norm="batch"), r"batch norm came with network=resnet"),
        (lambda: MLPDiscriminator((2,), (4,), "relu", norm="batch"), r"hidden=\(4,\), expected two layers or more"),
        (
            lambda: MLPDiscriminator((2,), (4,), "relu", packing=2, num_classes=3),
            r"packing=2 came with 3 classes, .*: set packing=1",
        ),
        (lambda: discriminator("mlp", (2,), packing=3)(images(4, (2,))), r"4 images came, .* of packing=3: take anoth"),
        (lambda: generator("mlp", (2,), num_classes=3)(noise(2)), r"no labels came.* number, 0 to 2, for each image"),
        (lambda: discriminator("mlp", (2,), num_classes=3)(images(2, (2,))), r"no labels came.* number, 0 to 2, for"),
        (lambda: generator("mlp", (2,))(noise(2), torch.tensor([0, 1])), r"no classes: leave them out, or set num_cla"),
        (lambda: discriminator("mlp", (2,))(images(1, (2,)), torch.tensor([0])), r"no classes: leave them out, or"),
        (
            lambda: generator("dcgan", (1, 28, 28), norm="batch")(noise(1)),
            r"batch norm cannot be trained on a batch of one image: take a larger batch_size, or norm none",
        ),
        (
            lambda: discriminator("mlp", (2,), norm="batch")(images(1, (2,))),
            r"batch norm cannot be trained on a batch of one image: take a larger batch_size, or norm none",
        ),
        (
            lambda: discriminator("dcgan", (1, 28, 28), norm="batch").features(images(1, (1, 28, 28))),
            r"batch norm cannot be trained on a batch of one image: take a larger batch_size, or norm none",
        ),
        (
            lambda: discriminator("mlp", (2,), norm="batch", packing=2)(images(2, (2,))),
            r"batch norm cannot be trained on a batch of one pack of 2 images: take a larger batch_size",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_a_single_image_is_judged_after_training():
    d, g = discriminator("mlp", (2,), norm="batch"), generator("dcgan", (1, 28, 28), norm="batch")
    assert d.eval()(images(1, (2,))).shape == (1,)
    assert g.eval()(noise(1)).shape == (1, 1, 28, 28)
    assert discriminator("mlp", (2,), minibatch_statistics=True)(images(1, (2,))).isfinite().all()
