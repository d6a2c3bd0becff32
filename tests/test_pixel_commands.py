"""Models that draw one pixel after the other, on the command line: samples, films, completions, fields, numbers."""

import math
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from helpers import PIXEL_RUNS, content, ok, picture, pixel_run, refused, trained
from PIL import Image, ImageSequence

import probgen as package
from probgen import plots
from probgen.commands.common import open_run
from probgen.commands.pixels import draw_pixels, known_pixels
from probgen.data import load_data

ALL = [*PIXEL_RUNS, "pixelcnn-label"]
each = pytest.mark.parametrize("name", ALL)
CELL, GAP = 64, 4  # of the pictures, in screen pixels


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(name, *args):
    ok("sample", trained(name), "--out", "x.npz", *args)
    return np.load("x.npz")["images"]


def cells(file, columns):
    """The images of a grid, back in grey levels 0 … 16, as rows columns h w; unknown pixels, in blue, are -1."""
    pixels = picture(file)[GAP:, GAP:].astype(int)
    rows = pixels.shape[0] // (CELL + GAP)
    assert pixels.shape[1] == columns * (CELL + GAP)
    small = pixels.reshape(rows, CELL + GAP, columns, CELL + GAP, 3)[:, 4:CELL:8, :, 4:CELL:8].transpose(0, 2, 1, 3, 4)
    grey = (small == small[..., :1]).all(-1)
    return np.where(grey, np.round(small[..., 0] * 16 / 255), -1)


# --- sample


@each
def test_samples_are_images_in_grey_levels_and_a_picture(name):
    images = drawn(name, "--num", 5)
    assert (images.shape, images.dtype) == ((5, 8, 8), np.uint8)
    assert images.max() <= 16
    assert len(np.unique(images, axis=0)) == 5
    ok("sample", trained(name), "--num", 5, "--out", "x.png")
    shown = cells("x.png", 3).reshape(6, 8, 8)[:5]
    np.testing.assert_array_equal(shown, images)  # the same seed, the same images


