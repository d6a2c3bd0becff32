"""The rows of the table: who competes in what."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import memory
from benchmarks.harness import Command, Contender, FailedError, Result, Worker, compete
from benchmarks.table import Line, duration, lines_of, three
from benchmarks.work import CASES

IMAGES = 10_000  # what the time of an IWAE bound is multiplied up to


@dataclass(frozen=True)
class Options:
    """rounds, and seconds of a contender in each; quick: tiny sizes."""

    rounds: int
    seconds: float
    quick: bool = False

    def case(self, name: str) -> str:
        return "quick" if self.quick else name


def contender(name: str, module: str, needs: str = "", **options: object) -> Contender:
    """One of the folder `contenders`."""
    return Contender(name, f"benchmarks.contenders.{module}", options, tuple(needs.split()))


PROBGEN = [
    contender("probgen, compile=on", "with_probgen", compiled="on"),
    contender("probgen, compile=off", "with_probgen", compiled="off"),
]
BY_HAND = [
    contender("PyTorch by hand, whole step compiled", "with_torch", compiled="step"),
    contender("PyTorch by hand, loss compiled, fused Adam", "with_torch", compiled="loss"),
]
PYRO = contender("Pyro SVI, indexed tensor", "with_pyro", data="tensors")
PYRO_LOADERS = [
    contender("Pyro SVI, DataLoader", "with_pyro", data="loader"),
    contender("Pyro SVI, DataLoader with a process more", "with_pyro", data="loader", workers=1),
]
SPINNING = [  # NumPyro's threads are not OpenMP's
    replace(each, name=f"{each.name}, threads that spin", spins=True) for each in (PROBGEN[0], BY_HAND[0])
]
NUMPYRO = [
    contender("NumPyro SVI, jit of a step", "with_numpyro", "numpyro", together=False),
    contender("NumPyro SVI, scan of 20 steps", "with_numpyro", "numpyro", together=True),
]
PYTHAE = contender("pythae BaseTrainer", "with_pythae", "pythae")
IN_BF16 = [
    contender("probgen, compile=on, bf16-mixed", "with_probgen", compiled="on", precision="bf16-mixed"),
    contender("PyTorch by hand, whole step compiled, bf16", "with_torch", compiled="step", bf16=True),
]
VAES = {
    "mnist": [*PROBGEN, *BY_HAND, *SPINNING, PYRO, *PYRO_LOADERS, *NUMPYRO, PYTHAE, *IN_BF16],
    "digits": [*PROBGEN, *BY_HAND, PYRO, *PYRO_LOADERS, *NUMPYRO],
}
REMARKS = {
    PYRO.name: "KL by sampling",
    **{loader.name: "KL by sampling; each image through PIL and ToTensor" for loader in PYRO_LOADERS},
    PYTHAE.name: "data binary from the start",
    **{each.name: "products in bfloat16, sums in float32" for each in IN_BF16},
}
PIXELCNN = [
    contender("probgen, compile=on", "pixelcnn", compiled="on"),
    contender("probgen, compile=off", "pixelcnn", compiled="off"),
    contender("eager, torch's convolutions, default layout", "pixelcnn", compiled="off", form="half"),
    contender("the same with whole kernels times masks", "pixelcnn", compiled="off", form="whole"),
    contender(IN_BF16[0].name, "pixelcnn", compiled="on", precision="bf16-mixed"),
]
SAMPLING = [
    contender("one pass of the network", "sampling", way="pass"),
    contender("cached sampler", "sampling", way="cached"),
    contender("naive sampler, from its first pixels", "sampling", way="naive"),
]
EVIDENCE = [
    contender("torch.mm of the same shapes", "evidence", what="mm"),
    contender("probgen iwae", "evidence", what="iwae"),
]
LAUNCHES = {
    "import torch": ("-c", "import torch"),
    "import probgen": ("-c", "import probgen"),
    "probgen --help": ("-m", "probgen", "--help"),
}


def race(contenders: Sequence[Contender], options: Options, threads: int, **given: str) -> list[Result]:
    """The contenders in their own processes; all that compute the same have the same number of parameters."""
    start = partial(Worker, threads=threads, warm=min(0.5, options.seconds), **given)
    results = compete([(c.name, partial(start, c)) for c in contenders], options.rounds, options.seconds)
    counts = {result.facts["parameters"] for result in results if "parameters" in result.facts}
    if len(counts) > 1:
        raise AssertionError(f"networks of different sizes: {counts}")
    return results


def of_threads(title: str, threads: int) -> str:
    return f"{title}, {threads} thread{'s' * (threads > 1)}"


def vae(name: str, options: Options, threads: int) -> list[Line]:
    """A training step of the same variational autoencoder."""
    case = options.case(name)
    alone = threads == 1  # on its core there is no place for a process more, and nobody to wait for
    able = [each for each in VAES[name] if not (alone and (each.spins or each.options.get("workers")))]
    results = race(able, options, threads, case=case)
    counted = {result.facts["parameters"] for result in results if "parameters" in result.facts}
    assert counted <= {CASES[case].parameters}
    sizes = CASES[case]
    title = f"VAE {sizes.pixels}-{sizes.hidden}-{sizes.latent}, batch {sizes.batch}: training step"
    return lines_of(of_threads(title, threads), results, lambda result: REMARKS.get(result.name, ""))


def pixelcnn(options: Options, threads: int) -> list[Line]:
    """A training step of a PixelCNN."""
    results = race(PIXELCNN, options, threads, case=options.case("mnist"))
    title = of_threads("PixelCNN of 15 blocks, 32 features, batch 16: training step", threads)
    return lines_of(title, results, lambda result: REMARKS.get(result.name, ""))


def sampling(options: Options, threads: int) -> list[Line]:
    """64 images, drawn pixel by pixel."""
    results = race(SAMPLING, options, threads, case=options.case("mnist"))
    title = of_threads("PixelCNN of 15 blocks, 32 features: 64 images 28×28", threads)
    return lines_of(title, results, lambda r: "multiplied up to 784 pixels" if "naive" in r.name else "")


def evidence(options: Options, threads: int) -> list[Line]:
    """IWAE with 5000 particles for each image, beside its matrix products."""

    def remark(result: Result) -> str:
        rate = result.facts["gflop"] / result.median
        alone = result is results[0] or results[0].failure
        share = "" if alone else f", {100 / result.ratio_to(results[0]):.0f} % of torch.mm"
        whole = duration(IMAGES * result.median)
        return f"{three(rate)} GFLOP/s{share}; {IMAGES:,} images: {whole}, multiplied up"

    results = race(EVIDENCE, options, threads, case=options.case("mnist"))
    return lines_of(of_threads("IWAE-5000 of the VAE 784-400-50: an image", threads), results, remark)


def start_up(options: Options, threads: int) -> list[Line]:
    """Fresh processes."""
    start = partial(Command, sys.executable, threads=threads, warm=not options.quick)
    named = [(name, partial(start, *words)) for name, words in LAUNCHES.items()]
    return lines_of("start-up, a fresh process", compete(named, options.rounds, 0))


def memory_of_training(options: Options, threads: int) -> list[Line]:
    """Anonymous memory, its growth, and mapped pages; each measured in fresh processes, in turn."""
    rounds, cells = min(3, options.rounds), list(memory.settings(options.quick))
    found: dict[tuple[int, int], list[dict[str, float]]] = {cell: [] for cell in cells}
    with tempfile.TemporaryDirectory(dir=memory.DISK) as folder:
        files = {size: memory.sparse_file(Path(folder) / f"{size}.npy", size) for _, size in cells}
        for _ in range(rounds):
            for steps, size in cells:
                found[steps, size].append(memory.fresh(steps, files[size], threads))
    return [memory_line(steps, size, found[steps, size], found[cells[0]]) for steps, size in cells]


def memory_line(steps: int, size: int, found: list[dict[str, float]], first: list[dict[str, float]]) -> Line:
    """Highest anonymous memory of a training run."""
    most, base = [look["anonymous"] for look in found], median(look["anonymous"] for look in first)
    middle = {key: median(look[key] for look in found) for key in found[0]}
    remark = (
        f"grew by {middle['growth']:.1f} MiB after step {memory.EARLY}; "
        f"mapped files {middle['file']:.0f} MiB, peak of both {middle['peak']:.0f} MiB"
    )
    ratio = "1" if found is first else f"**{three(median(most) / base)}**"
    span = f"{min(most):.0f} – {max(most):.0f} MiB"
    name = f"{steps:,} steps, mapped file of {size:,} MB"
    return Line("memory of training (anonymous)", name, f"{median(most):.0f} MiB", span, ratio, remarks=remark)


def gpu(options: Options, threads: int) -> list[Line]:
    """The VAE's training step on a GPU, where there is one."""
    title = "VAE 784-400-50, batch 256: training step on a GPU"
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    if "True" not in subprocess.run(asked, capture_output=True, text=True).stdout:
        return [Line(title, "all", remarks="not run (no GPU)")]
    some = [*PROBGEN, *BY_HAND, PYRO]
    return lines_of(title, race(some, options, threads, case=options.case("mnist"), device="cuda"))


@dataclass(frozen=True)
class Row:
    """measure: gives its lines. all_cores: with as many threads as cores; single: with one."""

    measure: Callable[[Options, int], list[Line]]
    single: bool = False
    all_cores: bool = True

    def threads(self, chosen: Sequence[int], cores: int) -> list[int]:
        """The numbers of threads that were asked for, else the row's own."""
        own = ([1] if self.single else []) + ([cores] if self.all_cores and (cores > 1 or not self.single) else [])
        return list(chosen) or own


ROWS = {
    "vae-mnist": Row(partial(vae, "mnist"), single=True),
    "vae-digits": Row(partial(vae, "digits"), single=True),
    "pixelcnn": Row(pixelcnn),
    "sampling": Row(sampling),
    "iwae": Row(evidence, single=True),
    "start-up": Row(start_up),
    "memory": Row(memory_of_training),
    "gpu": Row(gpu),
}
FAILURES = (FailedError, AssertionError)
