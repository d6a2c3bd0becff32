"""Implicit runs on the command line: what is said of their samples, and options that would do nothing."""

import pytest
import torch
from helpers import SHARED, ok, picture, refused, trained
from PIL import Image

import probgen.commands.film as film
from probgen.errors import UserError
from probgen.inference.adversarial.saturation import generator_norms
from probgen.inference.predict import sample
from probgen.models.gan import GAN
from probgen.tables_samples import told_of_players

SMALL = ("--steps", 2, "--batch-size", 16, "--set", "hidden=8", "--quiet")


def run_of(name, *args):
    """A small sampler, made once."""
    out = SHARED / "judged" / name
    if not out.exists():
        ok("train", "gan", *SMALL, *args, "--out", out)
    return out


@pytest.fixture
def digits():
    return run_of("digits", "--data", "digits")


@pytest.fixture
def ring():
    return run_of("ring", "--data", "ring:300")


# --- gradients


def test_fewer_draws_than_a_pack_are_one_pack():
    found = generator_norms(GAN((2,), hidden=(4,), packing=12), 10)
    assert found["draws"] == 12
    assert all(value > 0 for value in found["norms"].values())
    assert generator_norms(GAN((2,), hidden=(4,), packing=4), 10)["draws"] == 8


@pytest.mark.parametrize(
    ("loss", "probable"),
    [("minimax", True), ("non-saturating", True), ("wasserstein", False), ("hinge", False), ("relativistic", False)],
)
def test_a_logit_that_is_no_probability_is_not_shown_as_one(loss, probable):
    found = generator_norms(GAN((2,), hidden=(4,), loss=loss), 10)
    assert (found["d_fake"] is not None) == probable
    lines = told_of_players(loss, found).splitlines()
    assert ("D(G(z))" in lines[-1]) == probable
    assert ("no probability" in lines[0]) != probable


# --- likelihood by annealing


def test_annealing_tells_its_protocol(ring, digits):
    short = ("--method", "ais", "--num", 3, "--chains", 2, "--distributions", 4, "--samples", 50)
    found = ok("evaluate", ring, *short, "--json").json
    observation = found["observation"]
    told = {key: observation[key] for key in ("chains", "distributions", "schedule", "num_images", "unit")}
    expected = {"chains": 2, "distributions": 4, "schedule": "sigmoidal", "num_images": 3, "unit": "nats per point"}
    assert told == expected
    assert found["num_images"] == found["samples"]["num_real"] == 50
    text = ok("evaluate", digits, *short).stdout
    for part in ("the first 3;", "2 chains", "4 distributions", "sigmoidal", "HMC proposals accepted", "per image"):
        assert part in text


# --- what is refused, and what is said


NOTHING = [
    (("--num", 3), ("--num 3", "--samples")),
    (("--particles", 100), ("--particles 100", "implicit")),
    (("--particles", 100, "--method", "ais"), ("--particles 100", "implicit")),
    (("--sigma", 0.2), ("--sigma 0.2", "--method ais")),
]


@pytest.mark.parametrize(("options", "says"), NOTHING, ids=lambda value: " ".join(map(str, value)))
def test_options_that_do_nothing_are_refused(options, says, digits):
    refused("evaluate", digits, *options, says=says)


def test_the_head_counts_no_images_that_were_not_looked_at(digits):
    text = ok("evaluate", digits, "--samples", 50).stdout
    assert text.startswith("gan on the test split of digits\n")
    assert ok("evaluate", digits, "--samples", 50, "--json").json["num_images"] == 50


def test_an_autoencoder_has_no_samples_to_judge():
    refused("evaluate", trained("autoencoder"), "--samples", 60, says="there are no samples to judge: an autoencoder")


def test_how_samples_come_about_is_said(digits, tmp_path):
    labelled = run_of("labelled", "--data", "digits", "--set", "condition=label")
    binary = run_of("binary", "--data", "digits", "--binarize", "static")
    for run, text in ((labelled, "label is drawn uniformly"), (binary, "rounded to 0 and 1")):
        assert text in ok("evaluate", run, "--samples", 50, "--json").json["note"]
        assert text not in ok("evaluate", digits, "--samples", 50, "--json").json["note"]
    rows = ok("compare", labelled, digits, "--samples", 50, "--out", tmp_path / "out", "--json").json["runs"]
    assert [any("drawn uniformly" in note for note in row["notes"]) for row in rows] == [True, False]


class Hidden(GAN):
    """Its z is no site."""

    def model(self, num, y=None):
        return self.made(torch.randn(num, self.latent_dim))


def test_a_temperature_that_nothing_has_is_refused():
    pair = Hidden((2,), hidden=(4,))
    assert sample(pair, 3, (2,)).shape == (3, 2)
    with pytest.raises(UserError, match=r"temperature=0\.5 came, but the sampler's model has no Gaussian site"):
        sample(pair, 3, (2,), temperature=0.5)
    assert sample(GAN((2,), hidden=(4,)), 3, (2,), temperature=0.5).shape == (3, 2)


def test_more_walks_than_there_are_rows_are_refused(digits, tmp_path):
    refused("traverse", digits, "--num", 101, "--out", tmp_path / "x.png", says=("--num 101", "1 to 100"))
    assert not (tmp_path / "x.png").exists()
    ok("traverse", digits, "--num", 100, "--out", tmp_path / "x.png")
    assert picture(tmp_path / "x.png").shape[0] == 100 * 68 + 4
    assert "Of a GAN" in ok("traverse", "--help").stdout


# --- the film


def test_a_film_of_images_tells_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "NUM_FRAMES", 2)
    ok("train", "gan", "--data", "digits", *SMALL, "--lr", 1e-12, "--animate", "--out", tmp_path / "run")
    with Image.open(tmp_path / "run/pictures/training.gif") as shown:
        frames = [frame_of(shown, number) for number in range(shown.n_frames)]
    assert len({frame.size for frame in frames}) == 1
    width, height = frames[0].size
    grids = {frame.crop((0, 0, width, height - film.CAPTION)).tobytes() for frame in frames}
    captions = {frame.crop((0, height - film.CAPTION, width, height)).tobytes() for frame in frames}
    assert (len(grids), len(captions)) == (1, 3)  # the same weights at steps 0, 1 and 2


def frame_of(shown, number):
    shown.seek(number)
    return shown.convert("RGB")


def test_a_caption_is_the_same_each_time():
    frame = Image.new("RGB", (200, 50))
    one, again, other = (film.captioned(frame, f"step {step:,}") for step in (1000, 1000, 1001))
    assert one.size == (200, 50 + film.CAPTION)
    assert one.tobytes() == again.tobytes() != other.tobytes()
