"""The film of a training: what is on it, that it changes nothing, and that a killed run ends with the same one."""

import numpy as np
import pytest
import torch
from helpers import killed_at, ok, refused
from PIL import Image

import probgen.commands.film as film
import probgen.commands.recorder as recorder
from probgen.data import load_data
from probgen.models.gan import GAN
from probgen.runs import Run

SMALL = ("--batch-size", 32, "--set", "hidden=8", "--quiet")
RING = ("gan", "--data", "ring:200", "--steps", 6, *SMALL)
DIGITS = ("gan", "--data", "digits", "--steps", 6, *SMALL, "--lr", 0.02)
VAE = ("vae", "--data", "digits", "--steps", 6, *SMALL)
STEPS = {"ring": RING, "digits": (*DIGITS, "--ema", 0.9), "a density": VAE}


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    """Checkpoints as often as possible, few frames, an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(film, "NUM_FRAMES", 3)


def bytes_of(run, name):
    return (Run.open(run).path / name).read_bytes()


def frames_of(run):
    return sorted(file.name for file in (run / "pictures" / "frames").glob("*.png"))


@pytest.mark.parametrize("name", STEPS)
def test_a_killed_run_ends_with_the_same_film_and_the_film_changes_no_weight(name, tmp_path):
    case, plain, whole, killed = STEPS[name], *(tmp_path / run for run in ("plain", "whole", "killed"))
    ok("train", *case, "--out", plain)
    ok("train", *case, "--animate", "--out", whole)
    killed_at(3, *case, "--animate", "--out", killed)
    stale = killed / "pictures" / "frames" / "000000000006.png"
    stale.write_bytes(bytes_of(killed, "pictures/frames/000000000000.png"))  # of a step that will be made again
    killed_at(5, "--out", killed, "--resume")
    assert not stale.exists()
    ok("train", "--out", killed, "--resume", "--animate", "--quiet")
    assert frames_of(whole) == [f"{step:012d}.png" for step in (0, 2, 4, 6)] == frames_of(killed)
    for file in (
        "pictures/training.gif",
        "weights.safetensors",
        *(f"pictures/frames/{one}" for one in frames_of(whole)),
    ):
        assert bytes_of(whole, file) == bytes_of(killed, file), file
    assert bytes_of(plain, "weights.safetensors") == bytes_of(whole, "weights.safetensors")
    assert not (plain / "pictures" / "training.gif").exists()
    with Image.open(whole / "pictures" / "training.gif") as shown:
        assert shown.n_frames == 4


def test_all_frames_are_of_the_same_z(tmp_path):
    """Weights that stand still draw the same frame at every step; weights that move draw others."""
    ok("train", *DIGITS, "--lr", 1e-12, "--animate", "--out", tmp_path / "still")
    ok("train", *DIGITS, "--animate", "--out", tmp_path / "moving")
    found = {}
    for run in ("still", "moving"):
        files = (tmp_path / run / "pictures" / "frames").glob("*.png")
        found[run] = {file.read_bytes() for file in files}
    assert (len(found["still"]), len(found["moving"])) == (1, 4)


def test_a_frame_is_of_the_weights_that_would_be_kept(tmp_path):
    """Of the average, where there is one: the last frame is drawn again from the saved weights."""
    import probgen

    data = load_data("digits")
    for name, options in (("average", ("--ema", 0.9)), ("last", ())):
        run = tmp_path / name
        ok("train", *DIGITS, *options, "--animate", "--out", run)
        before = bytes_of(run, "pictures/frames/000000000006.png")
        film.shoot(Run.open(run), probgen.load(run), data, 6)
        assert bytes_of(run, "pictures/frames/000000000006.png") == before
    one, other = (bytes_of(tmp_path / name, "pictures/frames/000000000006.png") for name in ("average", "last"))
    assert one != other


def test_a_frame_leaves_random_state_weights_and_mode_alone(tmp_path):
    ok("train", *DIGITS, "--out", "run")
    pair = GAN((1, 8, 8), 17, hidden=(8,), spectral_norm=True, loss="hinge")
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    state = torch.get_rng_state()
    film.shoot(Run.open(tmp_path / "run"), pair, load_data("digits"), 1)
    assert torch.equal(state, torch.get_rng_state())
    assert pair.training
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_frames_are_due_at_the_start_the_end_and_evenly_between():
    assert [step for step in range(8) if film.is_due(step, 7)] == [0, 2, 4, 6, 7]
    assert [step for step in range(3) if film.is_due(step, 2)] == [0, 1, 2]
    assert sum(film.is_due(step, 1000) for step in range(1001)) == 5


def test_other_files_among_the_frames_are_left_alone(tmp_path):
    killed_at(3, *DIGITS, "--animate", "--out", "run")
    mine = tmp_path / "run" / "pictures" / "frames" / "mine.png"
    mine.write_bytes(b"mine")
    ok("train", "--resume", "--out", "run", "--quiet")
    assert mine.read_bytes() == b"mine"
    ok("train", *DIGITS, "--overwrite", "--out", "run")
    assert mine.read_bytes() == b"mine"
    assert frames_of(tmp_path / "run") == ["mine.png"]
    assert not (tmp_path / "run" / "pictures" / "training.gif").exists()


# --- the field


@pytest.mark.parametrize("options", [{}, {"packing": 2}, {"condition": "label"}], ids=str)
def test_the_field_is_the_logit_at_each_place(options):
    torch.manual_seed(0)
    pair = GAN((2,), None, 3, hidden=(6, 5), activation="tanh", **options)
    plane = torch.randn(7, 2)
    each = {
        "packing": lambda: pair.discriminator(plane.repeat_interleave(2, 0)),
        "condition": lambda: sum(pair.discriminator(plane, torch.full((7,), y)) for y in range(3)) / 3,
    }
    expected = each.get(next(iter(options), ""), lambda: pair.discriminator(plane))()
    np.testing.assert_allclose(film.judged(pair, plane).numpy(), expected.detach().numpy(), atol=1e-6)
    assert pair.training


def test_the_field_covers_the_data_with_a_margin():
    low, high = film.extent(torch.tensor([[0.0, -1.0], [2.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(low, [-0.3, -1.3], atol=1e-6)
    np.testing.assert_allclose(high, [2.3, 1.3], atol=1e-6)


def test_what_draws_no_pictures_or_takes_no_steps_is_not_filmed(tmp_path):
    for args in (("autoencoder", "--data", "digits"), ("language", "--data", "sea-log")):
        refused("train", *args, "--steps", 2, "--animate", "--out", "run", says=("--animate", "draws no images"))
    refused("train", "gaussian", "--data", "digits", "--animate", "--out", "run", says=("--animate", "estimator=svi"))
    assert list(tmp_path.iterdir()) == []
