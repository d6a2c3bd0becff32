"""A convolution's weight gradient by a kernel of our own, in a step that is compiled.

    ∂L/∂W[t] = Σ_p g[p] ⊗ x[p + t]

A library's product of matrices first packs both, which for 32 columns costs half as much as the product; the kernel,
tap_kernel.cpp, reads pixels where they lie. The compiler of the step makes its machine code when the first one is
recorded, and torch keeps it for later runs. It was written for AVX2 and measured there: on other processors, for other
types, and for features that do not fill vectors of eight, the products of `layers/taps.py` do the same.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

SOURCE = Path(__file__).with_name("tap_kernel.cpp")
LANES = 8  # as there


def fits(g: Float[Tensor, "b hh ww g"], pixels: Float[Tensor, "b h w f"]) -> bool:
    """Whether a step is being recorded that the kernel can be part of: nothing differentiates through it again."""
    recorded = get_proxy_mode() is not None and not torch.is_grad_enabled()
    if not recorded or torch._C._are_functorch_transforms_active():
        return False
    suits = g.dtype == pixels.dtype == torch.float32 and g.shape[3] % LANES == 0 and g.numel() > 0
    on_avx2 = g.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return suits and on_avx2 and machine_code() is not None


def weight_gradient(
    g: Float[Tensor, "b hh ww g"], pixels: Float[Tensor, "b h w f"], kernel: Sequence[int], runs: Sequence[int]
) -> Float[Tensor, "g f r s"]:
    """Σ_p g[p] ⊗ x[p + t] for the taps of each run, zero for the others; in `channels_last`.

    kernel: rows and columns. runs: row, first column and number of taps of each, one after the other.
    """
    found = g.new_zeros(g.shape[3], *kernel, pixels.shape[3])
    g, pixels = g.contiguous(), pixels.contiguous()
    (images, height, width, of_x), (_, rows, columns, of_g) = pixels.shape, g.shape
    numbers = (ctypes.c_int64 * len(runs))(*runs)
    sizes = (len(runs) // 3, images, height, width, of_x, rows, columns, of_g, *kernel, torch.get_num_threads())
    run = machine_code()
    assert run is not None, "recorded on a machine with a compiler"
    run(found.data_ptr(), pixels.data_ptr(), g.data_ptr(), numbers, *sizes)
    return found.permute(0, 3, 1, 2)


@functools.cache
def machine_code() -> Callable[..., None] | None:
    """The kernel; None where there is no compiler, of which whatever compiles the step will tell."""
    from torch._inductor.codecache import CppCodeCache
    from torch._inductor.exc import InvalidCxxCompiler

    flags = ("-ffp-contract=fast",)  # a product and a sum are one instruction
    try:
        function = CppCodeCache.load(SOURCE.read_text(), extra_flags=flags, needs_vec_isa=True).tap_gradient
    except InvalidCxxCompiler:
        return None
    function.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 11]
    function.restype = None
    return function


def runs_of(taps: Sequence[tuple[int, int]]) -> list[int]:
    """Taps side by side as row, first column and number; one run after the other.

    >>> runs_of([(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)])
    [0, 0, 3, 1, 0, 1, 1, 2, 1]
    """
    runs: list[list[int]] = []
    for row, column in sorted(taps):
        if runs and [row, column] == [runs[-1][0], sum(runs[-1][1:])]:
            runs[-1][2] += 1
        else:
            runs.append([row, column, 1])
    return [number for run in runs for number in run]


# An operation that can be recorded, by torch's leaner interface: a step has some fifty such calls.
OPERATION = torch.library.Library("probgen", "FRAGMENT")
OPERATION.define("tap_gradient(Tensor g, Tensor pixels, int[] kernel, int[] runs) -> Tensor")
OPERATION.impl("tap_gradient", weight_gradient, "CPU")


@torch.library.register_fake("probgen::tap_gradient", lib=OPERATION)
def without_numbers(g: Tensor, pixels: Tensor, kernel: Sequence[int], runs: Sequence[int]) -> Tensor:
    """The shape and layout of what `weight_gradient` gives."""
    return g.new_empty(g.shape[3], *kernel, pixels.shape[3]).permute(0, 3, 1, 2)
