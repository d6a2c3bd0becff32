"""What each command gives for each kind of model: numbers with their kinds, files with their shapes."""

import math

import numpy as np
import pytest
import torch
from helpers import IMAGE_RUNS, PIXEL_RUNS, RUNS, colour_images, copy_of, ok, picture, probgen, refused, trained
from safetensors.torch import load_file, save_file

LATENT = ["ppca", "vae", "vae-conv", "vae-dynamic", "vae-static", "vae-threshold", "colour"]
WITH_CODE = ["autoencoder", *LATENT]
DENSITY = ["gaussian", "ring-gaussian", "ring-vae", *LATENT]
ESTIMATE_KEYS = {"value", "stderr", "kind", "unit", "particles"}


# --- evaluate


def evaluated(name, *args):
    result = ok("evaluate", trained(name), "--particles", 5, "--json", *args)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1
    return result.json


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_evaluate_says_what_was_evaluated(name):
    found = evaluated(name, "--num", 3)
    assert found.keys() - {"note"} == {
        "model", "data", "binarize", "split", "num_images", "estimates", "bits_per_dim",
    }  # fmt: skip
    method = name.removeprefix("vae-")
    assert found["binarize"] == (method if method in ("dynamic", "static", "threshold") else "none")
    assert (found["split"], found["num_images"]) == ("test", 3)
    for estimate in found["estimates"].values():
        assert estimate.keys() == ESTIMATE_KEYS
        assert estimate["unit"] == "nats per image"
        assert math.isfinite(estimate["value"])
        assert estimate["stderr"] > 0


@pytest.mark.parametrize("name", ["gaussian", "ring-gaussian"])
def test_a_tractable_density_has_an_exact_number_only(name):
    estimates = evaluated(name)["estimates"]
    assert estimates.keys() == {"log_prob"}
    assert estimates["log_prob"]["kind"] == "exact"
    assert estimates["log_prob"]["particles"] == 0


def test_ppca_has_the_exact_number_beside_the_bounds():
    estimates = evaluated("ppca")["estimates"]
    assert estimates.keys() == {"log_prob", "elbo", "iwae"}
    assert [estimates[name]["kind"] for name in ("log_prob", "elbo", "iwae")] == ["exact", "lower bound", "lower bound"]
    # Its guide is the exact posterior: both bounds touch.
    assert estimates["elbo"]["value"] == pytest.approx(estimates["log_prob"]["value"], abs=0.01)
    assert estimates["iwae"]["value"] == pytest.approx(estimates["log_prob"]["value"], abs=0.01)


@pytest.mark.parametrize("name", ["vae", "vae-conv", "vae-static", "ring-vae", "colour"])
def test_a_vae_has_two_lower_bounds(name):
    estimates = evaluated(name)["estimates"]
    assert {key: (e["kind"], e["particles"]) for key, e in estimates.items()} == {
        "elbo": ("lower bound", 1), "iwae": ("lower bound", 5),
    }  # fmt: skip


def test_an_autoencoder_has_no_number_and_says_why():
    found = evaluated("autoencoder")
    assert found["estimates"] == {}
    assert found["bits_per_dim"] is None
    assert "no prior" in found["note"]
    text = ok("evaluate", trained("autoencoder")).stdout
    assert "no likelihood" in text
    assert "nats" not in text


def test_bits_per_dim_is_the_tightest_number_in_other_units():
    for name, size in (("gaussian", 64), ("vae", 64), ("colour", 3 * 6 * 9)):
        found = evaluated(name)
        tightest = max(e["value"] for e in found["estimates"].values())
        assert found["bits_per_dim"] == pytest.approx(-tightest / (size * math.log(2)))
    assert evaluated("ring-vae")["bits_per_dim"] is None


@pytest.mark.parametrize(("split", "num"), [("train", 1257), ("valid", 180), ("test", 360)])
def test_evaluate_takes_the_split_asked_for(split, num):
    found = evaluated("gaussian", "--split", split)
    assert (found["split"], found["num_images"]) == (split, num)


def test_a_grey_gaussian_says_that_it_is_a_density():
    assert "dequantized" in evaluated("gaussian")["note"]
    assert "unit" in evaluated("ring-gaussian")["note"]
    assert "note" not in evaluated("vae")


def test_same_seed_same_bound_other_seed_another():
    first, again, other = (evaluated("vae", "--seed", seed)["estimates"] for seed in (3, 3, 4))
    assert first == again
    assert first["iwae"]["value"] != other["iwae"]["value"]


