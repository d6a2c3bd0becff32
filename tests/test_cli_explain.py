"""`probgen explain`: the derivations as a stranger reads them, on the small models and on runs."""

import functools

import pytest
import torch
from helpers import ok, refused, trained
from laws import check_equal
from rich.console import Console

from probgen import load, tables_explain
from probgen.data import load_data
from probgen.distributions import FactoredImage
from probgen.explanations import TOPICS, prefixes
from probgen.explanations.small_pair import SmallPair
from probgen.layers import LanguageLSTM

pytestmark = pytest.mark.usefixtures("untyped")  # long: annotations are checked by the shorter tests

each_topic = pytest.mark.parametrize("topic", TOPICS)
ON_RUNS = [
    ("elbo", "vae"),
    ("elbo", "ppca"),
    ("elbo", "ring-vae"),
    ("kl", "vae-dynamic"),
    ("kl", "ppca"),
    ("iwae", "vae"),
    ("iwae", "ppca"),
    ("reparameterization", "ring-vae"),
    ("reparameterization", "ppca"),
    ("maximum-likelihood", "gaussian"),
    ("maximum-likelihood", "ppca"),
    ("maximum-likelihood", "ring-gaussian"),
    ("chain-rule", "pixelcnn"),
    ("chain-rule", "pixelcnn-label"),
    ("chain-rule", "raster-lstm"),
    ("chain-rule", "language"),
]
LOSSES = ("minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic")


@functools.cache
def record(topic):
    """The derivation on the small model."""
    return ok("explain", topic, "--json").json


def lines_of(found):
    return [line for chain in found["chains"] for line in chain["lines"]]


def number(found, formula):
    return next(line["value"] for line in lines_of(found) if line["formula"] == formula)


# --- as a stranger runs it


def test_without_a_topic_it_lists_them():
    text = ok("explain").stdout
    for topic in TOPICS.values():
        assert f"{topic.name}  " in text
        assert topic.summary in text
    assert "--run RUN" in text
    assert [row["topic"] for row in ok("explain", "--json").json["topics"]] == list(TOPICS)


def test_the_help_teaches():
    text = ok("explain", "--help").stdout
    for word in (*TOPICS, "--run", "--index", "--seed", "--json", "standard errors", "float64"):
        assert word in text, word


@each_topic
def test_each_topic_is_printed_line_by_line(topic):
    result = ok("explain", topic)
    assert result.stderr == ""
    text = result.stdout
    assert "NOT HOLD" not in text
    assert "equals signs; largest difference" in text
    assert "difference" in text
    assert "shown on" in text.splitlines()[0] + text.splitlines()[1]
    assert max(map(len, text.splitlines())) <= 200
    printed = " ".join(text.split())
    for line in lines_of(record(topic)):
        for told in (line["formula"], line["reason"], line["by"]):
            assert " ".join(told.split()) in printed, told


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_a_terminal(width, monkeypatch, capsys):
    monkeypatch.setattr(tables_explain, "stdout_console", lambda: Console(highlight=False, width=width))
    for topic in TOPICS:
        tables_explain.print_derivation(record(topic))
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= width, topic
        for line in lines_of(record(topic)):
            assert "".join(line["formula"].split()) in "".join(printed.split())


def test_json_has_every_number_and_whether_it_holds():
    found = record("elbo")
    assert found["holds"] is True
    assert found["run"] is None
    first, second = found["chains"][0]["lines"][:2]
    assert (first["relation"], first["holds"]) == ("", None)
    assert (second["relation"], second["holds"]) == ("=", True)
    assert abs(second["difference"]) < 1e-12
    sampled = [line for line in lines_of(found) if line["stderr"]]
    assert sampled
    assert all(line["standard_errors"] < 5 for line in sampled if line["relation"] == "=")


def test_a_broken_derivation_is_told_plainly(monkeypatch):
    real = SmallPair.log_prior
    monkeypatch.setattr(SmallPair, "log_prior", lambda pair, z: real(pair, z) + 0.25)
    assert "DOES NOT HOLD: difference 2.5e-01" in ok("explain", "elbo").stdout
    found = ok("explain", "elbo", "--json").json
    assert found["holds"] is False
    assert {line["holds"] for line in lines_of(found)} == {None, True, False}


def test_the_same_seed_gives_the_same_numbers():
    first, again, other = (ok("explain", "kl", "--seed", seed).stdout for seed in (3, 3, 4))
    assert first == again
    assert first != other


# --- on runs


@pytest.mark.parametrize(("topic", "run"), ON_RUNS)
def test_derivations_hold_on_runs(topic, run):
    args = () if TOPICS[topic].looks_at == "images" else ("--index", 2)
    found = ok("explain", topic, "--run", trained(run), "--json", *args).json
    assert found["holds"], found["verdict"]
    assert found["run"] == str(trained(run))
    assert any(line["relation"] == "=" and line["holds"] for line in lines_of(found))
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("loss", LOSSES)
def test_games_hold_whatever_the_loss(loss, tmp_path):
    ok("train", "gan", "--data", "ring:300", "--steps", 3, "--batch-size", 16, "--set", "hidden=8", "--set",
       f"loss={loss}", "--out", tmp_path / "run", "--quiet")  # fmt: skip
    found = ok("explain", "gan", "--run", tmp_path / "run", "--json").json
    assert found["holds"], found["verdict"]
    assert number(found, "|∂V/∂θ|, D(G(z)) held fixed") == 0
    assert number(found, "|∂V/∂θ|, D(x) held fixed") > 0
    assert ("probability" in found["opening"]) == (loss in LOSSES[:2])


