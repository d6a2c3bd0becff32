"""What starts several processes: launchers' variables, and probgen itself; what cannot be shared is refused before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import Result, finish, records, refused, start
from in_processes import free_port

import probgen.commands.launch as launch
from probgen.commands.configure import continued
from probgen.errors import UserError
from probgen.runs import RunConfig

VAE = ("vae", "--data", "digits", "--batch-size", 301, "--steps", 14, "--set", "hidden=16")
PACKED = ("gan", "--data", "ring:300", "--batch-size", 30, "--set", "packing=2")
DCGAN = ("gan", "--data", "sprites:40", "--batch-size", 3, "--set", "network=dcgan", "--set", "hidden=4")

# --- launchers' variables

GOOD = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6", "RANK": "3"}


def test_what_a_launcher_says_is_taken(monkeypatch):
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    assert launch.given_by_launcher({"steps": 3}) == {"steps": 3, "devices": 2, "num_nodes": 3}
    assert not launch.is_first({"devices": 2, "num_nodes": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOCAL_WORLD_SIZE", "0"),
        ("LOCAL_WORLD_SIZE", "x"),
        ("LOCAL_WORLD_SIZE", ""),
        ("LOCAL_WORLD_SIZE", "4"),
        ("WORLD_SIZE", "-6"),
        ("WORLD_SIZE", "1" * 5000),
        ("LOCAL_RANK", "2"),
        ("LOCAL_RANK", "²"),
        ("RANK", "6"),
        ("RANK", "1.5"),
    ],
)
def test_what_a_launcher_cannot_say_is_refused(name, value, monkeypatch):
    for known, good in {**GOOD, name: value}.items():
        monkeypatch.setenv(known, good)
    with pytest.raises(UserError, match="WORLD_SIZE=6 came" if value == "4" else f"{name}={value} came.*expected"):
        launch.given_by_launcher({})


def test_hosts_that_would_not_find_each_other_are_refused(monkeypatch):
    for name in launch.LAUNCHER | launch.BY_HAND:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="torchrun --nnodes 3 --nproc-per-node 2, or set MASTER_ADDR"):
        launch.check_hosts(2, 3)
    launch.check_hosts(2, 1)
    for name in launch.BY_HAND:
        monkeypatch.setenv(name, "1")
    launch.check_hosts(2, 3)
    monkeypatch.setenv("MASTER_PORT", "x")
    with pytest.raises(UserError, match="MASTER_PORT=x came"):
        launch.check_hosts(2, 3)


def test_a_run_continued_by_one_process_needs_no_strategy():
    fields = {"model": "vae", "data": "digits", "image_shape": (1, 8, 8), "steps": 3}
    config = RunConfig(**fields, devices=2, strategy="ddp")
    assert continued(config, None, {"devices": 1}, Path("run")).strategy == "auto"
    assert continued(config, None, {}, Path("run")).strategy == "ddp"
    assert continued(config, None, {"devices": 1, "strategy": "ddp"}, Path("run")).strategy == "ddp"


# --- launched by ourselves


def test_the_launcher_starts_the_others_and_a_signal_stops_all(tmp_path):
    run = tmp_path / "run"
    case = ("vae", "--data", "digits", "--steps", 5000, "--compile", "off", "--set", "hidden=16")
    process = start("train", *case, "--devices", 2, "--out", run)
    deadline = time.monotonic() + 60
    while not ((run / "metrics.jsonl").exists() and records(run)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    done = finish(process)
    assert (done.code, done.stdout) == (130, "")
    (line,) = done.stderr.splitlines()
    stopped = torch.load(run / "checkpoint.pt", weights_only=True)
    assert f"stopped after step {stopped['trainer']['steps_done']}, saved" in line
    assert len(stopped["noise_of_others"]) == 1
    assert not Path(f"/proc/{child}").exists()


def test_a_signal_ends_a_process_that_waits_for_another_host(tmp_path):
    port = free_port()
    by_hand = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    environment = {**os.environ, **by_hand, "OMP_NUM_THREADS": "1"}
    case = ("vae", "--data", "digits", "--steps", 3, "--compile", "off", "--num-nodes", 2)
    process = start("train", *case, "--out", tmp_path / "run", env=environment)
    deadline = time.monotonic() + 60
    while not listens(port):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert finish(process, timeout=10) == Result(-signal.SIGTERM, "", "")


def listens(port):
    """Whether a process here waits for others at that port (state 0A)."""
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((*VAE, "--devices", 0), "--devices 0"),
        ((*VAE, "--devices", 302), ("--devices 302", "batches of 301 images")),
        ((*VAE, "--devices", 2, "--num-nodes", 200), ("--num-nodes 200", "400 devices")),
        ((*VAE, "--num-nodes", 2), ("--num-nodes 2", "torchrun --nnodes 2")),
        ((*VAE, "--strategy", "ddp"), ("--strategy ddp", "one device")),
        (("gaussian", "--data", "digits", "--strategy", "ddp"), ("--strategy ddp", "without steps")),
        (("ppca", "--data", "digits", "--compile", "on"), ("--compile on", "without steps")),
        ((*VAE, "--devices", 2, "--strategy", "nonsense"), ("--strategy nonsense", "ddp")),
        ((*VAE, "--precision", "16-mixed"), ("--precision 16-mixed", "bf16-mixed")),
        (("gan", "--data", "ring:300", "--precision", "bf16-mixed"), "two players"),
        ((*PACKED, "--devices", 2), ("packing=2", "2 processes", "a multiple of 4")),
        ((*DCGAN, "--devices", 2), ("batches of 3", "2 processes", "batch norm")),
        (("gaussian", "--data", "digits", "--precision", "bf16-mixed"), "no networks"),
        (("gaussian", "--data", "digits", "--devices", 2), "by one process"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_launched(args, says, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "started", lambda *_: pytest.fail("launched"))
    refused("train", *args, "--out", tmp_path / "run", says=says)
    assert not (tmp_path / "run").exists()


def test_one_process_needs_no_fabric():
    program = "import sys; from probgen.cli import run; import probgen.commands.train; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "probgen.commands.launch" in loaded
    assert not {"lightning_fabric", "torch._inductor.codecache"} & set(loaded)
