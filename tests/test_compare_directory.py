"""What `probgen compare` writes and what it leaves alone, and what it refuses before anything is computed."""

import json
import re
from pathlib import Path

import pytest
import torch
from compared_runs import SMALL, TOUR, run_of
from helpers import content, copy_of, ok, refused

# --- the directory


def test_a_former_comparison_is_replaced_and_nothing_else(tmp_path):
    out = tmp_path / "new" / "out"
    ok("compare", run_of("ring-gaussian"), run_of("ring-vae"), "--out", out, *SMALL)
    (out / "mine.txt").write_text("mine")
    ok("compare", run_of("ring-gaussian"), run_of("ring-gan"), "--out", out, *SMALL)
    assert set(content(out)) == {
        "comparison.json", "index.html", "mine.txt", "table.txt", "samples-ring-gaussian.png",
        "samples-ring-gan.png", "samples-training-data.png",
    }  # fmt: skip
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("former", [False, True])
def test_a_failure_leaves_nothing_half_written(former, tmp_path, monkeypatch):
    import probgen.commands.compare_page as pages
    from probgen.errors import UserError

    runs, out = (run_of("ring-gaussian"), run_of("ring-vae")), tmp_path / "out"
    if former:
        ok("compare", *runs, "--out", out, *SMALL)
    before, write = content(tmp_path), pages.write_atomic

    def full(path, data):
        if path.name == "index.html":
            raise UserError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(pages, "write_atomic", full)
    refused("compare", *runs, "--out", out, *SMALL, "--json", says="No space left")
    assert content(tmp_path) == before
    assert out.exists() == former


# --- refusals, before anything is computed


@pytest.fixture
def idle(tmp_path, monkeypatch):
    """Where nothing may be measured or written."""
    import probgen.commands.compare as commands

    def fail(*_args, **_options):
        raise AssertionError("measuring began")

    monkeypatch.setattr(commands, "measured_run", fail)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "out").exists()


def refuse(*runs, options=(), says):
    refused("compare", *runs, "--out", "out", *options, says=says)


def test_fewer_than_two_runs(idle):
    refuse(run_of("vae"), says=("1 run came", "two or more"))
    refused("compare", "--out", "out", says="RUN")
    refused("compare", run_of("vae"), run_of("gaussian"), says="--out")


def test_the_same_run_twice(idle):
    refuse(run_of("vae"), run_of("gaussian"), f"{run_of('vae')}/../vae", says=("vae", "twice"))


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ("gaussian", "ring-gaussian", ("data: digits and ring:300", "gaussian")),
        ("vae-static", "vae-dynamic", ("binarize: static and dynamic", "vae-static", "vae-dynamic")),
        ("vae", "language", ("language", "text")),
        ("language", "language-words", "text"),
    ],
)
def test_runs_of_other_data(one, other, says, idle):
    refuse(run_of(one), run_of(other), says=says)


def test_data_in_other_places(idle, monkeypatch):
    """Their content decides: another directory alone makes no other data."""
    import probgen.commands.compare as commands

    run = copy_of("vae", idle)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data_dir": str(idle)}))
    with pytest.raises(AssertionError, match="measuring began"):
        refuse(run_of("gaussian"), run, says="")
    keys = iter(("one", "other"))
    monkeypatch.setattr(commands, "cache_key", lambda data: next(keys))
    refuse(run_of("gaussian"), run, says=("different files of digits", str(idle), "--data-dir"))


def test_data_of_another_shape(idle):
    run = copy_of("vae", idle)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"image_shape": [1, 9, 9]}))
    refuse(run_of("vae"), run, says="shape: (1, 8, 8) and (1, 9, 9)")


def test_runs_that_are_none(idle):
    refuse(run_of("vae"), "missing", says=("missing", "does not exist"))
    (idle / "empty").mkdir()
    refuse(run_of("vae"), "empty", says=("empty", "no run directory"))
    run = copy_of("vae", idle)
    (run / "weights.safetensors").unlink()
    refuse(run_of("vae"), run, says=("run", "no weights"))


def test_a_run_that_took_no_step(idle):
    run = copy_of("vae", idle)
    (run / "metrics.jsonl").write_text("")
    refuse(run_of("gaussian"), run, says=("run", "never trained"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samples", 49), ("--samples 49", "50 to")),
        (("--samples", 100_001), ("--samples 100001", "100,000")),
        (("--particles", 0), ("--particles 0", "1 to")),
        (("--num", 0), ("--num 0", "1 to")),
        (("--seed", -1), "--seed"),
        (("--split", "foo"), ("'foo'", "train, valid or test")),
        (("--device", "foo"), ("device 'foo'", "auto, cpu or cuda")),
        (("--model", "vae"), ("--model vae", "leave it out")),
    ],
)
def test_words_that_are_wrong(options, says, idle):
    refuse(run_of("vae"), run_of("gaussian"), options=options, says=says)


def test_a_split_too_small_to_judge(idle):
    copy_of("colour", idle).rename(idle / "again")
    refuse(run_of("colour"), idle / "again", says=("test", "3 images", "at least 50"))


def test_places_that_are_taken(idle):
    runs = run_of("vae"), run_of("gaussian")
    (idle / "file").write_text("mine")
    (idle / "folder").mkdir()
    (idle / "folder" / "mine.txt").write_text("mine")
    refused("compare", *runs, "--out", "file", says=("file", "choose another --out"))
    refused("compare", *runs, "--out", "file/below", says=("file", "cannot write"))
    refused("compare", *runs, "--out", "folder", says=("folder", "no comparison"))
    refused("compare", *runs, "--out", runs[0], says="no comparison")
    assert content(idle) == {"file": b"mine", "folder/mine.txt": b"mine"}


def test_a_users_class_is_named_once_for_all_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_vae.py").write_text(next(b for b in re.findall(r"```python\n(.*?)```", TOUR, re.S) if "class MyVAE" in b))
    for name, seed in (("one", 0), ("two", 1)):
        ok("train", "my_vae.py:MyVAE", "--data", "digits", "--steps", 2, "--seed", seed, "--out", name, "--quiet")
    refused("compare", "one", "two", "--out", "out", says=("executes no code by itself", "--model my_vae.py:MyVAE"))
    assert not Path("out").exists()
    args = ("one", "two", run_of("gaussian"), "--model", "my_vae.py:MyVAE", "--out", "out")
    rows = ok("compare", *args, *SMALL, "--json").json["runs"]
    assert [row["model"] for row in rows] == ["my_vae.py:MyVAE", "my_vae.py:MyVAE", "gaussian"]
    assert [row["probe"] and row["probe"]["num_features"] for row in rows] == [4, 4, None]


def test_a_broken_model_is_named(idle, monkeypatch):
    """A diverged sampler: found by the first draw, before anything is measured."""
    run = copy_of("vae", idle)
    from safetensors.torch import load_file, save_file

    weights = load_file(run / "weights.safetensors")
    save_file({name: torch.full_like(w, float("nan")) for name, w in weights.items()}, run / "weights.safetensors")
    refuse(run_of("gaussian"), run, says=("run", "nan or infinite"))


def test_a_run_that_was_stopped_says_so(tmp_path):
    run = copy_of("ring-vae", tmp_path)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"steps": 1000}))
    rows = ok("compare", run, run_of("ring-gaussian"), "--out", tmp_path / "out", *SMALL, "--json").json["runs"]
    assert "training stopped after step 3 of 1,000" in rows[0]["notes"]
    assert rows[1]["training"]["planned_steps"] == 0  # solved, not climbed
