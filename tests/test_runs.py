"""Run directories: what is in one, who may write to it, and what is left when the disk is full."""

import errno
import fcntl
import json
import os
import resource

import pytest
import torch
from helpers import RUNS, SMALL, check_refusal, content, copy_of, finish, ok, refused, start, trained

import probgen as package

VAE = ("train", "vae", "--data", "digits", *SMALL)
RING = ("train", "gaussian", "--data", "ring:50")


@pytest.mark.parametrize("name", ["vae", "gaussian"])
def test_a_run_holds_data_and_no_code(name):
    files = content(trained(name)).keys()
    assert {"config.json", "weights.safetensors", "metrics.jsonl"} <= files
    assert not [file for file in files if file.endswith((".py", ".pkl", ".pickle", ".tmp"))]
    assert json.loads((trained(name) / "config.json").read_text())["model"] == name
    for line in (trained(name) / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line).keys() >= {"step", "epoch", "split"}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_load_gives_a_model_ready_to_use(name):
    model = package.load(trained(name))
    assert not model.training
    if hasattr(model, "sample"):
        assert torch.isfinite(model.sample(3)).all()
    shape = json.loads((trained(name) / "config.json").read_text())["image_shape"]
    model.guide(torch.zeros(2, *shape))
    if name != "autoencoder":  # its z has no prior to draw from
        model.model(torch.zeros(2, *shape))


def test_load_samples_like_the_command(tmp_path):
    import numpy as np
    import pyro

    from probgen.inference.predict import sample

    ok("sample", trained("vae"), "--num", 4, "--seed", 5, "--out", tmp_path / "x.npz")
    model = package.load(str(trained("vae")))
    pyro.set_rng_seed(5)
    images = sample(model, 4, (1, 8, 8))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["images"], images[:, 0].numpy())


def test_load_of_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        package.load(tmp_path)


# --- what is there already


@pytest.mark.parametrize("args", [VAE, RING])
def test_a_run_that_is_there_is_left_alone(args, tmp_path):
    run = copy_of("vae", tmp_path)
    before = content(run)
    refused(*args, "--out", run, says=("--resume", "--overwrite"))
    assert content(run) == before


