"""From a recorded graph to machine code, by torch's compiler."""

from collections.abc import Sequence

from torch import Tensor, fx

from probgen.inference.compiled.recording import NotStaticError, Step, quiet
from probgen.inference.compiled.rewriting import with_shared_exponentials


def compiled(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Step:
    """The graph as machine code for inputs of these shapes; it draws the noise that the graph would draw.

    Raises NotStaticError, with the reason, where torch cannot compile it, as on a machine without a C++ compiler.
    """
    import torch

    check_compiler(inputs)
    graph = with_shared_exponentials(graph)
    try:
        run = by_inductor(graph, inputs, cpp_wrapper=are_on_cpu(inputs))
    except Exception:  # the compiler's own errors have no common class
        try:
            run = by_inductor(graph, inputs, cpp_wrapper=False)  # which knows more operations
        except Exception as error:
            raise NotStaticError(f"torch could not compile it ({type(error).__name__})") from error

    def call(*tensors: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(run(*tensors))

    return call


def by_inductor(graph: fx.GraphModule, inputs: Sequence[Tensor], *, cpp_wrapper: bool) -> Step:
    """The graph as compiled by torch; with a wrapper in C++ there is no Python between its kernels."""
    import torch
    import torch._inductor  # takes seconds, and most runs compile nothing

    options = {
        **{"fallback_random": True, "reorder_for_locality": False},  # the program's noise, in its order
        "cpp.threads": torch.get_num_threads(),  # else code for another number may come from the cache
        "cpp_wrapper": cpp_wrapper,
        "emulate_precision_casts": True,  # to bfloat16, where torch rounds
    }
    with torch.random.fork_rng(), torch.no_grad(), quiet(), torch._inductor.config.patch(options):
        return torch._inductor.compile(graph, list(inputs))


def are_on_cpu(inputs: Sequence[Tensor]) -> bool:
    """Whether all tensors are on the CPU."""
    return all(tensor.device.type == "cpu" for tensor in inputs)


def check_compiler(inputs: Sequence[Tensor]) -> None:
    """Raise NotStaticError where numbers on the CPU are to be compiled and there is no C++ compiler."""
    if not any(tensor.device.type == "cpu" for tensor in inputs):
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise NotStaticError("there is no C++ compiler on this machine (install g++, or set CXX)") from error
