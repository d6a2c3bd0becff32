"""Wrong data files and spoilt run directories: one line, exit code 2, nothing lost, nothing run."""

import io
import json
import pickle

import numpy as np
import pytest
from helpers import SMALL, content, copy_of, refused, trained
from PIL import Image


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in an empty directory of its own, where nothing may be left behind by a refusal."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- data files


def write_npz(**arrays):
    np.savez("x.npz", **arrays)


GREY = np.random.RandomState(0).randint(0, 256, (30, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pixels": GREY}, ("pixels", "`images`")),
        ({"images": GREY[0]}, ("(4, 5)", "n h w")),
        ({"images": GREY[:, None, None]}, ("(30, 1, 1, 4, 5)", "n h w")),
        ({"images": GREY.reshape(30, 2, 5, 2)}, ("(30, 2, 5, 2)", "channels")),
        ({"images": GREY[:0]}, "no image"),
        ({"images": GREY[:2]}, ("2 images", "at least 3")),
        ({"images": GREY[:, :0]}, "without a pixel"),
        ({"images": np.full((30, 4, 5), np.nan)}, "NaN"),
        ({"images": GREY / 255}, ("fractions", "multiply by 255")),
        ({"images": GREY - 300.0}, "expected integers 0 … 255"),
        ({"images": np.array([["a", "b"]] * 30)}, "expected numbers"),
        ({"images": GREY * 1j}, "expected numbers"),
        ({"images": np.array([{}] * 30, dtype=object)}, ("pickled", "never unpickled")),
        ({"images": GREY, "levels": np.array(5)}, "5 levels"),
        ({"images": GREY, "labels": np.arange(3)}, "labels"),
    ],
)
def test_arrays_that_are_no_images(arrays, says, elsewhere):
    write_npz(**arrays)
    refused(
        "train",
        "gaussian",
        "--data",
        "x.npz",
        "--out",
        "run",
        says=("x.npz", *([says] if isinstance(says, str) else says)),
    )
    assert not (elsewhere / "run").exists()


def test_a_file_that_is_no_npz(elsewhere):
    write_npz(images=GREY)
    whole = (elsewhere / "x.npz").read_bytes()
    for data, says in (
        (b"", "empty"),
        (whole[:200], "truncated"),
        (whole[:-30], "truncated"),
        (b"hello", "not a .npz"),
    ):
        (elsewhere / "x.npz").write_bytes(data)
        refused("train", "gaussian", "--data", "x.npz", "--out", "run", says=("x.npz", says))


def test_a_folder_without_pictures_and_one_that_is_broken(elsewhere):
    (elsewhere / "folder").mkdir()
    refused("train", "gaussian", "--data", "folder", "--out", "run", says=("folder", "no picture"))
    for i in range(4):
        Image.fromarray(GREY[i]).save(elsewhere / "folder" / f"{i}.png")
    (elsewhere / "folder" / "2.png").write_bytes(b"not a picture")
    refused("train", "gaussian", "--data", "folder", "--out", "run", says=("2.png", "broken"))


def test_data_that_have_changed_since(elsewhere):
    write_npz(images=GREY)
    from helpers import ok

    ok("train", "vae", "--data", "x.npz", *SMALL, "--out", "run", "--quiet")
    write_npz(images=GREY[:, :3])
    for command in (("evaluate", "run"), ("train", "--resume", "--out", "run")):
        refused(*command, says=("(1, 3, 5)", "(1, 4, 5)", "changed"))
    (elsewhere / "x.npz").unlink()
    refused("evaluate", "run", says=("x.npz", "does not exist"))


# --- run directories

ALL = [("info",), ("evaluate",), ("sample", "--out", "x.png"), ("elbo",)]


def on_run(command, run):
    return (command[0], run, *command[1:])


@pytest.mark.parametrize("command", ALL)
def test_what_is_no_run(command, elsewhere):
    (elsewhere / "folder").mkdir()
    (elsewhere / "file").write_text("")
    refused(*on_run(command, "missing"), says=("missing", "does not exist"))
    refused(*on_run(command, "folder"), says=("folder", "config.json"))
    refused(*on_run(command, "file"), says="file")


def test_a_file_is_not_said_to_be_missing(elsewhere):
    (elsewhere / "file").write_text("")
    assert "does not exist" not in refused("info", "file")


def spoilt_config(place, **fields):
    run = copy_of("vae", place)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **fields}))
    return run


@pytest.mark.parametrize("command", ["info", "resume"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"steps": "x"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"lr": None}, "lr"),
        ({"foo": 1}, "foo"),
        ({"format": 2}, "format"),
        ({"options": 5}, "options"),
        ({"image_shape": []}, "image_shape"),
        ({"model": "nope"}, "'nope'"),
        ({"model": 5}, "model"),
        ({"options": {"latent_dim": "x"}}, "latent_dim"),
        ({"options": {"foo": 1}}, "foo"),
        ({"options": {"latent_dim": 2, "hidden": [16]}}, ()),
        ({"image_shape": [1, 9, 9]}, "(1, 9, 9)"),
    ],
)  # fmt: skip
def test_a_configuration_with_wrong_values(command, fields, says, elsewhere):
    run = spoilt_config(elsewhere, **fields)
    before = content(run)
    if fields == {"image_shape": [1, 9, 9]} and command == "info":
        says = "do not fit"
    refused(*(("info", run) if command == "info" else ("train", "--out", run, "--resume")), says=says)
    assert all(content(run)[name] == before[name] for name in before if name != "config.json")


@pytest.mark.parametrize("data", [b"", b'{"model": "vae"', b"[]", b"3", b"\xff\xfe", b"null"])
def test_a_configuration_that_is_damaged(data, elsewhere):
    run = copy_of("vae", elsewhere)
    (run / "config.json").write_bytes(data)
    for command in (("info", run), ("train", "--out", run, "--resume")):
        refused(*command, says=("config.json", "damaged"))