def test_overwrite_makes_a_new_run(tmp_path):
    run = copy_of("vae", tmp_path)
    ok(*VAE, "--seed", 1, "--overwrite", "--out", run, "--quiet")
    assert (run / "weights.safetensors").read_bytes() != (trained("vae") / "weights.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_overwrite_with_another_model_leaves_nothing_of_the_old(tmp_path):
    run = copy_of("vae", tmp_path)
    ok(*RING, "--overwrite", "--out", run, "--quiet")
    assert not (run / "checkpoint.pt").exists()
    assert sorted(file.name for file in (run / "pictures").iterdir()) == ["samples.png"]
    ok("evaluate", run)


@pytest.mark.parametrize(
    "args",
    [
        ("--set", "latent_dim=-1"), ("--lr", "nan"), ("--data", "missing.npz"), ("--set", "likelihood=bernoulli"),
        ("--device", "foo"), ("--steps", 0), ("--epochs", 3), ("--resume",), ("--set", "beta"),
    ],
)  # fmt: skip
def test_overwrite_with_a_mistake_leaves_the_old_run(args, tmp_path):
    run = copy_of("vae", tmp_path)
    before = content(run)
    refused(*VAE, "--overwrite", "--out", run, *args)
    assert content(run) == before


def test_overwrite_with_data_that_cannot_be_fitted_leaves_the_old_run(tmp_path):
    run = copy_of("ring-gaussian", tmp_path)
    before = content(run)
    refused("train", "gaussian", "--data", "ring:1", "--overwrite", "--out", run, says="singular")
    assert (run / "weights.safetensors").read_bytes() == before["weights.safetensors"]


def test_a_fit_that_fails_leaves_no_half_run(tmp_path):
    """The same command can be given again, mended, without --overwrite."""
    args = ("train", "gaussian", "--out", tmp_path / "run", "--quiet", "--data")
    refused(*args, "ring:1", says="singular")
    ok(*args, "ring:100")


@pytest.mark.parametrize(
    "name", ["notes.txt", ".notes.tmp", ".hidden", "sub/notes.txt", "pictures/mine.png", "tensorboard/notes.txt"]
)
@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_a_strangers_file_stays(name, flag, tmp_path):
    run = copy_of("vae", tmp_path)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("mine")
    ok(*VAE, flag, "--out", run, "--quiet")
    assert (run / name).read_text() == "mine"


@pytest.mark.parametrize("flag", [(), ("--overwrite",)])
def test_a_directory_that_is_no_run_is_left_alone(flag, tmp_path):
    for name in ("weights.safetensors", "metrics.jsonl", "pictures/samples.png", "notes.txt"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text("mine")
    before = content(tmp_path)
    refused(*VAE, *flag, "--out", tmp_path / "folder", says="is no run directory")
    refused(*VAE, *flag, "--out", tmp_path / "folder" / "notes.txt", says="notes.txt")
    assert content(tmp_path) == before


def test_an_empty_directory_becomes_a_run(tmp_path):
    ok(*RING, "--out", tmp_path, "--quiet")
    ok("evaluate", tmp_path)


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "n" * 300])
def test_a_place_where_no_directory_can_be(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    line = refused(*VAE, "--out", place)
    assert place in line
    assert content(tmp_path) == {"file": b"mine"}


# --- two processes


@pytest.fixture
def locked_run(tmp_path):
    """A run that another process is training in."""
    run = copy_of("vae", tmp_path)
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_two_processes_do_not_train_in_one_run(flag, locked_run):
    before, inode = content(locked_run), (locked_run / ".lock").stat().st_ino
    refused(*VAE, flag, "--out", locked_run, says=("another process", str(locked_run)))
    assert content(locked_run) == before
    assert (locked_run / ".lock").stat().st_ino == inode


def test_a_run_in_training_can_be_looked_at(locked_run, tmp_path):
    ok("info", locked_run)
    ok("evaluate", locked_run, "--num", 3)
    ok("sample", locked_run, "--out", tmp_path / "x.png")


# --- half-written files


def test_what_a_killed_process_left_is_removed(tmp_path):
    run = copy_of("vae", tmp_path)
    for name in (".checkpoint.pt.abc123.tmp", ".weights.safetensors.x_y.tmp", "pictures/.samples.png.abc.tmp"):
        (run / name).write_bytes(b"half")
    ok("train", "--out", run, "--resume", "--quiet")
    assert not list(run.rglob("*.tmp"))


def test_a_run_killed_before_its_first_weights_says_so(tmp_path):
    run = copy_of("vae", tmp_path)
    (run / "weights.safetensors").unlink()
    refused("evaluate", run, says=("no weights yet", "--resume"))


# --- a full disk


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """The disk is full from the second checkpoint on."""
    import probgen.commands.recorder as commands
    import probgen.files as files

    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(commands, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(files.os, "fsync", full)
    run = tmp_path / "run"
    args = ("train", "vae", "--data", "digits", "--steps", 40, "--batch-size", 32, "--set", "hidden=16")
    refused(*args, "--out", run, says=("cannot write", "No space left"))
    assert not list(run.rglob("*.tmp"))
    assert len(calls) == 9
    monkeypatch.setattr(files.os, "fsync", real)
    assert 0 < torch.load(run / "checkpoint.pt", weights_only=True)["trainer"]["steps_done"] < 40
    ok("evaluate", run, "--num", 3)
    ok("train", "--out", run, "--resume", "--quiet")
    ok(*args, "--out", tmp_path / "other", "--quiet")
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "other" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_a_full_disk_keeps_the_old_picture(suffix, tmp_path, monkeypatch):
    import probgen.files as files

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / f"x.{suffix}").write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    refused("sample", trained("vae"), "--out", tmp_path / f"x.{suffix}", says=("cannot write", "No space left"))
    assert content(tmp_path) == {f"x.{suffix}": b"old"}


def test_a_limit_on_file_sizes_is_one_line(tmp_path):
    """A process that may write 20 kB to a file, less than a checkpoint: as a full disk, with every library's writes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    run = tmp_path / "run"
    check_refusal(finish(start(*VAE, "--out", run, preexec_fn=limit)), says="cannot write")
    assert not list(tmp_path.rglob("*.tmp"))
    ok("train", "--out", run, "--resume", "--quiet")
    assert (run / "weights.safetensors").read_bytes() == (trained_alike(tmp_path) / "weights.safetensors").read_bytes()


def trained_alike(place):
    """The same run, never stopped."""
    ok(*VAE, "--out", place / "alike", "--quiet")
    return place / "alike"


# --- a loss that is no number


def test_a_rate_that_is_too_high_keeps_the_last_good_checkpoint(tmp_path):
    run = tmp_path / "run"
    args = ("--set", "hidden=16", "--steps", 50, "--batch-size", 32, "--lr", 1e6)
    line = refused(
        "train", "vae", "--data", "digits", *args, "--out", run, says=("step ", "site", "learning rate", "1e+06")
    )
    assert "nan" in line or "inf" in line
    assert f"kept in {run}" in line
    weights = package.load(run).state_dict()
    assert all(torch.isfinite(w).all() for w in weights.values())
    ok("info", run)
