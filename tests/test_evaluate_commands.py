"""`probgen evaluate` and `probgen elbo`: numbers that say what they are."""

import math

import numpy as np
import pytest
import torch
from helpers import IMAGE_RUNS, RUNS, copy_of, ok, picture, refused, trained
from safetensors.torch import load_file, save_file

LATENT = ["ppca", "vae", "vae-conv", "vae-dynamic", "vae-static", "vae-threshold", "colour"]
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
