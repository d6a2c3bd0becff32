"""`probgen info`, `models`, `datasets`, `train` and `demo`: what they print and make."""

import math

import numpy as np
import pytest
from helpers import IMAGE_RUNS, PIXEL_RUNS, RUNS, colour_images, ok, picture, refused, trained

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
    keys = {"model", "run", "each", "steps", "finished", "closed_form", "valid", "compiled", "not_compiled", "seconds"}
    assert found.keys() == keys
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
    best = ok("evaluate", trained("gaussian"), "--split", "train", "--json").json["estimates"]["log_prob"]
    assert best["value"] > svi["value"]


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
        "gan": {"steps": 3, "options": {"hidden": (16,)}},
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
    assert "no likelihood, samples only" in table
    assert (out / "comparison" / "index.html").is_file()
    for name in (
        "samples",
        "reconstructions",
        "traversals",
        "interpolation",
        "curve",
        "elbo_terms",
        "pixels",
        "completions",
        "gan",
    ):
        picture(out / f"{name}.png")
    assert (out / "pixels.gif").read_bytes().startswith(b"GIF8")
    assert [line[:8] for line in (out / "sentences.txt").read_text().splitlines()] == ["The wind"] * 5


def test_the_demo_touches_no_other_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    refused("demo", "--out", tmp_path, says="is no demo")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
