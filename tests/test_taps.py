"""The convolution of `layers/taps.py` beside torch's, and its gradients beside torch's."""

import pytest
import torch
import torch.nn.functional as F

from probgen.layers import taps
from probgen.layers.causal import CausalConv2d, RowsConv2d
from probgen.layers.masks import causal_mask

BORDER = (2, 2, 1, 0)
SIZES = [(1, 5), (3, 4), (20, 3)]  # features in and out; below and above NARROW


def inputs_of(features, outputs, kind="B", layout=torch.contiguous_format):
    torch.manual_seed(features)
    x = torch.randn(3, features, 4, 6, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    mask = causal_mask(kind, outputs, features, 3, 5)[:, :, :2].double()
    weight = torch.randn(outputs, features, 2, 5, dtype=torch.float64, requires_grad=True)
    return x, weight, torch.randn(outputs, dtype=torch.float64, requires_grad=True), mask


def gradients(convolution, x, weight, bias):
    y = convolution(x, weight, bias)
    coefficients = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad((y * coefficients).sum(), (x, weight, bias))]


def differences(ours, mask, x, weight, bias):
    """Largest deviation from torch of the output and of each gradient."""
    of_torch = gradients(lambda x, w, b: F.conv2d(F.pad(x, BORDER), w * mask, b), x, weight, bias)
    return [(a - b).abs().max().item() for a, b in zip(gradients(ours, x, weight, bias), of_torch, strict=True)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["A", "B"])
@pytest.mark.parametrize(("features", "outputs"), SIZES)
def test_output_and_gradients_are_torchs(features, outputs, kind, layout):
    x, weight, bias, mask = inputs_of(features, outputs, kind, layout)
    looking = taps.looking(kind, 1, 2)

    def ours(x, w, b):
        return taps.convolved(x, w * mask, b, looking, BORDER)

    assert max(differences(ours, mask, x, weight, bias)) < 1e-12


@pytest.mark.parametrize(("features", "outputs"), SIZES)
def test_the_comparison_rejects_a_tap_left_out(features, outputs):
    x, weight, bias, mask = inputs_of(features, outputs)
    some = taps.looking("B", 1, 2)[1:]
    found = differences(lambda x, w, b: taps.convolved(x, w * mask, b, some, BORDER), mask, x, weight, bias)
    assert found[2] > 0.1
    assert max(found[0], found[1], found[3]) < 1e-12


@pytest.mark.parametrize(("features", "outputs"), SIZES)
def test_the_comparison_rejects_a_row_too_narrow(features, outputs, monkeypatch):
    x, weight, bias, mask = inputs_of(features, outputs)
    right = taps.weight_gradient
    # Without one column of the border the taps of the row above are one pixel off.
    monkeypatch.setattr(taps, "weight_gradient", lambda g, pixels, *rest: right(g[:, :, 1:], pixels[:, :, 1:], *rest))
    found = differences(
        lambda x, w, b: taps.convolved(x, w * mask, b, taps.looking("B", 1, 2), BORDER), mask, x, weight, bias
    )
    assert found[2] > 0.1


def test_where_no_tap_looks_the_gradient_is_zero():
    layer = CausalConv2d(1, 4, (1, 1), "A")
    layer(torch.randn(2, 1, 3, 3)).sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros(4, 1, 1, 1))
    assert torch.equal(layer.bias.grad, torch.full((4,), 18.0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["A", "B"])
@pytest.mark.parametrize("sides", [(3, 5), (1, 3), (1, 1), (5, 1)])
def test_taps_are_those_of_the_mask(sides, kind, channels):
    mask = causal_mask(kind, channels, channels, *sides, channels)
    expected = [tuple(place) for place in mask.any(0).any(0).nonzero().tolist()]
    assert taps.looking(kind, sides[0] // 2, sides[1] // 2, channels) == expected
    assert taps.all_taps(torch.empty(4, 3, 1, 2)) == [(0, 0), (0, 1)]


def test_a_network_is_built_without_numbers():
    with torch.device("meta"):
        layer = CausalConv2d(20, 4, (3, 3), "B")
    assert len(layer.taps) == 5


@pytest.mark.parametrize("features", [2, 16])
def test_gradients_can_be_differentiated_again(features):
    x, weight, bias, mask = inputs_of(features, 2)
    x = x[:1, :, :2, :3].detach().requires_grad_()
    looking = taps.looking("B", 1, 2)
    assert torch.autograd.gradgradcheck(
        lambda x, w, b: taps.convolved(x, w * mask, b, looking, BORDER), (x, weight, bias), fast_mode=True
    )


def test_under_vmap_each_image_has_its_own_gradient():
    x, weight, bias, mask = inputs_of(3, 4)

    def loss(weight, image):
        return taps.convolved(image[None], weight * mask, bias, taps.looking("B", 1, 2), BORDER).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight.detach(), x.detach())
    alone = [torch.autograd.grad(loss(weight, image), weight)[0] for image in x.detach()]
    assert torch.allclose(each, torch.stack(alone))


def test_a_frozen_weight_or_input_gets_no_gradient():
    x, weight, bias, _ = inputs_of(3, 4)
    y = taps.convolved(x.detach(), weight, bias.detach(), taps.all_taps(weight), BORDER)
    y.sum().backward()
    assert weight.grad is not None
    assert bias.grad is None
    y = taps.convolved(x, weight.detach(), bias, taps.all_taps(weight), BORDER)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("layer", [CausalConv2d(20, 4, (3, 3), "B"), RowsConv2d(20, 4, (3, 3))])
def test_layers_compute_by_them_on_a_cpu_and_by_torch_under_autocast(layer, monkeypatch):
    x = torch.randn(2, 20, 5, 5)
    y = layer(x)
    assert "TapConvolution" in type(y.grad_fn).__name__
    monkeypatch.setattr(taps.TapConvolution, "apply", None)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), y, atol=0.1)
