"""The benchmarks run; what they measure is no test's business."""

import importlib
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pyro
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # they are no part of the package

from benchmarks import causal_forms, harness, machine, memory, rows, step_profile, table, work, worker  # noqa: E402
from benchmarks.contenders import with_probgen  # noqa: E402
from benchmarks.work import CASES, Work  # noqa: E402

TINY = ("--features", "2", "--blocks", "1", "--batch", "2", "--rounds", "1", "--naive-pixels", "2")
VAES = rows.VAES["mnist"]
CONTENDERS = [*VAES, *rows.PIXELCNN, *rows.SAMPLING, *rows.EVIDENCE]
PEERS = [contender for contender in CONTENDERS if contender.needs]
FILES = {
    "__init__.py", "__main__.py", "causal_forms.py", "harness.py", "machine.py", "memory.py", "pixel_sampling.py",
    "rows.py", "step_profile.py", "table.py", "work.py", "worker.py", "contenders/__init__.py",
    "contenders/evidence.py", "contenders/pixelcnn.py",
    "contenders/sampling.py", "contenders/with_numpyro.py", "contenders/with_probgen.py", "contenders/with_pyro.py",
    "contenders/with_pythae.py", "contenders/with_torch.py",
}  # fmt: skip


@pytest.fixture
def _uncompiled(monkeypatch, untyped):
    """What would be compiled is run as it is: compiling takes ten seconds each. Pyro's validation comes back."""
    import torch._inductor

    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, **_: graph)
    with torch.compiler.set_stance("force_eager"), pyro.validation_enabled(True):
        yield


@pytest.mark.parametrize("network", ["pixelcnn", "diagonal-bilstm"])
def test_the_sampling_benchmark_prints_a_row_for_each_width(network):
    command = [sys.executable, ROOT / "benchmarks/pixel_sampling.py", "--network", network, *TINY]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert printed[-2].split("  ")[0] == "features"
    assert printed[-1].startswith("2 ")
    assert printed[-1].count("×") == 1
    assert printed[-1].endswith("MiB")


@pytest.mark.usefixtures("_uncompiled")
def test_the_profile_is_of_the_whole_step():
    shares = step_profile.shares("digits", threads=1, steps=3, compiled="off")
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["Adam"] > 0


def test_the_products_of_a_step_are_those_of_its_layers():
    from torch.utils.flop_counter import FlopCounterMode

    work = with_probgen.setup("digits", 1, "off")
    work.run(1)
    with FlopCounterMode(display=False) as counter:
        work.run(2)
    assert counter.get_total_flops() == 2 * sum(2 * m * k * n for m, k, n in step_profile.shapes(CASES["digits"]))
    assert 0 < step_profile.products("digits", threads=1, steps=3) < 1


def test_each_function_of_the_profile_is_in_one_part():
    parts = {
        ("~", 0, "<built-in method abc.inductor_entry_cpp.inductor_entry_cpp>"): "the compiled graph",
        ("/lib/probgen/inference/adam.py", 26, "move"): "Adam",
        ("/tmp/torchinductor_me/qr/qr5.py", 804, "g"): "the compiled graph",
        ("/lib/probgen/data/split.py", 60, "_read"): "batch: choice, binarization",
        ("/lib/probgen/inference/trainer.py", 102, "step"): step_profile.REST,
    }
    assert {function: step_profile.part_of(function) for function in parts} == parts


@pytest.mark.parametrize("name", causal_forms.LAYERS)
def test_the_forms_of_a_layer_give_its_numbers_and_gradients(name, untyped):
    layer = causal_forms.layer_of(name).double()
    x = torch.randn(2, causal_forms.LAYERS[name][0], 4, 5, dtype=torch.float64)
    forms = [form for form, _ in causal_forms.forms_of(name).values()]
    inputs = [x.requires_grad_(), layer.weight, layer.bias]
    expected = [layer(x), *torch.autograd.grad(layer(x).square().sum(), inputs)]
    for form in forms:
        found = [form(layer, x), *torch.autograd.grad(form(layer, x).square().sum(), inputs)]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] += 1e-6  # the broken twin of each: one tap of one output is another
    assert not any(torch.allclose(form(layer, x), expected[0], rtol=1e-12, atol=1e-12) for form in forms)
    assert {len(seconds) for seconds in causal_forms.compared(name, rounds=2, batch=1, side=3).values()} == {2}


def test_every_benchmark_is_run_by_a_test():
    folder = ROOT / "benchmarks"
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*.py")} == FILES
    used = {f"{contender.module.removeprefix('benchmarks.').replace('.', '/')}.py" for contender in CONTENDERS}
    assert used == {name for name in FILES if name.startswith("contenders/") and "__init__" not in name}


@pytest.mark.parametrize("contender", [c for c in CONTENDERS if not c.needs], ids=lambda c: c.name)
@pytest.mark.usefixtures("_uncompiled")
def test_a_contender_does_its_steps(contender):
    threads = torch.get_num_threads()
    work = importlib.import_module(contender.module).setup(case="quick", threads=threads, **contender.options)
    assert work.run(2) >= 2
    if contender in VAES:
        assert work.facts["parameters"] == CASES["quick"].parameters


