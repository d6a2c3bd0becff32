"""`probgen evaluate RUN --method …`: which numbers come, what each says of itself, and what is refused."""

import functools
import math

import pytest
from helpers import ok, refused, trained

import probgen.commands.evaluate as command
from probgen.inference import annealing
from probgen.inference.gaps import inference_gaps

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

SHORT = ("--num", 6, "--particles", 4, "--chains", 2, "--distributions", 5)
WITH_BOTH_ENDS = ["vae", "vae-dynamic", "vae-conv", "ring-vae"]


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch):
    """Of the search for the gaps of inference, and of that for a step size, no more is needed than that they end."""
    monkeypatch.setattr(annealing, "SETTLING", 3)
    monkeypatch.setattr(command, "inference_gaps", functools.partial(inference_gaps, steps=5, num_final=50))


def evaluated(name, *args):
    result = ok("evaluate", trained(name), *SHORT, "--json", *args)
    assert result.stderr == ""
    return result.json


def kinds(found):
    return {name: (e["kind"], e["particles"]) for name, e in found["estimates"].items()}


def gap(found):
    return (found["estimates"] | found.get("gaps", {}))["bdmc_gap"]


LOWER = {"elbo": ("lower bound", 1), "iwae": ("lower bound", 4), "ais": ("lower bound", 2)}


@pytest.mark.parametrize(
    ("method", "expected"),
    [("elbo", ["elbo"]), ("iwae", ["elbo", "iwae"]), ("ais", ["elbo", "iwae", "ais"]), (None, ["elbo", "iwae"])],
)
@pytest.mark.parametrize("name", ["vae", "ring-vae"])
def test_each_method_gives_its_bounds_and_the_cheaper_ones(name, method, expected):
    found = evaluated(name, *(("--method", method) if method else ()))
    particles = {"elbo": 4, "ais": 50}.get(method, 1)  # of the ELBO: as many as asked for, or as the gaps take
    assert kinds(found) == {name: LOWER[name] for name in expected} | {"elbo": ("lower bound", particles)}
    assert (found["split"], found["num_images"]) == ("test", 6)
    for estimate in found["estimates"].values():
        assert estimate["unit"] == "nats per image"
        assert math.isfinite(estimate["value"])
        assert estimate["stderr"] > 0


def test_a_model_that_knows_its_evidence_says_so_above_every_bound():
    """Its guide is the posterior: importance sampling has no error, annealing from the prior comes from below."""
    found = evaluated("ppca", "--method", "ais")
    assert kinds(found) == {"log_prob": ("exact", 0), **LOWER, "elbo": ("lower bound", 50)}
    values = {name: e["value"] for name, e in found["estimates"].items()}
    assert values["elbo"] == pytest.approx(values["log_prob"], abs=1e-3)
    assert values["iwae"] == pytest.approx(values["log_prob"], abs=1e-3)
    longer = evaluated("ppca", "--method", "ais", "--distributions", 30)["estimates"]["ais"]["value"]
    assert values["ais"] < longer < values["log_prob"] + 0.5


def test_bits_per_dim_are_those_of_the_tightest_number():
    found = evaluated("vae", "--method", "ais")
    tightest = max(e["value"] for e in found["estimates"].values())
    assert found["bits_per_dim"] == pytest.approx(-tightest / (64 * math.log(2)))


@pytest.mark.parametrize("name", WITH_BOTH_ENDS)
def test_both_ends_on_images_of_the_models_own(name):
    found = evaluated(name, "--method", "bdmc")
    assert (found["split"], found["num_images"]) == ("simulated", 6)
    bounds = {key: kind for key, kind in kinds(found).items() if key != "bdmc_gap"}
    assert bounds == {"bdmc_lower": ("lower bound", 2), "bdmc_upper": ("upper bound", 2)}
    lower, upper, between = *(found["estimates"][f"bdmc_{end}"] for end in ("lower", "upper")), gap(found)
    assert between["kind"] == "upper bound"
    assert between["value"] == pytest.approx(upper["value"] - lower["value"], abs=1e-3)
    assert between["value"] > -4.5 * between["stderr"]


def test_a_longer_path_brings_the_ends_together():
    gaps = [gap(evaluated("vae", "--method", "bdmc", "--num", 60, "--distributions", n)) for n in (2, 20)]
    error = math.hypot(*(g["stderr"] for g in gaps))
    assert gaps[1]["value"] < gaps[0]["value"] - 4.5 * error
    assert gaps[1]["value"] > -4.5 * gaps[1]["stderr"]


@pytest.mark.parametrize("method", ["ais", "bdmc"])
def test_same_seed_same_numbers_other_seed_others(method):
    first, again, other = (evaluated("vae", "--method", method, "--seed", seed)["estimates"] for seed in (3, 3, 4))
    assert first == again
    assert all(first[name]["value"] != other[name]["value"] for name in first)


@pytest.mark.parametrize(("method", "name"), [("ais", "AIS"), ("bdmc", "BDMC")])
def test_as_a_table(method, name):
    text = ok("evaluate", trained("vae"), *SHORT, "--method", method).stdout
    assert name in text
    assert "lower bound" in text
    assert ("upper bound" in text) == (method == "bdmc")


def test_annealing_takes_a_hundred_images_unless_told_otherwise():
    few = ("--chains", 1, "--distributions", 2, "--particles", 1, "--json")
    for method in ("ais", "bdmc"):
        assert ok("evaluate", trained("vae"), "--method", method, *few).json["num_images"] == 100


# --- what has no such number


@pytest.mark.parametrize("method", ["elbo", "iwae", "ais"])
@pytest.mark.parametrize("name", ["gaussian", "ring-gaussian"])
def test_without_a_latent_the_exact_number_is_all_there_is(name, method):
    assert kinds(evaluated(name, "--method", method)) == {"log_prob": ("exact", 0)}


@pytest.mark.parametrize("method", ["elbo", "iwae", "ais", "bdmc"])
def test_an_autoencoder_has_none_by_any_method(method):
    found = evaluated("autoencoder", "--method", method)
    assert (found["estimates"], found["bits_per_dim"]) == ({}, None)
    assert "no prior" in found["note"]


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("vae", ("--method", "nonsense"), ("--method nonsense", "elbo, iwae, ais or bdmc")),
        ("vae", ("--method", "ais", "--chains", 0), ("--chains 0", "1 to 10,000")),
        ("vae", ("--method", "bdmc", "--chains", -1), "--chains -1"),
        ("vae", ("--method", "ais", "--chains", 10_001), "--chains 10001"),
        ("vae", ("--method", "ais", "--distributions", 1), ("--distributions 1", "2 to 1,000,000")),
        ("vae", ("--method", "ais", "--num", 0), "--num 0"),
        ("vae", ("--method", "iwae", "--particles", 0), "--particles 0"),
        ("ppca", ("--method", "bdmc"), ("'x'", "DequantizedNormal", "bound")),
        ("gaussian", ("--method", "bdmc"), ("'x'", "DequantizedMultivariateNormal", "bound")),
        ("ring-gaussian", ("--method", "bdmc"), "no latent site"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(name, args, says):
    refused("evaluate", trained(name), "--json", *args, says=says)


def test_more_images_can_be_simulated_than_there_are_data():
    result = ok(
        "evaluate", trained("vae"), "--method", "bdmc", "--num", 370, "--chains", 1, "--distributions", 2, "--json"
    )
    assert result.json["num_images"] == 370
