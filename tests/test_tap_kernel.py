"""The kernel in machine code for a convolution's weight gradient, beside the products that it stands for."""

import doctest

import pytest
import torch
import torch._inductor.codecache

from probgen.inference.batches import TensorImages
from probgen.inference.compiled import function
from probgen.inference.compiled.recording import interpreted, record
from probgen.inference.trainer import TrainConfig, Trainer
from probgen.layers import tap_kernel, taps
from probgen.layers.masks import causal_mask
from probgen.models import PixelCNN

AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
needs_kernel = pytest.mark.skipif(
    not (AVX2 and tap_kernel.machine_code()), reason="the kernel needs AVX2 and a compiler; elsewhere it is not used"
)
ALL = [(row, column) for row in range(2) for column in range(3)]
WITH_GAPS = [(0, 0), (0, 2), (1, 1)]


def inputs_of(features, outputs, kernel=(2, 3), images=3, size=(5, 7)):
    """g and x of a convolution, in float32."""
    generator = torch.Generator().manual_seed(features + outputs)
    (rows, columns), (above, aside) = size, (kernel[0] - 1, kernel[1] - 1)
    g = torch.randn(images, rows, columns, outputs, generator=generator)
    return g, torch.randn(images, rows + above, columns + aside, features, generator=generator)


def is_the_sum(found, g, pixels, kernel, looking):
    """Whether no number is off by more than its sum may be: some roundings of the sum of sizes."""
    exact = taps.weight_gradient(g.double(), pixels.double(), kernel, looking)
    sizes = taps.weight_gradient(g.double().abs(), pixels.double().abs(), kernel, looking)
    return bool(((found - exact).abs() <= 8 * torch.finfo(torch.float32).eps * sizes).all())


@pytest.fixture
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("_threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("looking", [ALL, taps.looking("B", 1, 1), WITH_GAPS, [(1, 2)]], ids=str)
@pytest.mark.usefixtures("_threads")
def test_every_number_of_features_gives_the_products(looking):
    for features in (1, 2, 3, 5, 8, 32):
        for outputs in (8, 16, 24, 32, 56, 72):
            g, pixels = inputs_of(features, outputs)
            found = tap_kernel.weight_gradient(g, pixels, (2, 3), tap_kernel.runs_of(looking))
            assert is_the_sum(found, g, pixels, (2, 3), looking)


@needs_kernel
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (9, 113), (57, 2), (30, 28)])
@pytest.mark.parametrize("kernel", [(1, 1), (4, 7), (1, 5), (3, 1)])
def test_every_size_of_image_and_kernel_gives_the_products(size, kernel):
    looking = [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]
    for images in (1, 4):
        g, pixels = inputs_of(4, 40, kernel, images, size)
        found = tap_kernel.weight_gradient(g, pixels, kernel, tap_kernel.runs_of(looking))
        assert found.shape == (40, 4, *kernel)
        assert is_the_sum(found, g, pixels, kernel, looking)


@needs_kernel
def test_the_comparison_rejects_a_moved_tap_and_one_pixel_left_out():
    g, pixels = inputs_of(8, 16)
    moved = tap_kernel.weight_gradient(g, pixels, (2, 3), tap_kernel.runs_of([(0, 1)]))
    assert is_the_sum(moved, g, pixels, (2, 3), [(0, 1)])
    assert not is_the_sum(moved.roll(1, -1), g, pixels, (2, 3), [(0, 1)])
    one_less = g.clone()
    one_less[2, 4, 6] = 0
    found = tap_kernel.weight_gradient(one_less, pixels, (2, 3), tap_kernel.runs_of(ALL))
    assert not is_the_sum(found, g, pixels, (2, 3), ALL)


@needs_kernel
def test_numbers_that_lie_otherwise_in_memory_are_read_right():
    g, pixels = inputs_of(8, 16)
    runs = tap_kernel.runs_of(ALL)
    whole = tap_kernel.weight_gradient(g, pixels, (2, 3), runs)
    turned, wider = g.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0), torch.cat([pixels, pixels], 3)[..., :8]
    assert not turned.is_contiguous()
    assert not wider.is_contiguous()
    assert torch.equal(tap_kernel.weight_gradient(turned, wider, (2, 3), runs), whole)
    repeated = g[:1].expand(3, -1, -1, -1)
    assert is_the_sum(tap_kernel.weight_gradient(repeated, pixels, (2, 3), runs), repeated, pixels, (2, 3), ALL)


@needs_kernel
def test_what_is_no_number_stays_none():
    g, pixels = inputs_of(2, 8)
    g[1, 2, 3, 4], pixels[0, 0, 0, 1] = torch.nan, torch.inf
    found = tap_kernel.weight_gradient(g, pixels, (2, 3), tap_kernel.runs_of(ALL))
    assert found[4].isnan().all()
    assert found[:, 1, 0, 0].isfinite().logical_not().all()
    assert found[:4, 0].isfinite().all()