@pytest.fixture
def without_code(tmp_path):
    """The vae with q(z | x) = p(z) and a decoder that does not look at z: every weight is p(x), without noise."""
    run = copy_of("vae", tmp_path)
    weights = load_file(run / "weights.safetensors")
    for name in ("encoder.layers.2.weight", "encoder.layers.2.bias", "decoder.layers.0.weight"):
        weights[name] = torch.zeros_like(weights[name])
    save_file(weights, run / "weights.safetensors")
    return run


@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_images_as_particles(count, without_code):
    """Two plates of one size are two plates: mean and spread are those of the images one by one."""
    alone = [ok("elbo", without_code, "--index", i, "--json").json["elbo"]["value"] for i in range(count)]
    mean, stderr = np.mean(alone), np.std(alone, ddof=1) / math.sqrt(count)
    assert stderr > 1  # the images differ
    for particles in (count, count + 1):
        options = ("--num", count, "--particles", particles, "--json")
        found = ok("evaluate", without_code, *options).json["estimates"]["iwae"]
        terms = ok("elbo", without_code, *options).json
        assert terms["num_images"] == count
        for bound in (found, terms["elbo"]):
            assert (bound["value"], bound["stderr"]) == (pytest.approx(mean, rel=1e-5), pytest.approx(stderr, rel=1e-4))


@pytest.mark.parametrize("particles", [2, 3, 4])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_training_with_several_particles(particles, objective, tmp_path):
    args = ("--set", f"objective={objective}", "--set", f"num_particles={particles}")
    found = ok("train", *RUNS["vae"](), *args, "--out", tmp_path / "run", "--quiet", "--json").json
    assert -200 < found["valid"]["elbo"] < -100


def test_evaluate_as_a_table():
    result = ok("evaluate", trained("vae"), "--particles", 5)
    assert result.stderr == ""
    for text in ("vae on 360 test images of digits", "IWAE", "ELBO", "lower bound", "bits per dimension", "±"):
        assert text in result.stdout


# --- elbo


@pytest.mark.parametrize("name", LATENT)
def test_the_elbo_is_the_sum_of_its_terms(name):
    result = ok("elbo", trained(name), "--num", 20, "--json").json
    assert result.keys() == {
        "model", "data", "split", "num_images", "particles", "unit", "kind", "elbo", "log_likelihood", "kl",
        "active_units", "equation", "formulas",
    }  # fmt: skip
    assert result["kind"] == "lower bound"
    total = result["log_likelihood"]["total"]["value"] - result["kl"]["total"]["value"]
    assert result["elbo"]["value"] == pytest.approx(total, rel=1e-5)
    assert result["log_likelihood"].keys() == {"total", "x"}
    assert result["kl"].keys() == {"total", "z"}
    assert result["kl"]["z"]["method"] == ("sampled" if name == "ppca" else "closed-form")


def test_the_kl_is_told_by_dimension():
    kl = ok("elbo", trained("vae"), "--json").json["kl"]["z"]
    assert len(kl["per_dim"]) == 3
    assert sum(kl["per_dim"]) == pytest.approx(kl["value"], rel=1e-4)


def test_the_elbo_of_one_image_has_the_error_of_its_draws():
    one, many = (ok("elbo", trained("vae"), "--index", 3, "--particles", n, "--json").json for n in (1, 400))
    assert (one["num_images"], one["particles"], one["elbo"]["stderr"]) == (1, 1, None)
    assert 0 < many["elbo"]["stderr"] < 2
    assert abs(many["elbo"]["value"] - one["elbo"]["value"]) < 6 * 20 * many["elbo"]["stderr"]


def test_the_elbo_as_a_picture(tmp_path):
    result = ok("elbo", trained("vae"), "--num", 30, "--out", tmp_path / "terms.png")
    assert f"wrote {tmp_path / 'terms.png'}" in result.stderr
    assert picture(tmp_path / "terms.png").shape[1] > 1000
    refused("elbo", trained("vae"), "--out", tmp_path / "terms.txt", says="ends in .png")


def test_the_elbo_as_an_equation():
    text = ok("elbo", trained("vae")).stdout
    for term in ("log p(x) =", "E_q[log p(x | z)]", "KL(q(z | x) ‖ p(z))", "unknown, ≥ 0", "lower bound"):
        assert term in text
    assert "exact" in ok("elbo", trained("gaussian")).stdout


def test_no_elbo_without_a_density():
    refused("elbo", trained("autoencoder"), says=("no ELBO", "no prior"))


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


# --- info, models, datasets


