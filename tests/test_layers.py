"""Encoders and decoders: shapes, and independence of the images in a batch."""

import itertools
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from laws import check_equal

from probgen.layers import ACTIVATIONS, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from probgen.layers.networks import pyramid

ENCODERS = {"mlp": MLPEncoder, "conv": ConvEncoder}
DECODERS = {"mlp": MLPDecoder, "conv": ConvDecoder}
network = pytest.mark.parametrize("network", ["mlp", "conv"])
shapes = st.tuples(st.integers(1, 3), st.integers(1, 13), st.integers(1, 13))
leading = st.lists(st.integers(1, 3), max_size=3)


@network
@settings(max_examples=25, deadline=None)
@given(shape=shapes, batch=leading)
def test_encoder_takes_images_of_any_size_in_any_batch(network, shape, batch):
    encoder = ENCODERS[network](shape, 5, (4, 3), "relu")
    assert encoder(torch.randn(*batch, *shape)).shape == (*batch, 5)


@network
@settings(max_examples=25, deadline=None)
@given(shape=shapes, batch=leading, channels=st.integers(1, 3))
def test_decoder_gives_channels_for_each_entry_of_the_image(network, shape, batch, channels):
    decoder = DECODERS[network](5, shape, channels, (4, 3), "relu")
    assert decoder(torch.randn(*batch, 5)).shape == (*batch, channels, *shape)


@network
def test_encoder_sees_each_image_by_itself(network):
    encoder = ENCODERS[network]((2, 7, 9), 5, (4, 3), "tanh").double()
    x = torch.randn(3, 4, 2, 7, 9).double()
    alone = torch.stack([torch.stack([encoder(image) for image in row]) for row in x])
    check_equal(encoder(x), alone)
    assert (alone.std((0, 1)) > 1e-3).all()  # else equality would say nothing


@network
def test_decoder_sees_each_code_by_itself(network):
    decoder = DECODERS[network](5, (2, 7, 9), 3, (4, 3), "tanh").double()
    z = torch.randn(3, 4, 5).double()
    alone = torch.stack([torch.stack([decoder(code) for code in row]) for row in z])
    check_equal(decoder(z), alone)
    assert (alone.std((0, 1)) > 1e-3).all()


@network
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 13, 6)])
def test_every_pixel_reaches_the_code_and_every_code_every_pixel(network, shape):
    encoder = ENCODERS[network](shape, 4, (8, 8), "tanh").double()
    decoder = DECODERS[network](4, shape, 2, (8, 8), "tanh").double()
    x = torch.randn(1, *shape).double().requires_grad_()
    encoder(x).square().sum().backward()
    assert (x.grad != 0).all()
    jacobian = torch.autograd.functional.jacobian(decoder, torch.randn(4).double())
    assert (jacobian.abs().sum(-1) > 0).all()


def test_vectors_go_through_the_mlp():
    assert MLPEncoder((6,), 5, (4,), "silu")(torch.randn(2, 3, 6)).shape == (2, 3, 5)
    assert MLPDecoder(5, (6,), 2, (4,), "gelu")(torch.randn(2, 3, 5)).shape == (2, 3, 2, 6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_stands_between_the_layers_and_not_after_the_last(name):
    encoder = MLPEncoder((6,), 5, (4,), name).double()
    x = torch.randn(3, 6).double()
    first, last = encoder.layers[0], encoder.layers[-1]
    expected = ACTIVATIONS[name]()(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    check_equal(encoder(x), expected)


@given(st.integers(1, 300), st.integers(1, 300))
def test_pyramid_halves_down_to_a_few_pixels(height, width):
    sizes = pyramid(height, width)
    assert sizes[0] == (height, width)
    assert min(sizes[-1]) <= 5
    for (h, w), (half_h, half_w) in itertools.pairwise(sizes):
        assert (half_h, half_w) == (math.ceil(h / 2), math.ceil(w / 2))
        assert min(h, w) > 5