def test_the_seed_decides():
    same, again, other = (drawn("gated-pixelcnn", "--num", 3, "--seed", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


def test_samples_under_a_label_are_those_of_its_distribution():
    images = drawn("pixelcnn-label", "--num", 6, "--label", 7, "--seed", 3)
    density = package.load(trained("pixelcnn-label")).distribution(7)
    pyro.set_rng_seed(3)
    np.testing.assert_array_equal(images, density.sample((6,))[:, 0].numpy())
    assert (images != drawn("pixelcnn-label", "--num", 6, "--label", 2, "--seed", 3)).any()
    assert (images != drawn("pixelcnn-label", "--num", 6, "--seed", 3)).any()


@each
def test_at_a_low_temperature_each_pixel_is_the_likeliest(name):
    density = package.load(trained(name)).distribution(*([3] if name == "pixelcnn-label" else []))
    for temperature, likeliest in ((1e-5, True), (1, False)):
        label = ("--label", 3) if name == "pixelcnn-label" else ()
        x = torch.from_numpy(drawn(name, "--num", 4, "--temperature", temperature, *label))[:, None]
        logits = density.numbers(x.float(), density.flat_context(x.shape[:1]))
        behind = logits.amax(1) - logits.gather(1, x.long()[:, None])[:, 0]
        assert (behind.max() < 1e-3) == likeliest


@pytest.mark.parametrize("name", ["row-lstm", "pixelcnn-label"])
def test_a_film_shows_the_pixels_as_they_come(name):
    images = drawn(name, "--num", 5, "--animate", "x.gif")
    with Image.open("x.gif") as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 64, 0)
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    tensor = torch.from_numpy(images)[:, None].float()
    for done in (1, 20, 64):  # exact: 17 levels and the blue of what is still to come
        np.testing.assert_array_equal(frames[done - 1], np.asarray(plots.frame(tensor, done, 17)))
    assert (frames[0] != frames[-1]).any()
    np.testing.assert_array_equal(images, drawn(name, "--num", 5))  # being watched changes nothing


# --- complete

MASKS = {
    "top": np.arange(8)[:, None] < 4 + np.zeros(8),
    "left": np.arange(8) < 4 + np.zeros((8, 1)),
    "mask.png": np.eye(8) + np.eye(8)[::-1] > 0,
    "mask.npy": np.arange(64).reshape(8, 8) % 3 == 0,
}


def write_mask(keep):
    if keep == "mask.png":
        Image.fromarray(MASKS[keep].astype(np.uint8) * 200).save(keep)
    elif keep == "mask.npy":
        np.save(keep, MASKS[keep] * -0.5)


@pytest.mark.parametrize("keep", MASKS)
@pytest.mark.parametrize("name", ["pixelcnn-label", "diagonal-bilstm"])
def test_completions_stand_beside_the_original_and_keep_what_is_known(name, keep):
    write_mask(keep)
    result = ok("complete", trained(name), "--num", 3, "--keep", keep, "--draws", 4, "--out", "c.png")
    assert result.stdout == ""
    assert "conditioned on earlier ones only" in result.stderr
    images = load_data("digits").test.images[[0, 180, 359], 0].int().numpy()  # evenly spread: files may be sorted
    shown, known = cells("c.png", 6), MASKS[keep]
    np.testing.assert_array_equal(shown[:, 0], images)
    np.testing.assert_array_equal(shown[:, 1], np.where(known, images, -1))
    completions = shown[:, 2:]
    assert (completions == images[:, None])[..., known].all()
    assert (completions != images[:, None]).any((1, 2, 3)).all()
    assert all(len(np.unique(row, axis=0)) == 4 for row in completions)
    assert np.array_equal(known_pixels(keep, (1, 8, 8)), known)


def test_completions_take_their_seed_split_and_label():
    def completed(*args):
        ok("complete", trained("pixelcnn-label"), "--num", 2, "--draws", 2, "--out", "c.png", *args)
        return cells("c.png", 4)

    usual = completed()
    np.testing.assert_array_equal(usual, completed())
    assert (usual[:, 2:] != completed("--seed", 1)[:, 2:]).any()
    assert (usual[:, 2:] != completed("--label", 3)[:, 2:]).any()
    valid = load_data("digits").valid.images[[0, -1], 0].numpy()
    np.testing.assert_array_equal(completed("--split", "valid")[:, 0], valid)


def test_each_image_is_completed_under_its_own_label():
    """The images' own labels, one for each of several draws; any other order gives other pixels."""
    opened = open_run(trained("pixelcnn-label"), None, "cpu", 0)
    test = load_data("digits").test
    images, mask = test.images[:5].float().repeat(2, 1, 1, 1), torch.zeros(8, 8, dtype=torch.bool)
    labels = test.labels[:5].repeat(2)
    came = draw_pixels(opened, 10, label=labels, given=images, mask=mask, quiet=True)
    pyro.set_rng_seed(0)
    np.testing.assert_array_equal(came, opened.model.distribution(labels).sample())
    pyro.set_rng_seed(0)
    assert (came != opened.model.distribution(labels.flip(0)).sample()).any()


@each
def test_a_loaded_runs_distribution_samples_and_completes(name):
    model = package.load(trained(name))
    density = model.distribution(*([4] if name == "pixelcnn-label" else []))
    given = load_data("digits").test.images[0]
    mask = torch.from_numpy(MASKS["left"])
    images = []
    for cached in (True, False):
        pyro.set_rng_seed(0)
        images.append(density.sample((2,), given=given, mask=mask, cached=cached))
    assert torch.equal(*images)
    assert images[0].shape == (2, 1, 8, 8)
    assert (images[0] == given)[..., mask].all()
    assert torch.isfinite(density.log_prob(images[0])).all()


# --- numbers


@each
def test_the_log_likelihood_is_exact_and_in_bits_per_dimension_too(name):
    found = ok("evaluate", trained(name), "--num", 10, "--json").json
    (estimate,) = found["estimates"].values()
    assert (estimate["kind"], estimate["particles"], estimate["unit"]) == ("exact", 0, "nats per image")
    assert found["bits_per_dim"] == pytest.approx(-estimate["value"] / (64 * math.log(2)))
    x = load_data("digits").test.images[:10].float()
    by_hand = package.load(trained(name)).distribution().log_prob(x).mean().item()
    assert estimate["value"] == pytest.approx(by_hand, rel=1e-5)
    text = ok("evaluate", trained(name), "--num", 3).stdout
    assert "exact" in text
    assert "lower bound" not in text


@each
def test_the_elbo_of_an_exact_model_is_exact_and_says_so(name):
    found = ok("elbo", trained(name), "--num", 5, "--json").json
    value = ok("evaluate", trained(name), "--num", 5, "--json").json["estimates"]["log_prob"]["value"]
    assert (found["kind"], found["particles"]) == ("exact", 0)
    assert found["elbo"]["value"] == pytest.approx(value, rel=1e-5)
    sums = "log Σ_y p(y) Π_i p(x_i | x_<i, y)" if name == "pixelcnn-label" else "Σ_i log p(x_i | x_<i)"
    assert found["equation"][-1] == f"log p(x) = {sums}"
    text = ok("elbo", trained(name), "--num", 5).stdout
    assert "exact" in text
    assert "lower bound" not in text


# --- info


@each
def test_info_draws_the_receptive_field(name):
    result = ok("info", trained(name), "--field", "f.png", "--json")
    picture("f.png")
    field = result.json["receptive_field"]
    assert (field["row"], field["column"], field["earlier"]) == (7, 4, 60)
    assert field["seen"] == sum(cell not in "·◎ " for line in field["map"] for cell in line) > 10
    text = ok("info", trained(name)).stdout
    assert f"{field['seen']} of 60" in text
    assert all(line in text for line in field["map"])


def test_info_of_a_vae_has_no_field():
    assert ok("info", trained("vae"), "--json").json["receptive_field"] is None


# --- a VAE with a PixelCNN in it


def test_a_vae_with_a_pixelcnn_samples_and_reconstructs():
    images = drawn("vae-pixelcnn", "--num", 4)
    assert images.shape == (4, 8, 8)
    means = drawn("vae-pixelcnn", "--num", 4, "--mean")
    assert (means != means.round()).any()
    for command in (("sample", "--mean"), ("reconstruct",)):
        files = []
        for file in ("a.png", "b.png"):
            ok(command[0], trained("vae-pixelcnn"), *command[1:], "--num", 4, "--out", file)
            files.append(picture(file))
        np.testing.assert_array_equal(*files)  # averages of draws, but of the same ones
    assert ok("elbo", trained("vae-pixelcnn"), "--num", 3, "--json").json["kind"] == "lower bound"


# --- refused, with nothing left behind


def strange_files():
    np.save("other.npy", np.ones((4, 4)))
    np.save("row.npy", np.ones(8))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("words.npy", np.full((8, 8), "a"))
    np.savez("archive.npz", mask=np.ones((8, 8)))
    for source, copy, length in (("archive.npz", "archive.npy", None), ("other.npy", "short.npy", 140)):
        with open(source, "rb") as file, open(copy, "wb") as other:
            other.write(file.read()[:length])
    Image.new("L", (8, 4), 255).save("other.png")
    for name in ("text.png", "text.npy"):
        with open(name, "w") as file:
            file.write("not a mask")
    with open("other.png", "rb") as file, open("short.png", "wb") as other:
        other.write(file.read()[:50])
    np.savez("unlabelled.npz", images=np.random.RandomState(0).randint(0, 2, (30, 4, 5)), levels=2)


def left_alone(*args, says):
    """Refused, and the directory as it was."""
    strange_files()
    before = content(Path.cwd())
    refused(*args, says=says)
    assert content(Path.cwd()) == before


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("pixelcnn", ("--label", 7), ("a label came", "condition=label")),
        ("pixelcnn-label", ("--label", 99), ("label 99 came", "0 to 9")),
        ("pixelcnn-label", ("--label", -1), ("label -1 came", "0 to 9")),
        ("pixelcnn-label", ("--label", "seven"), ("--label", "integer")),
        ("vae", ("--label", 7), ("--label is for models", "pixelcnn", "vae")),
        ("gaussian", ("--animate", "x.gif"), ("--animate is for models", "gaussian")),
        ("pixelcnn", ("--animate", "x.png"), ("x.png", ".gif")),
        ("pixelcnn", ("--animate", "missing/x.gif"), ("no directory", "missing")),
        ("pixelcnn", ("--animate", "x.gif", "--num", 401), ("--num 401", "1 to 400")),
        ("pixelcnn", ("--num", 0), ("--num 0", "1 to")),
        ("pixelcnn", ("--temperature", 0), ("--temperature 0", "above 0")),
        ("pixelcnn", ("--temperature", "nan"), ("--temperature nan", "above 0")),
        ("pixelcnn", ("--mean",), "no latent site"),
        ("pixelcnn", ("--mean", "--animate", "x.gif"), "no latent site"),
        ("pixelcnn", ("--prompt", "a"), ("--prompt came", "images")),
    ],
)
def test_sample_refuses(name, args, says):
    left_alone("sample", trained(name), "--out", "out.png", *args, says=says)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("vae", (), ("complete is for models", "vae")),
        ("gaussian", (), ("complete is for models", "gaussian")),
        ("ring-vae", (), ("complete is for models", "vae")),
        ("pixelcnn", ("--num", 0), ("--num 0", "1 to 1,000")),
        ("pixelcnn", ("--num", 1001), ("--num 1001", "1 to 1,000")),
        ("pixelcnn", ("--draws", 0), ("--draws 0", "1 to 100")),
        ("pixelcnn", ("--draws", 101), ("--draws 101", "1 to 100")),
        ("pixelcnn", ("--split", "foo"), ("'foo'", "train, valid or test")),
        ("pixelcnn", ("--label", 3), ("a label came", "condition=label")),
        ("pixelcnn-label", ("--label", 99), ("label 99 came", "0 to 9")),
        ("pixelcnn", ("--keep", "bottom"), ("--keep bottom", "top, left or a file")),
        ("pixelcnn", ("--keep", ""), ("--keep", "top, left or a file")),
        ("pixelcnn", ("--keep", "missing.png"), ("--keep missing.png", "top, left or a file")),
        ("pixelcnn", ("--keep", "."), ("--keep .", "top, left or a file")),
        ("pixelcnn", ("--keep", "other.png"), ("other.png is a mask of (4, 8) pixels", "(8, 8)")),
        ("pixelcnn", ("--keep", "other.npy"), ("other.npy is a mask of (4, 4) pixels", "(8, 8)")),
        ("pixelcnn", ("--keep", "row.npy"), ("row.npy", "shape (8,)", "h w")),
        ("pixelcnn", ("--keep", "words.npy"), ("words.npy", "<U1", "numbers h w")),
        ("pixelcnn", ("--keep", "objects.npy"), ("objects.npy cannot be read as a mask", "pickle")),
        ("pixelcnn", ("--keep", "archive.npy"), "archive.npy cannot be read as a mask"),
        ("pixelcnn", ("--keep", "archive.npz"), ("archive.npz cannot be read as a mask", ".png or .npy")),
        ("pixelcnn", ("--keep", "text.png"), ("text.png cannot be read as a mask", ".png or .npy")),
        ("pixelcnn", ("--keep", "text.npy"), ("text.npy cannot be read as a mask", ".png or .npy")),
        ("pixelcnn", ("--keep", "short.png"), "short.png cannot be read as a mask"),
        ("pixelcnn", ("--keep", "short.npy"), "short.npy cannot be read as a mask"),
    ],
)
def test_complete_refuses(name, args, says):
    left_alone("complete", trained(name), "--out", "out.png", *args, says=says)