EVIL = """
import pathlib
pathlib.Path("EVIL").write_text("")
class X:
    def model(self, x): pass
    def guide(self, x): pass
"""


@pytest.mark.parametrize("model", ["evil.py", "evil.py:X", "./evil.py:X", "evil", "evil:X"])
@pytest.mark.parametrize(
    "command",
    [
        *ALL,
        ("traverse", "--out", "x.png"),
        ("train", "--resume", "--out"),
        ("train", "--set", "a=1", "--resume", "--out"),
    ],
)
def test_a_run_directory_executes_nothing_by_itself(model, command, elsewhere):
    """A stranger's run whose configuration names a file that lies here."""
    (elsewhere / "evil.py").write_text(EVIL)
    run = spoilt_config(elsewhere, model=model, options={})
    command = (*command, run) if command[0] == "train" else on_run(command, run)
    line = refused(*command)
    assert not (elsewhere / "EVIL").exists()
    if ".py" in model and command[0] != "train":
        assert f"--model {model}" in line


def test_a_configuration_that_asks_for_terabytes(elsewhere):
    options = {"latent_dim": 100_000, "hidden": [100_000, 100_000]}
    for fields in ({"options": options}, {"image_shape": [3, 100_000, 100_000]}):
        refused("info", spoilt_config(elsewhere, **fields), says="do not fit")
        __import__("shutil").rmtree(elsewhere / "run")


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "random", "other", "nan", "missing", "directory"])
def test_weights_that_are_damaged(damage, command, elsewhere):
    run = copy_of("vae", elsewhere)
    spoil_weights(run / "weights.safetensors", damage)
    says = {"other": "do not fit", "nan": "nan", "missing": "no weights", "directory": "weights"}.get(damage, "damaged")
    refused(*on_run(command, run), says=says)


def spoil_weights(file, damage):
    from safetensors.torch import load_file, save_file

    whole = file.read_bytes()
    if damage in ("missing", "directory"):
        file.unlink()
        if damage == "directory":
            file.mkdir()
    elif damage == "nan":
        weights = load_file(file)
        next(iter(weights.values()))[0] = float("nan")
        save_file(weights, file)
    else:
        file.write_bytes(
            {
                "empty": b"",
                "truncated": whole[:-50],
                "header": whole[:20],
                "random": np.random.RandomState(0).bytes(3000),
                "other": (trained("vae-2") / "weights.safetensors").read_bytes(),
            }[damage]
        )


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self):
        return (open, ("EXPLODED", "w"))


def as_checkpoint(state):
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("bomb", ["pickle", "torch", "nested"])
def test_a_checkpoint_executes_nothing(bomb, elsewhere):
    run = copy_of("vae", elsewhere)
    state = {"trainer": {"steps_done": Bomb()}} if bomb == "nested" else Bomb()
    (run / "checkpoint.pt").write_bytes(pickle.dumps(Bomb()) if bomb == "pickle" else as_checkpoint(state))
    refused("train", "--out", run, "--resume", says=("checkpoint.pt", "refused"))
    assert not (elsewhere / "EXPLODED").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "random", "other", "list", "key", "directory"])
def test_a_checkpoint_that_is_damaged(damage, elsewhere):
    run = copy_of("vae", elsewhere)
    file = run / "checkpoint.pt"
    whole = file.read_bytes()
    before = (run / "weights.safetensors").read_bytes()
    if damage == "directory":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {
                "empty": b"",
                "truncated": whole[:-100],
                "random": np.random.RandomState(0).bytes(3000),
                "other": (trained("vae-2") / "checkpoint.pt").read_bytes(),
                "list": as_checkpoint([1, 2]),
                "key": as_checkpoint({"trainer": {}}),
            }[damage]
        )
    refused("train", "--out", run, "--resume", says="checkpoint.pt")
    assert (run / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"steps_done": "abc"}, {"steps_done": 1.5}, {"steps_done": -5}, {"steps_done": 10**9}, {"random": 5},
        {"average": 5}, {"optimizer": {}}, {"pair": {}},
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_with_wrong_values(change, elsewhere):
    import torch

    run = copy_of("vae", elsewhere)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["trainer"].update(change)
    (run / "checkpoint.pt").write_bytes(as_checkpoint(state))
    refused("train", "--out", run, "--resume", says="checkpoint.pt")


def test_a_checkpoint_whose_moments_have_another_shape(elsewhere, monkeypatch):
    """Adam's fused kernel does not look at shapes: it would write outside of the tensors."""
    import torch

    import probgen.inference.trainer as trainer

    def step(*_args):
        raise AssertionError("a step was taken")

    run = copy_of("vae", elsewhere)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["trainer"]["steps_done"] = 1
    state["trainer"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)
    (run / "checkpoint.pt").write_bytes(as_checkpoint(state))
    monkeypatch.setattr(trainer.Trainer, "step", step)
    refused("train", "--out", run, "--resume", says="checkpoint.pt")


@pytest.mark.parametrize("data", [b"5\n", b'{"a": 1}\n', b"\xff\xff\n", b'{"step": "x", "split": "train"}\n', b"[]\n"])
def test_metrics_that_are_damaged_are_no_crash(data, elsewhere):
    from helpers import probgen

    run = copy_of("vae", elsewhere)
    (run / "metrics.jsonl").write_bytes(data)
    for command in (("info", run), ("train", "--out", run, "--resume", "--quiet")):
        result = probgen(*command)
        assert result.code in (0, 2)
        assert len(result.stderr.splitlines()) == (result.code == 2)