def test_info_gives_back_what_was_asked_for():
    found = ok("info", trained("vae"), "--json").json
    assert found.keys() >= {"run", "model", "kind", "sites", "parameters", "options", "training", "last"}
    assert (found["model"], found["kind"]) == ("vae", "latent-variable density")
    assert found["sites"] == {"z": "latent", "x": "observed"}
    assert (found["options"]["latent_dim"], found["options"]["hidden"]) == (3, [16])
    assert found["options"]["beta"] == 1.0  # the default, too, is told
    assert (found["training"]["steps"], found["training"]["batch_size"]) == (3, 32)
    assert found["last"]["valid"]["step"] == 3
    assert found["last"]["train"]["elbo"] < 0
    # 64·16 + 16 and 16·6 + 6 in the encoder, 3·16 + 16 and 16·128 + 128 in the decoder
    assert found["parameters"] == 1040 + 102 + 64 + 2176


@pytest.mark.parametrize("name", sorted(RUNS))
def test_info_for_people(name):
    result = ok("info", trained(name))
    assert result.stderr == ""
    assert str(trained(name)) in result.stdout
    assert "sites: " in result.stdout
    assert "valid: step" in result.stdout


def test_models_are_described_by_their_classes():
    rows = ok("models", "--json").json
    rows = rows["models"] if isinstance(rows, dict) else rows
    by_name = {row["name"]: row for row in rows}
    assert by_name.keys() >= {"gaussian", "ppca", "autoencoder", "vae"}
    assert by_name["gaussian"]["kind"] == "tractable density"
    assert by_name["autoencoder"]["kind"] == "no density"
    assert by_name["vae"]["options"]["latent_dim"] == {"type": "int", "default": 16}
    assert by_name["vae"]["options"]["hidden"]["default"] == [256, 256]
    text = ok("models").stdout
    for row in rows:
        assert row["name"] in text
        for option in row["options"]:
            assert f"--set {option}=" in text


def test_each_option_that_models_prints_can_be_given_back(tmp_path):
    """`--set NAME=DEFAULT`, as `probgen models` writes it, is accepted and is the default."""
    from probgen.models.registry import MODELS, check_options, find_class

    lines = ok("models").stdout.splitlines()
    model, given = "", {}
    for line in lines:
        if line.split(" ")[0] in MODELS:
            model = line.split(" ")[0]
        elif line.strip().startswith("--set "):
            name, _, value = line.split()[1].partition("=")
            given.setdefault(model, {})[name] = value
    assert given.keys() >= {"gaussian", "ppca", "autoencoder", "vae"}
    for model, options in given.items():
        defaults = {name: row["default"] for name, row in option_rows(model).items()}
        checked = check_options(find_class(model), options)
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in checked.items()} == defaults


def option_rows(model):
    rows = ok("models", "--json").json
    rows = rows["models"] if isinstance(rows, dict) else rows
    return next(row["options"] for row in rows if row["name"] == model)


def test_datasets_say_what_is_here(tmp_path):
    rows = ok("datasets", "--json", "--data-dir", tmp_path).json
    rows = rows["datasets"] if isinstance(rows, dict) else rows
    by_name = {row["name"]: row for row in rows}
    assert by_name["digits"]["size"] == [1257, 180, 360]
    assert by_name["digits"]["shape"] == [1, 8, 8]
    assert by_name["digits"]["here"] is True
    assert by_name["mnist"]["here"] is False
    text = ok("datasets", "--data-dir", tmp_path).stdout
    assert "1,257/180/360" in text
    assert all(name in text for name in by_name)


@pytest.mark.parametrize("command", ["models", "datasets"])
def test_json_is_one_object(command):
    """`--json`: one JSON object as the last line of stdout, for every command."""
    assert isinstance(ok(command, "--json").json, dict)


# --- train


def test_train_says_on_stderr_what_came_of_it(tmp_path):
    result = ok("train", *RUNS["vae"](), "--out", tmp_path / "run")
    assert result.stdout == ""
    assert "trained vae" in result.stderr
    assert f"probgen evaluate {tmp_path / 'run'}" in result.stderr


def test_train_as_json(tmp_path):
    result = ok("train", *RUNS["vae"](), "--out", tmp_path / "run", "--quiet", "--json")
    assert result.stderr == ""
    found = result.json
    assert found.keys() == {"model", "run", "each", "steps", "finished", "closed_form", "valid", "seconds"}
    assert (found["model"], found["run"]) == ("vae", str(tmp_path / "run"))
    assert (found["steps"], found["finished"], found["closed_form"]) == (3, True, False)
    assert found["valid"].keys() == {"loss", "elbo", "log_likelihood", "kl", "active_units"}
    assert found["valid"]["elbo"] == -found["valid"]["loss"]


@pytest.mark.parametrize("name", ["gaussian", "ppca", "ring-gaussian"])
def test_a_closed_form_takes_no_steps(name, tmp_path):
    found = ok("train", *RUNS[name](), "--out", tmp_path / "run", "--json").json
    assert (found["steps"], found["finished"], found["closed_form"]) == (0, True, True)