def test_what_cannot_be_computed_says_so():
    text = ok("explain", "elbo", "--run", trained("vae")).stdout
    assert "no number" in text
    assert "∫ p(x | z) p(z) dz cannot be computed" in text
    found = ok("explain", "elbo", "--run", trained("vae"), "--json").json
    assert [line["value"] for line in lines_of(found)].count(None) == 1


def test_numbers_are_those_of_the_run():
    digits = load_data("digits").test.images[4:5].float()
    pca, pixels = load(trained("ppca")), load(trained("pixelcnn"))
    with torch.no_grad():
        expected = [float(model.log_prob(digits)[0]) for model in (pca, pixels)]
    found = ok("explain", "iwae", "--run", trained("ppca"), "--index", 4, "--json").json
    check_equal(number(found, "log p(x)"), expected[0], 1e-4)
    check_equal(number(found, "L_10"), expected[0], 1e-4)
    found = ok("explain", "chain-rule", "--run", trained("pixelcnn"), "--index", 4, "--json").json
    check_equal(number(found, "Σ_i log p(x_i | x_1 … x_{i−1})"), expected[1], 1e-4)


UNSEEN = "no factor sees itself or what comes after it: "


def unseen(run):
    """The chain in which each factor of a run is given a prefix alone, and whether its line holds."""
    found = ok("explain", "chain-rule", "--run", trained(run), "--json").json
    chain = next(chain for chain in found["chains"] if chain["title"].startswith(UNSEEN))
    return chain["title"].removeprefix(UNSEEN), chain["lines"][-1]["holds"]


@pytest.mark.parametrize("seen", [lambda x: x.flip(-1), lambda x: x], ids=["future", "itself"])
@pytest.mark.parametrize("run", ["pixelcnn", "pixelcnn-label"])
def test_a_network_that_sees_what_it_predicts_does_not_hold(run, seen, monkeypatch):
    real = FactoredImage.numbers

    def numbers(density, x, context=None):
        logits = real(density, x, context)
        return torch.cat([logits[:, :1] + seen(x)[:, None], logits[:, 1:]], 1)

    assert unseen(run) == ("all factors", True)
    monkeypatch.setattr(FactoredImage, "numbers", numbers)
    assert unseen(run) == ("all factors", False)


@pytest.mark.parametrize("seen", [lambda w: w.roll(-1, 1), lambda w: w], ids=["future", "itself"])
def test_a_language_model_that_sees_what_it_predicts_does_not_hold(seen, monkeypatch):
    real = LanguageLSTM.forward

    def forward(network, tokens, context=None):
        return real(network, tokens, context) + torch.nn.functional.one_hot(seen(tokens), network.num_symbols)

    assert unseen("language")[1]
    monkeypatch.setattr(LanguageLSTM, "forward", forward)
    assert not unseen("language")[1]


def test_an_image_of_many_pixels_is_shown_in_blocks(monkeypatch):
    monkeypatch.setattr(prefixes, "MOST_FACTORS", 5)
    found = ok("explain", "chain-rule", "--run", trained("pixelcnn-label"), "--index", 3, "--json").json
    assert found["holds"], found["verdict"]
    assert found["chains"][1]["title"] == f"{UNSEEN}5 of the 64 factors"
    real = FactoredImage.numbers
    monkeypatch.setattr(FactoredImage, "numbers", lambda density, x, c=None: real(density, x + x.flip(-2), c))
    wrong = ok("explain", "chain-rule", "--run", trained("pixelcnn-label"), "--index", 3, "--json").json
    assert False in [line["holds"] for line in wrong["chains"][0]["lines"]]


def test_a_sentence_is_shown():
    text = ok("explain", "chain-rule", "--run", trained("language"), "--index", 1).stdout
    assert "language on test sentence 1 of sea-log: '" in text


# --- refusals


@pytest.mark.parametrize(
    ("topic", "run", "says"),
    [
        ("elbo", "gaussian", ("elbo is explained on runs of models with a latent z", "of the model gaussian")),
        ("elbo", "autoencoder", "no density"),
        ("kl", "language", "with a latent z and a guide: vae, ppca"),
        ("iwae", "pixelcnn", "with a latent z"),
        ("reparameterization", "gaussian", "with a latent z"),
        ("maximum-likelihood", "vae", "explained on runs of gaussian, ppca"),
        ("chain-rule", "vae", "explained on runs of the chain rule's models: pixelcnn"),
        ("gan", "vae", "explained on runs of gan; this one is of the model vae"),
    ],
)
def test_a_run_of_the_wrong_kind_is_refused(topic, run, says):
    refused("explain", topic, "--run", trained(run), says=says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("elbow",), ("unknown topic 'elbow': did you mean 'elbo'?", "expected one of maximum-likelihood, kl")),
        (("chain_rule",), "did you mean 'chain-rule'"),
        (("xyz",), "unknown topic 'xyz': expected one of"),
        (("elbo", "--index", 3), "--index 3 came without a run"),
        (("elbo", "--split", "test"), "--split test came without a run"),
        (("elbo", "--run", "nowhere"), "nowhere does not exist"),
        (("--run", "nowhere"), "came without a topic"),
        (("elbo", "--device", "tpu"), "expected auto, cpu or cuda"),
    ],
)
def test_wrong_words_are_refused(args, says):
    refused("explain", *args, says=says)


@pytest.mark.parametrize(
    ("topic", "run", "args", "says"),
    [
        ("kl", "vae", ("--index", 100_000), "--index 100000 came, expected 0 to"),
        ("kl", "vae", ("--index", -1), "--index -1 came, expected 0 to"),
        ("kl", "vae", ("--split", "tests"), "split 'tests' came"),
        ("maximum-likelihood", "gaussian", ("--index", 0), "shown on many images"),
    ],
)
def test_wrong_choices_of_images_are_refused(topic, run, args, says):
    refused("explain", topic, "--run", trained(run), *args, says=says)
