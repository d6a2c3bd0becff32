"""`probgen diagnose`: what it prints and writes, and what it refuses."""

import functools
import json
import math
from pathlib import Path

import pytest
from helpers import SHARED, content, ok, picture, refused, trained

from probgen.tables import print_diagnosis

SHORT = ("--chains", 2, "--samples", 10, "--warmup", 10, "--particles", 50)
FIGURES = ("marginals.png", "pairs.png", "trace.png")
MARGINAL = {
    "name", "posterior_mean", "posterior_sd", "guide_mean", "guide_sd", "r_hat", "ess", "ess_bulk", "ess_tail",
    "shift", "spread", "mismatch",
}  # fmt: skip


@functools.cache
def diagnosed(name: str) -> tuple[Path, dict]:
    """A short diagnosis of a small run, made once; to be read only."""
    out = SHARED / f"diagnosis-{name}"
    return out, ok("diagnose", trained(name), "--out", out, "--json", *SHORT).json


@pytest.mark.parametrize("name", ["vae", "ppca"])
def test_numbers_and_figures_are_written(name):
    out, found = diagnosed(name)
    assert set(found["files"]) == {path.name for path in out.iterdir()}
    assert {*FIGURES, "diagnosis.json"} <= set(found["files"]) <= {*FIGURES, "diagnosis.json", "posterior.nc"}
    for figure in FIGURES:
        assert min(picture(out / figure).shape[:2]) > 200
    written = json.loads((out / "diagnosis.json").read_text())
    assert written == {key: value for key, value in found.items() if key != "files"}


@pytest.mark.parametrize("name", ["vae", "ppca"])
def test_the_result_says_what_each_number_is(name):
    _, found = diagnosed(name)
    assert (found["split"], found["index"], found["chains"], found["samples"]) == ("test", 0, 2, 10)
    assert found["elbo"]["kind"] == "lower bound"
    kinds = ("exact", "estimate") if name == "ppca" else ("lower bound", "lower bound")
    assert (found["evidence"]["kind"], found["kl"]["kind"]) == kinds
    assert found["kl"]["value"] == pytest.approx(found["evidence"]["value"] - found["elbo"]["value"])
    assert [m["name"] for m in found["marginals"]] == ["z[0]", "z[1]", "z[2]"]
    assert all(m.keys() == MARGINAL and math.isfinite(m["mismatch"]) for m in found["marginals"])
    assert not found["converged"]  # of 20 draws nobody could say
    assert any("more samples" in warning for warning in found["warnings"])


def test_the_exact_posterior_of_ppca_is_recognized():
    _, found = diagnosed("ppca")
    assert abs(found["kl"]["value"]) < 0.01
    assert found["trusted"]


def test_words_for_people(tmp_path):
    text = ok("diagnose", trained("vae"), "--out", tmp_path / "vae", *SHORT)
    assert text.stderr == f"wrote {tmp_path / 'vae'}\n"
    for words in (
        "vae on digits, test image 0", "2 × 10 draws of NUTS", "lower bound, IWAE, 50 particles",
        "nats lost or more", "see the warnings", "the guide is", "z[2]", "warning:",
    ):  # fmt: skip
        assert words in text.stdout
    text = ok("diagnose", trained("ppca"), "--out", tmp_path / "ppca", *SHORT).stdout
    assert "the guide is the posterior" in text
    assert "lower bound" not in text.split("ELBO")[0]
    assert "nats lost or more" not in text


def test_what_is_not_known_is_said_in_words(capsys):
    unknown = {"mismatch": None, "shift": None, "spread": None, "r_hat": None}
    marginals = [diagnosed("vae")[1]["marginals"][0] | unknown | {"name": "z[red]"}]
    record = diagnosed("vae")[1] | {"r_hat": None, "pareto_k": None, "trusted": False, "marginals": marginals}
    print_diagnosis(record)
    text = capsys.readouterr().out
    for words in ("R̂ up to unknown", "one weight outweighs all", "z[red]", "–", "NUTS stood still"):
        assert words in text


def test_same_seed_same_files_and_a_former_diagnosis_is_replaced(tmp_path):
    args = ("diagnose", trained("vae-2"), "--index", 3, "--split", "valid", *SHORT)
    first, again, other = (ok(*args, "--out", tmp_path / "a", "--seed", seed, "--json").json for seed in (5, 5, 6))
    assert first == again
    assert (first["split"], first["index"]) == ("valid", 3)
    assert other["marginals"] != first["marginals"]
    assert json.loads((tmp_path / "a" / "diagnosis.json").read_text())["marginals"] == other["marginals"]


def test_chains_may_start_at_the_prior(tmp_path):
    args = ("diagnose", trained("vae-2"), "--out", tmp_path / "a", "--json", *SHORT)
    guide, prior = (ok(*args, "--start", start).json for start in ("guide", "prior"))
    assert guide["elbo"] == prior["elbo"]
    assert guide["marginals"] != prior["marginals"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--index", 360), ("--index 360", "0 to 359")),
        (("--index", -1), ("--index -1", "0 to 359")),
        (("--split", "all"), ("'all'", "train, valid or test")),
        (("--chains", 0), ("--chains 0", "1 to 100")),
        (("--samples", 3), ("--samples 3", "4 to 1,000,000")),
        (("--warmup", -1), ("--warmup -1", "0 to")),
        (("--particles", 24), ("--particles 24", "25 to")),
        (("--start", "map"), ("--start map", "guide or prior")),
        (("--seed", -1), "--seed"),
        (("--device", "meta"), "auto, cpu or cuda"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_left(args, says, tmp_path):
    refused("diagnose", trained("vae"), "--out", tmp_path / "new", *args, says=says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "says"), [("gaussian", "no latent site"), ("autoencoder", "no posterior")])
def test_a_model_without_a_posterior_is_refused(name, says, tmp_path):
    refused("diagnose", trained(name), "--out", tmp_path / "new", *SHORT, says=says)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    refused("diagnose", trained("vae"), "--out", file, *SHORT, says=("file", "expected a directory"))
    refused("diagnose", trained("vae"), "--out", tmp_path, *SHORT, says="holds no diagnosis")
    refused("diagnose", trained("vae"), "--out", trained("vae"), *SHORT, says="holds no diagnosis")
    refused("diagnose", trained("vae"), "--out", file / "below", *SHORT, says="file")
    refused("diagnose", trained("vae"), *SHORT, says="--out")
    assert content(tmp_path) == {"file": b"mine"}


DISCRETE = """\
import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Switch(nn.Module):
    def __init__(self, image_shape, levels):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2, *image_shape))
        self.choice = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Bernoulli(logits=self.logits[z.long()]).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.choice.expand(len(x))))
"""


def test_a_discrete_latent_of_the_users_own_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("switch.py").write_text(DISCRETE)
    train = ("--data", "digits", "--binarize", "static", "--steps", 2, "--batch-size", 16, "--out", "run", "--quiet")
    ok("train", "switch.py:Switch", *train)
    refused("diagnose", "run", "--model", "switch.py:Switch", "--out", "new", *SHORT, says="'z' is discrete")
    assert not Path("new").exists()