def test_the_closed_form_is_the_maximum_of_the_likelihood(tmp_path):
    """Gradient steps from the default start stay below it on the training images."""
    out = tmp_path / "run"
    ok("train", "gaussian", "--data", "digits", "--set", "estimator=svi", "--steps", 30, "--out", out, "--quiet")
    svi = ok("evaluate", out, "--split", "train", "--json").json["estimates"]["log_prob"]
    assert evaluated("gaussian", "--split", "train")["estimates"]["log_prob"]["value"] > svi["value"]


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_a_run_draws_pictures_of_itself(name):
    found = {file.name for file in (trained(name) / "pictures").glob("*.png")}
    expected = {"samples.png", "reconstructions.png", "curve.png"}
    if "autoencoder" in name:
        expected -= {"samples.png"}
    if "gaussian" in name or "ring" in name or name.removesuffix("-label") in PIXEL_RUNS:
        expected -= {"reconstructions.png"}
    if name in ("gaussian", "ppca", "ppca-2", "ring-gaussian"):  # closed form: no curve
        expected -= {"curve.png"}
    assert found == expected
    for file in found:
        pixels = picture(trained(name) / "pictures" / file)
        assert 60 < min(pixels.shape[:2]) <= max(pixels.shape[:2]) < 4000


def test_epochs_count_the_training_images(tmp_path):
    out = tmp_path / "run"
    found = ok("train", "vae", "--set", "hidden=16", "--batch-size", 128, "--epochs", 0.5, "--out", out, "--json").json
    assert found["steps"] == math.ceil(0.5 * 1257 / 128)


def test_the_default_run_directory_is_named_after_model_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = ok("train", "gaussian", "--data", "digits", "--json").json
    assert found["run"] == "runs/gaussian-digits"
    assert (tmp_path / "runs" / "gaussian-digits" / "weights.safetensors").is_file()


def test_settings_from_a_file_and_flags_win(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('model = "vae"\ndata = "digits"\nsteps = 2\nlr = 0.5\n[options]\nlatent_dim = 2\nhidden = [16]\n')
    out = tmp_path / "run"
    ok("train", "--config", file, "--lr", 0.25, "--set", "latent_dim=3", "--out", out, "--quiet")
    found = ok("info", out, "--json").json
    assert (found["training"]["lr"], found["training"]["steps"]) == (0.25, 2)
    assert (found["options"]["latent_dim"], found["options"]["hidden"]) == (3, [16])


def test_a_runs_own_configuration_makes_the_same_weights(tmp_path):
    ok("train", "--config", trained("vae") / "config.json", "--out", tmp_path / "run", "--quiet")
    weights = [(run / "weights.safetensors").read_bytes() for run in (trained("vae"), tmp_path / "run")]
    assert weights[0] == weights[1]


def test_data_are_found_from_another_directory(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", images=np.load(colour_images())["images"])
    monkeypatch.chdir(tmp_path)
    ok("train", "gaussian", "--data", "x.npz", "--set", "covariance=diagonal", "--out", "run")
    monkeypatch.chdir("/")
    ok("evaluate", tmp_path / "run")
    ok("evaluate", tmp_path / "run", "--json")


# --- demo


def test_the_demo_makes_a_folder(tmp_path, monkeypatch):
    import json

    import probgen.commands.demo as demo

    short = {
        "gaussian": {},
        "vae": {"steps": 3, "options": {"latent_dim": 3, "hidden": (16,)}},
        "pixelcnn": {"steps": 3, "options": {"features": 4, "blocks": 1}},
        "language": {"data": "sea-log:words", "steps": 3, "options": {"features": 8}},
    }
    monkeypatch.setattr(demo, "RUNS", short)
    monkeypatch.setattr(demo, "PARTICLES", 2)
    out = tmp_path / "demo"
    ok("demo", "--out", out)
    result = ok("demo", "--out", out, "--quiet")  # a former demo is replaced
    assert json.loads((out / "results.json").read_text()).keys() == short.keys()
    table = (out / "table.txt").read_text()
    assert table.strip() in result.stdout
    assert "exact" in table
    assert "lower bound" in table
    for name in (
        "samples",
        "reconstructions",
        "traversals",
        "interpolation",
        "curve",
        "elbo_terms",
        "pixels",
        "completions",
    ):
        picture(out / f"{name}.png")
    assert (out / "pixels.gif").read_bytes().startswith(b"GIF8")
    assert [line[:8] for line in (out / "sentences.txt").read_text().splitlines()] == ["The wind"] * 5


def test_the_demo_touches_no_other_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    refused("demo", "--out", tmp_path, says="is no demo")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