@pytest.mark.parametrize("contender", PEERS, ids=lambda c: c.name)
def test_a_peer_does_its_steps_or_says_that_it_is_not_installed(contender):
    """In a process of its own: JAX does not go well with the forks of other tests."""
    (result,) = rows.race([contender], rows.Options(1, 0.01, quick=True), 1, case="quick")
    if importlib.util.find_spec(contender.needs[0]) is None:
        assert result.failure == f"not installed ({contender.needs[0]}): pip install -e '.[bench]'"
    else:
        assert (result.failure, result.facts) == ("", {"parameters": CASES["quick"].parameters})
        assert len(result.seconds) == 1


def test_one_command_writes_one_table(tmp_path):
    out = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks", "iwae", "start-up", "gpu", "--quick", "--out", out]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT).stdout
    assert out.read_text() == printed
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {len(table.HEADER)}
    assert [line[1] for line in lines[2:7]] == [c.name for c in rows.EVIDENCE] + list(rows.LAUNCHES)
    assert [line[4] == "1" for line in lines[2:7]] == [True, False, True, False, False]
    assert "GPU" in lines[7][0]
    assert machine.processor() in printed


def test_an_unknown_row_is_named():
    command = [sys.executable, "-m", "benchmarks", "vae-minst"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert said.returncode == 2
    assert "unknown row vae-minst: choose of vae-mnist, " in said.stderr


def test_memory_of_training_is_told_for_steps_and_files(tmp_path, untyped):
    steps, size = next(iter(memory.settings(quick=True)))
    file = memory.sparse_file(tmp_path / "images.npy", size)
    found = memory.measure(steps, file)
    assert set(found) == {"anonymous", "file", "peak", "growth"}
    line = rows.memory_line(4000, 2000, [found], [found])
    assert line.contender == "4,000 steps, mapped file of 2,000 MB"
    assert (line.median.split()[1], line.ratio) == ("MiB", "**1.00**")
    assert file.stat().st_blocks * 512 < 10**5  # sparse


class Told:
    """A contender that says what it was told to."""

    def __init__(self, *seconds):
        self.seconds, self.facts = list(seconds), {}

    def measure(self, _):
        if not self.seconds:
            raise harness.FailedError("it broke")
        return self.seconds.pop(0), 1.0

    def close(self):
        self.seconds = []


def absent():
    raise harness.FailedError("not there")


def test_a_ratio_is_that_of_the_rounds_and_a_failure_is_told():
    starts = [("gone", absent), ("first", lambda: Told(1, 2, 8)), ("second", lambda: Told(2, 4, 8)), ("breaks", Told)]
    lines = table.lines_of("row", harness.compete(starts, rounds=3, seconds=0))
    assert [line.remarks for line in lines] == ["not there", "", "", "it broke"]
    assert (lines[1].median, lines[1].span, lines[1].ratio) == ("2.00 s", "1.00 s – 8.00 s", "1")
    assert (lines[2].ratio, lines[2].of_medians) == ("**2.00** (1.00–2.00)", "2.00")


def test_each_round_begins_with_another_contender():
    assert [harness.rotated(["a", "b", "c"], number) for number in (0, 1, 5)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]


def test_a_worker_warms_up_and_counts_what_was_done():
    asked = []
    work = Work(lambda steps: asked.append(steps) or steps + 1)
    assert worker.warm_up(work, 0.0) >= 0
    assert asked == [1, 2, 1]
    assert worker.timed(work, 4)["steps"] == 5


def test_a_worker_that_cannot_be_set_up_says_why():
    wrong = rows.contender("wrong", "evidence", what="nothing")
    (result,) = rows.race([wrong], rows.Options(1, 0.01, quick=True), 1, case="quick")
    assert result.failure == "KeyError: 'nothing'"


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_measured_where_the_processor_has_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(work.platform, "machine", lambda: "x86_64")
    with nullcontext() if able else pytest.raises(NotImplementedError, match="not run: this processor"):
        work.check_bf16("mnist", "cpu")
    work.check_bf16("quick", "cpu")
    work.check_bf16("mnist", "cuda")


def test_contenders_of_different_sizes_are_not_compared(monkeypatch):
    def pretend(starts, *_):
        return [harness.Result(name, facts={"parameters": size}) for size, (name, _) in enumerate(starts)]

    monkeypatch.setattr(rows, "compete", pretend)
    with pytest.raises(AssertionError, match="different sizes"):
        rows.race(rows.PIXELCNN, rows.Options(1, 0.01, quick=True), 1, case="quick")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(61.25, "61.2 s"), (0.0125, "12.5 ms"), (3e-5, "30.0 µs"), (2e-9, "2 ns"), (1234.5, "1,234 s")],
)
def test_durations_have_three_digits(seconds, said):
    assert table.duration(seconds) == said


def test_threads_are_as_fits_the_row_or_as_asked_for():
    assert rows.ROWS["vae-mnist"].threads([], cores=2) == [1, 2]
    assert rows.ROWS["vae-mnist"].threads([], cores=1) == [1]
    assert rows.ROWS["pixelcnn"].threads([], cores=4) == [4]
    assert rows.ROWS["iwae"].threads([3], cores=4) == [3]
    assert machine.cores() <= (os.cpu_count() or 1)