@pytest.mark.parametrize("out", ["out.npz", "out", "missing/out.png"])
def test_completions_are_pictures(out):
    left_alone("complete", trained("pixelcnn"), "--out", out, says=out.split("/")[0])


@pytest.mark.parametrize(
    ("model", "args", "says"),
    [
        ("pixelcnn", ("--set", "kernel=4"), ("kernel='4'", "odd")),
        ("gated-pixelcnn", ("--set", "first_kernel=4"), ("first_kernel='4'", "odd")),
        ("row-lstm", ("--set", "first_kernel=1"), ("first_kernel='1'", "greater than or equal to 3")),
        ("row-lstm", ("--set", "kernel=0"), ("kernel='0'", "greater than or equal to 1")),
        ("raster-lstm", ("--set", "layers=0"), ("layers='0'", "greater than or equal to 1")),
        ("raster-lstm", ("--set", "blocks=2"), ("unknown option 'blocks'", "layers")),
        ("pixelcnn", ("--set", "student_forcing=0.5"), ("unknown option 'student_forcing'", "blocks")),
        ("row-lstm", ("--set", "student_forcing=1.5"), ("student_forcing", "less than or equal to 1")),
        ("row-lstm", ("--set", "forcing_warmup=-1"), ("forcing_warmup", "greater than or equal to 0")),
        ("pixelcnn", ("--set", "conditional=bernoulli"), ("bernoulli", "17 levels", "binarize the data")),
        ("pixelcnn", ("--set", "conditional=normal"), ("conditional='normal'", "bernoulli|categorical")),
        ("pixelcnn", ("--set", "condition=class"), ("condition='class'", "none|label")),
        ("pixelcnn", ("--set", "condition=label", "--set", "blocks=0"), ("condition=label", "blocks=0")),
        ("pixelcnn", ("--data", "ring:300"), ("(2,)", "images c h w")),
        ("pixelcnn", ("--data", "sea-log"), "no model of text"),
        ("pixelcnn", ("--data", "unlabelled.npz", "--set", "condition=label"), ("condition=label", "no labels")),
        ("raster-lstm", ("--data", "unlabelled.npz", "--set", "condition=label"), ("condition=label", "no labels")),
        ("vae", ("--data", "ring:300", "--set", "likelihood=pixelcnn"), ("likelihood=pixelcnn", "(2,)")),
        ("vae", ("--set", "likelihood=pixelcnn", "--set", "pixelcnn_blocks=0"), ("pixelcnn_blocks", "greater")),
    ],
)
def test_train_refuses(model, args, says):
    left_alone("train", model, "--data", "digits", "--steps", 2, "--out", "run", *args, says=says)