# --- where it is used


def loss(x, weight):
    """Of a masked convolution, its gradient no constant."""
    mask = causal_mask("B", *weight.shape[:2], 3, 3)[:, :, :2].to(weight.dtype)
    return taps.convolved(x, weight * mask, None, taps.looking("B", 1, 1), (1, 1, 1, 0)).pow(2).sum()


def gradient(x, weight, create_graph=False):
    return torch.autograd.grad(loss(x, weight), weight, create_graph=create_graph)[0]


def to_go_on_from(x, weight):
    return gradient(x, weight, create_graph=True)


def twice(x, weight):
    return torch.autograd.grad(gradient(x, weight, create_graph=True).pow(2).sum(), weight)[0]


def of_each_image(x, weight):
    of_one = torch.func.grad(lambda weight, image: loss(image[None], weight))
    return torch.func.vmap(of_one, (None, 0))(weight.detach(), x)


def recorded(of_weight, outputs=16, dtype=torch.float32):
    """The function of images and a weight as a graph; what it gives, and without recording."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 8, 5, 6, dtype=dtype), torch.randn(outputs, 8, 2, 3, dtype=dtype)

    def on_leaves(x, weight):
        with torch.enable_grad():
            return [of_weight(x, weight.detach().requires_grad_())]

    graph = record(on_leaves, [x, weight])
    return graph, graph(x, weight)[0], on_leaves(x, weight)[0]


def kernels_in(graph):
    return sum(node.target is torch.ops.probgen.tap_gradient.default for node in graph.graph.nodes)


@needs_kernel
def test_a_recorded_gradient_is_the_kernels_and_the_same():
    graph, ours, eager = recorded(gradient)
    assert kernels_in(graph) == 1
    assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-4)
    assert ours.stride() == eager.to(memory_format=torch.channels_last).stride()


@needs_kernel
@pytest.mark.parametrize(
    ("of_weight", "options"),
    [
        (gradient, {"dtype": torch.float64}),
        (gradient, {"outputs": 12}),
        (to_go_on_from, {}),
        (of_each_image, {}),
    ],
    ids=["float64", "12 features", "to be differentiated again", "of each image"],
)
def test_everything_else_is_left_to_the_products(of_weight, options):
    graph, ours, eager = recorded(of_weight, **options)
    assert kernels_in(graph) == 0
    assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-4)


@needs_kernel
def test_a_gradient_of_a_gradient_is_the_same():
    _, ours, eager = recorded(twice)
    assert ((ours - eager).abs() <= 1e-5 * eager.abs().max()).all()


@needs_kernel
def test_where_nothing_is_recorded_the_kernel_is_not_asked(monkeypatch):
    monkeypatch.setattr(tap_kernel, "machine_code", lambda: pytest.fail("asked"))
    gradient(torch.randn(2, 8, 5, 6), torch.randn(16, 8, 2, 3, requires_grad=True))


@pytest.mark.parametrize("lacks", ["a compiler", "AVX2"])
def test_a_machine_without_compiler_or_avx2_has_the_products(lacks, monkeypatch):
    if lacks == "AVX2":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    else:
        tap_kernel.machine_code.cache_clear()
        monkeypatch.setattr(torch._inductor.codecache.CppCodeCache, "load", without_compiler)
    graph, ours, eager = recorded(gradient)
    tap_kernel.machine_code.cache_clear()
    assert kernels_in(graph) == 0
    assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-4)


def without_compiler(*_, **__):
    raise torch._inductor.exc.InvalidCxxCompiler


@needs_kernel
def test_a_pixelcnns_step_is_recorded_with_it(monkeypatch):
    asked, fits = [], tap_kernel.fits
    monkeypatch.setattr(tap_kernel, "fits", lambda *numbers: asked.append(fits(*numbers)) or asked[-1])
    monkeypatch.setattr(function, "compiled", lambda graph, _: interpreted(graph))  # the rest takes its time
    torch.manual_seed(0)
    images = TensorImages(torch.randint(0, 2, (8, 1, 8, 8), dtype=torch.uint8))
    pair = PixelCNN((1, 8, 8), 2, features=8, blocks=1)
    trainer = Trainer(pair, images, TrainConfig(steps=3, batch_size=4, compile="on"))
    trainer.step()
    assert trainer.not_compiled is None
    assert asked.count(True) == 5


def test_taps_side_by_side_are_one_run():
    assert doctest.testmod(tap_kernel).failed == 0
    assert doctest.testmod(tap_kernel).attempted == 1
    assert tap_kernel.runs_of([(1, 0), (0, 3), (0, 2)]) == [0, 2, 2, 1, 0, 1]
