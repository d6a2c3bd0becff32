"""`probgen sample`, `reconstruct` and `traverse`: the pictures that people ask for."""

import numpy as np
import pytest
from helpers import ok, picture, probgen, refused, trained

LATENT = ["ppca", "vae", "vae-conv", "vae-dynamic", "vae-static", "vae-threshold", "colour"]
WITH_CODE = ["autoencoder", *LATENT]
DENSITY = ["gaussian", "ring-gaussian", "ring-vae", *LATENT]


# --- sample


@pytest.mark.parametrize("name", DENSITY)
@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_same_seed_same_file(name, suffix, tmp_path):
    files = [tmp_path / f"{i}.{suffix}" for i in range(3)]
    for file, seed in zip(files, (7, 7, 8), strict=True):
        result = ok("sample", trained(name), "--num", 5, "--seed", seed, "--out", file)
        assert result.stdout == ""
        assert result.stderr == f"wrote {file}\n"
    first, again, other = (file.read_bytes() for file in files)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [
        ("gaussian", (8, 8), 17), ("vae", (8, 8), 17), ("vae-dynamic", (8, 8), 2), ("colour", (6, 9, 3), 256),
        ("ppca", (8, 8), 17),
    ],
)  # fmt: skip
def test_samples_as_arrays(name, shape, levels, tmp_path):
    ok("sample", trained(name), "--num", 7, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        images = arrays["images"]
        assert arrays["levels"] == levels
    assert (images.dtype, images.shape) == (np.uint8, (7, *shape))
    assert images.min() < images.max() <= levels - 1


def test_samples_of_points_are_reals(tmp_path):
    ok("sample", trained("ring-gaussian"), "--num", 7, "--out", tmp_path / "x.npz")
    images = np.load(tmp_path / "x.npz")["images"]
    assert (images.dtype, images.shape) == (np.float32, (7, 2))


def test_more_samples_than_one_chunk(tmp_path, monkeypatch):
    import probgen.commands.sample

    monkeypatch.setattr(probgen.commands.sample, "CHUNK", 3)
    ok("sample", trained("vae"), "--num", 8, "--out", tmp_path / "x.npz")
    assert len(np.load(tmp_path / "x.npz")["images"]) == 8


def test_samples_as_a_picture(tmp_path):
    ok("sample", trained("vae"), "--num", 9, "--out", tmp_path / "x.png")
    assert picture(tmp_path / "x.png").shape == (3 * 68 + 4, 3 * 68 + 4, 3)
    ok("sample", trained("colour"), "--num", 9, "--out", tmp_path / "x.png")
    assert picture(tmp_path / "x.png").shape == (3 * (6 * 8 + 4) + 4, 3 * (9 * 8 + 4) + 4, 3)
    ok("sample", trained("ring-vae"), "--num", 50, "--out", tmp_path / "x.png")
    assert min(picture(tmp_path / "x.png").shape[:2]) > 200


def test_a_low_temperature_brings_samples_together(tmp_path):
    spread = {}
    for temperature in (0.01, 1):
        ok("sample", trained("gaussian"), "--temperature", temperature, "--num", 50, "--out", tmp_path / "x.npz")
        spread[temperature] = np.load(tmp_path / "x.npz")["images"].std(0).mean()
    assert spread[0.01] < 0.3 * spread[1]


@pytest.mark.parametrize("name", ["vae", "vae-conv", "colour"])
def test_the_mean_of_x_is_smoother_than_a_draw(name, tmp_path):
    """About each pixel's mean, which both share: Var(x) = Var(E[x | z]) + E[Var(x | z)], and codes say little yet."""
    ok("sample", trained(name), "--num", 50, "--out", tmp_path / "draw.npz")
    ok("sample", trained(name), "--num", 50, "--mean", "--out", tmp_path / "mean.npz")
    draw, mean = (np.load(tmp_path / f"{name}.npz")["images"].astype(float) for name in ("draw", "mean"))
    assert 0 < mean.var(0).mean() < 0.4**2 * draw.var(0).mean()


def test_an_autoencoder_has_nothing_to_sample_from(tmp_path):
    refused("sample", trained("autoencoder"), "--out", tmp_path / "x.png", says=("nothing to sample from", "no prior"))
    assert not (tmp_path / "x.png").exists()


# --- reconstruct, traverse


@pytest.mark.parametrize("name", WITH_CODE)
def test_reconstructions_are_pairs(name, tmp_path):
    result = ok("reconstruct", trained(name), "--num", 3, "--out", tmp_path / "x.png")
    assert (result.stdout, result.stderr) == ("", f"wrote {tmp_path / 'x.png'}\n")
    height, width = (6 * 8, 9 * 8) if name == "colour" else (64, 64)
    assert picture(tmp_path / "x.png").shape == (2 * (height + 8), 3 * (width + 4) + 4, 3)


def test_reconstructions_stand_under_their_images(tmp_path):
    from probgen.data import load_data
    from probgen.plots import to_display

    ok("reconstruct", trained("ppca"), "--num", 3, "--split", "valid", "--out", tmp_path / "x.png")
    pixels = picture(tmp_path / "x.png")
    first = to_display(load_data("digits").valid.images[:3], 17)
    for column in range(3):
        np.testing.assert_array_equal(pixels[4:68, 4 + 68 * column : 68 + 68 * column], first[column])
    below = pixels[76:140, 4:68].astype(float)
    assert not np.array_equal(below, first[0])
    assert np.corrcoef(below.ravel(), first[0].astype(float).ravel())[0, 1] > 0.5  # three components of a digit


@pytest.mark.parametrize("name", ["ppca", "vae", "vae-conv", "vae-dynamic", "colour"])
def test_a_traversal_has_a_row_for_each_dimension(name, tmp_path):
    ok("traverse", trained(name), "--out", tmp_path / "all.png")
    ok("traverse", trained(name), "--num", 1, "--out", tmp_path / "one.png")
    three, one = picture(tmp_path / "all.png"), picture(tmp_path / "one.png")
    assert three.shape[0] > 1.8 * one.shape[0]
    assert min(one.shape[:2]) > 50


@pytest.mark.parametrize("name", ["vae-2", "ppca-2"])
def test_two_latent_dimensions_give_the_plane(name, tmp_path):
    ok("traverse", trained(name), "--out", tmp_path / "x.png")
    assert picture(tmp_path / "x.png").shape == (16 * 68 + 4, 16 * 68 + 4, 3)


@pytest.mark.parametrize("name", ["vae", "ppca-2", "vae-dynamic"])
def test_from_one_image_to_another(name, tmp_path):
    from probgen.data import load_data
    from probgen.plots import to_display

    ok("traverse", trained(name), "--between", 0, 5, "--out", tmp_path / "x.png")
    pixels = picture(tmp_path / "x.png")
    assert pixels.shape == (68 + 4, 12 * 68 + 4, 3)
    binarize = "dynamic" if name == "vae-dynamic" else "none"
    data = load_data("digits", binarize=binarize)
    ends = to_display(data.test.images[[0, 5]], data.levels)
    np.testing.assert_array_equal(pixels[4:68, 4:68], ends[0])
    np.testing.assert_array_equal(pixels[4:68, -68:-4], ends[1])


@pytest.mark.parametrize("args", [(), ("--between", 0, 5)])
def test_an_autoencoder_can_be_traversed_or_says_why_not(args, tmp_path):
    """It has codes and a decoder; a refusal must at least not speak of bounds, which nobody asked for."""
    result = probgen("traverse", trained("autoencoder"), *args, "--out", tmp_path / "x.png")
    if result.code == 0:
        picture(tmp_path / "x.png")
    else:
        assert len(result.stderr.splitlines()) == 1
        assert "bound" not in result.stderr


@pytest.mark.parametrize("command", ["reconstruct", "traverse"])
def test_what_has_no_code_is_not_reconstructed(command, tmp_path):
    out = tmp_path / "x.png"
    refused(command, trained("gaussian"), "--out", out, says="no latent")
    refused(command, trained("ring-vae"), "--out", out, says="points, not images")
    assert not out.exists()