def test_info_refuses_a_field_that_is_none_before_it_draws_anything():
    left_alone("info", trained("vae"), "--field", "f.png", "--graph", "g.gv", says=("--field is for models", "vae"))
    left_alone("info", trained("pixelcnn"), "--field", "f.gif", says=("f.gif", ".png"))


@pytest.mark.parametrize("command", [("reconstruct", "--out", "r.png"), ("traverse", "--out", "t.png"), ("gradients",)])
def test_commands_for_latent_codes_refuse(command):
    left_alone(command[0], trained("pixelcnn"), *command[1:], says="probgen: ")


def test_labels_that_are_gone_are_missed():
    """The file of a class-conditional run was replaced by one without labels: only a chosen label is left."""
    images = np.random.RandomState(0).randint(0, 2, (30, 4, 5))
    np.savez("mine.npz", images=images, levels=2, labels=np.arange(30) % 3)
    args = pixel_run("gated-pixelcnn")[3:]
    ok("train", "gated-pixelcnn", "--data", "mine.npz", *args, "--set", "condition=label", "--out", "run", "--quiet")
    ok("complete", "run", "--num", 2, "--out", "c.png")
    np.savez("mine.npz", images=images, levels=2)
    refused("complete", "run", "--num", 2, "--out", "d.png", says=("has no labels any more", "--label"))
    ok("complete", "run", "--num", 2, "--label", 1, "--out", "d.png")
