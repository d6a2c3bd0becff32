"""A run of text on the command line: train, sample with a prompt, evaluate, and what has no meaning for text."""

import json
import math

import pytest
import torch
from helpers import copy_of, ok, picture, refused, trained

from probgen.models import LanguageModel
from probgen.runs import load

SMALL = ("--steps", 2, "--batch-size", 8, "--set", "features=8", "--quiet")
SENTENCES = "".join(f"The {noun} is {state}.\n" for noun in ("sea", "wind", "boat") for state in ("calm", "old", "wet"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(SENTENCES)
    return path


# --- training


@pytest.mark.parametrize("name", ["language", "language-words"])
def test_a_run_of_text_is_complete(name):
    run = trained(name)
    assert isinstance(load(run), LanguageModel)
    picture(run / "pictures" / "curve.png")
    assert len((run / "pictures" / "samples.txt").read_text().splitlines()) == 20
    assert not (run / "pictures" / "samples.png").exists()
    config = json.loads((run / "config.json").read_text())
    assert config["levels"] == len(config["vocabulary"])
    assert config["vocabulary"][0] == ("<end>" if "words" in name else "\n")


@pytest.mark.parametrize("suffix", ["", ":words"])
def test_a_file_of_ones_own_and_a_run_that_goes_on(file, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    ok("train", "language", "--data", f"mine.txt{suffix}", "--out", "run", *SMALL, "--set", "student_forcing=0.3")
    monkeypatch.chdir("/")
    run = tmp_path / "run"
    assert json.loads((run / "config.json").read_text())["data"] == f"{file}{suffix}"
    ok("train", "--out", run, "--resume", "--quiet")
    assert ok("evaluate", run, "--json").json["num_images"] == 1


@pytest.mark.parametrize("change", [SENTENCES + "A quay.\n", SENTENCES + "The old boat is old and wet.\n"])
def test_a_text_that_has_changed_is_refused(file, tmp_path, change):
    ok("train", "language", "--data", file, "--out", tmp_path / "run", *SMALL)
    file.write_text(change)
    for args in (("evaluate", tmp_path / "run"), ("train", "--out", tmp_path / "run", "--resume")):
        refused(*args, says="has other symbols or longer sentences than the run was trained on")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("language",), "data of shape (1, 8, 8) came, which are no text"),
        (("language", "--data", "ring:100"), "which are no text"),
        (("vae", "--data", "sea-log"), "VAE is no model of text, but the data are: train the model language"),
        (("gaussian", "--data", "sea-log:words"), "is no model of text"),
        (("pixelcnn", "--data", "sea-log"), "is no model of text"),
        (("language", "--data", "absent.txt"), "absent.txt does not exist"),
        (("language", "--data", "sea-log:letters"), "expected sea-log (its characters) or sea-log:words"),
        (("language", "--data", "sea-log", "--binarize", "static"), "no grey levels to binarize"),
        (("language", "--data", "sea-log", "--set", "student_forcing=2"), "student_forcing='2' came"),
        (("language", "--data", "sea-log", "--set", "dropout=1"), "dropout='1' came"),
        (("language", "--data", "sea-log", "--set", "features=0"), "features='0' came"),
        (("language", "--data", "sea-log", "--set", "vocabulary=ab"), "unknown option 'vocabulary'"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, args, says):
    refused("train", *args, "--out", tmp_path / "run", says=says)
    assert not (tmp_path / "run").exists()


def test_an_empty_file_is_refused(file, tmp_path):
    file.write_text("\n \n")
    refused("train", "language", "--data", file, "--out", tmp_path / "run", says="is an empty text")


# --- samples


def test_sentences_are_printed_or_written(tmp_path):
    run = trained("language")
    printed = ok("sample", run, "--num", 5, "--prompt", "The wind").stdout.splitlines()
    assert len(printed) == 5
    assert all(line.startswith("The wind") for line in printed)
    ok("sample", run, "--num", 5, "--prompt", "The wind", "--out", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text().splitlines() == printed
    ok("sample", run, "--num", 5, "--prompt", "The wind", "--out", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"prompt": "The wind", "sentences": printed}
    assert len(ok("sample", run, "--num", 3, "--temperature", 0.5).stdout.splitlines()) == 3
    words = ok("sample", trained("language-words"), "--num", 4, "--prompt", "The old man").stdout.splitlines()
    assert all(line.startswith("The old man") for line in words)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--prompt", ""), "an empty text came, expected at least one character"),
        (("--prompt", "Œuvre"), "character 'Œ', number 1 of 'Œuvre', is not in the vocabulary"),
        (("--prompt", "a" * 66), "has 66 characters, longer than the context: at most 65"),
        (("--prompt", "a\nb"), "a text of several lines"),
        (("--out", "x.png"), "expected a file that ends in .txt or .json"),
        (("--out", "absent/x.txt"), "there is no directory absent"),
        (("--num", 0), "--num 0 came"),
        (("--temperature", 0), "--temperature 0 came"),
        (("--mean",), "--mean came, but this run was trained on text"),
        (("--label", 1), "--label came, but this run was trained on text"),
        (("--animate", "x.gif"), "--animate came, but this run was trained on text"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(args, says):
    refused("sample", trained("language"), *args, says=says)


def test_a_run_of_images_takes_no_prompt_and_needs_a_file(tmp_path):
    refused("sample", trained("vae"), says="no --out came")
    refused("sample", trained("vae"), "--prompt", "a", "--out", tmp_path / "x.png", says="was trained on images")
    refused("evaluate", trained("vae"), "--sentence", "a", says="was trained on images, not on text")


# --- evaluation


@pytest.mark.parametrize(("name", "unit"), [("language", "character"), ("language-words", "word")])
def test_bits_and_perplexity_are_of_real_symbols(name, unit):
    run = trained(name)
    result = ok("evaluate", run, "--json").json
    model, log_prob = load(run), result["estimates"]["log_prob"]
    config = json.loads((run / "config.json").read_text())
    assert (log_prob["kind"], log_prob["unit"], result["unit"]) == ("exact", "nats per sentence", unit)
    from probgen.data import load_data

    x = load_data(config["data"]).test.images
    with torch.no_grad():
        assert log_prob["value"] == pytest.approx(float(model.log_prob(x).mean()), rel=1e-5)
    assert result["num_symbols"] == int(model.num_symbols(x).sum()) < x.numel()
    assert result["bits_per_symbol"] == result["bits_per_dim"] == pytest.approx(model.bits_per_symbol(x), rel=1e-5)
    assert result["perplexity"] == pytest.approx(2 ** result["bits_per_symbol"])
    assert ("<unk>" in result["note"]) == (unit == "word")
    printed = ok("evaluate", run).stdout
    assert f"bits per {unit} over {result['num_symbols']:,} {unit}s; perplexity" in printed
    assert "nats per sentence" in printed
    assert "bits per dimension" not in printed


@pytest.mark.parametrize("name", ["language", "language-words"])
def test_one_sentence_symbol_by_symbol(name):
    run, sentence = trained(name), "The sea is calm."
    result = ok("evaluate", run, "--sentence", sentence, "--json").json
    assert result["log_prob"] == pytest.approx(load(run).log_prob_of(sentence), rel=1e-5)
    assert result["log_prob"] == pytest.approx(sum(s["log_prob"] for s in result["symbols"]))
    assert result["num_symbols"] == len(result["symbols"]) == (17 if name == "language" else 6)
    assert result["perplexity"] == pytest.approx(math.exp(-result["log_prob"] / result["num_symbols"]))
    printed = ok("evaluate", run, "--sentence", sentence).stdout
    assert "(end)" in printed
    assert ("(space)" in printed) == (name == "language")


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("", "an empty text came"),
        ("Ω", "character 'Ω', number 1 of 'Ω', is not in the vocabulary"),
        ("The sea " * 9, "longer than the context"),
    ],
)
def test_a_sentence_that_cannot_be_scored_is_refused(sentence, says):
    refused("evaluate", trained("language"), "--sentence", sentence, says=says)


# --- what other commands make of it


def test_info_does_not_list_the_vocabulary():
    printed = ok("info", trained("language-words")).stdout
    assert "500 words" in printed
    assert "<unk>" not in printed
    assert ok("info", trained("language"), "--json").json["training"]["vocabulary"] == "45 characters"


def test_the_lists_name_it():
    assert ok("models", "--json").stdout.count('"language"') == 1
    assert "sea-log" in ok("datasets").stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("reconstruct", "--out", "x.png"), "no latent code"),
        (("traverse", "--out", "x.png"), "no latent site"),
        (("diagnose", "--out", "x"), "no latent site"),
        (("gradients",), "no gradient"),
        (("evaluate", "--method", "bdmc"), "nothing to anneal"),
        (("complete", "--out", "x.png"), "this run's is language"),
    ],
)
def test_what_needs_images_or_a_code_is_refused(args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(args[0], trained("language"), *args[1:], says=says)


def test_its_elbo_is_exact(tmp_path):
    result = ok("elbo", trained("language"), "--num", 3, "--out", tmp_path / "x.png", "--json").json
    exact = ok("evaluate", trained("language"), "--num", 3, "--json").json["estimates"]["log_prob"]["value"]
    assert result["elbo"]["value"] == pytest.approx(exact, rel=1e-5)


def test_a_run_with_a_spoilt_vocabulary_is_refused(tmp_path):
    run = copy_of("language", tmp_path)
    config = json.loads((run / "config.json").read_text())
    for spoilt, says in ((config["vocabulary"][1:], "the first the end"), (config["vocabulary"][:-1], "levels=45")):
        (run / "config.json").write_text(json.dumps(config | {"vocabulary": spoilt}))
        refused("evaluate", run, says=says)
