"""Freed memory stays with the process once it was asked to keep it, and goes back before."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from probgen.inference.heap import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
blocks = [bytearray(b"x") * 2**20 for _ in range(64)]
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
@pytest.mark.parametrize(("asked", "least", "most"), [("keep", 60, 80), ("no", -10, 10)])
def test_freed_memory_is_kept_when_asked_for(asked, least, most):
    done = subprocess.run([sys.executable, "-c", PROGRAM, asked], capture_output=True, text=True, check=True)
    assert least < int(done.stdout) / 2**20 < most


def test_elsewhere_than_on_glibc_nothing_happens(monkeypatch):
    from probgen.inference import heap

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    heap.keep_freed_memory()
