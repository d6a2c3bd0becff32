"""The benchmarks run; what they measure is no test's business."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = ("--features", "2", "--blocks", "1", "--batch", "2", "--rounds", "1", "--naive-pixels", "2")


@pytest.mark.parametrize("network", ["pixelcnn", "diagonal-bilstm"])
def test_the_sampling_benchmark_prints_a_row_for_each_width(network):
    command = [sys.executable, BENCHMARKS / "pixel_sampling.py", "--network", network, *TINY]
    table = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert table[-2].split("  ")[0] == "features"
    assert table[-1].startswith("2 ")
    assert table[-1].count("×") == 1
    assert table[-1].endswith("MiB")


def test_every_benchmark_is_run_by_a_test():
    assert [file.name for file in BENCHMARKS.glob("*.py")] == ["pixel_sampling.py"]
