"""The user's own model in one file: everything works, and what is wrong with it is told in one line."""

import re

import numpy as np
import pytest
from helpers import ok, picture, refused

PAIR = """\
import pyro
import pyro.distributions as dist
import torch
from torch import nn


class MyVAE(nn.Module):
    def __init__(self, image_shape, latent_dim: int = 2, hidden: int = 16):
        super().__init__()
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.image_shape, self.latent_dim = image_shape, latent_dim
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Linear(hidden, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, size))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            logits = self.decoder(z).reshape(-1, *self.image_shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            mu, log_sigma = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))
"""
NAME = "my_vae.py:MyVAE"
TRAIN = ("--data", "digits", "--binarize", "dynamic", "--steps", 4, "--batch-size", 32, "--quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run of the user's class, beside its file; to be read only."""
    place = tmp_path_factory.mktemp("pair")
    (place / "my_vae.py").write_text(PAIR)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        ok("train", NAME, *TRAIN, "--set", "latent_dim=3", "--out", "run")
    return place / "run"


@pytest.fixture
def beside(run, monkeypatch):
    """In the directory of the user's file."""
    monkeypatch.chdir(run.parent)


COMMANDS = [
    ("sample", "run", "--out", "OUT"),
    ("reconstruct", "run", "--out", "OUT"),
    ("traverse", "run", "--out", "OUT"),
    ("traverse", "run", "--between", "0", "1", "--out", "OUT"),
    ("evaluate", "run", "--particles", "2", "--num", "5"),
    ("elbo", "run", "--num", "5"),
    ("info", "run"),
]


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:3:2]))
def test_every_command_works_with_the_file_named_again(command, tmp_path):
    command = [str(tmp_path / "x.png") if word == "OUT" else word for word in command]
    ok(*command, "--model", NAME)
    if (tmp_path / "x.png").exists():
        picture(tmp_path / "x.png")
    assert ("--out" in command) == (tmp_path / "x.png").exists()


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("command", [*COMMANDS, ("train", "--resume", "--out", "run")], ids=lambda words: words[0])
def test_without_the_file_named_again_each_says_so(command, tmp_path):
    command = [str(tmp_path / "x.png") if word == "OUT" else word for word in command]
    line = refused(*command, says=(NAME, "executes no code by itself"))
    assert ("train " + NAME if command[0] == "train" else "--model " + NAME) in line


@pytest.mark.usefixtures("beside")
def test_another_class_is_refused():
    refused("evaluate", "run", "--model", "my_vae.py:Other", says=("Other", NAME))
    refused("evaluate", "run", "--model", "vae", says=("vae", NAME))
    refused("evaluate", "run", "--model", "gone.py:MyVAE", says="gone.py")
    refused("evaluate", "run", "--model", "my_vae.py", says="my_vae.py")


def test_the_file_may_have_moved(run, tmp_path):
    (tmp_path / "renamed.py").write_text(PAIR)
    ok("evaluate", run, "--num", 3, "--model", f"{tmp_path / 'renamed.py'}:MyVAE")


def test_a_class_that_has_changed_does_not_fit(run, tmp_path):
    (tmp_path / "my_vae.py").write_text(PAIR.replace("self.encoder", "self.inference"))
    refused("evaluate", run, "--model", f"{tmp_path / 'my_vae.py'}:MyVAE", says=("weights do not fit", "encoder.1"))


@pytest.mark.usefixtures("beside")
def test_its_numbers_are_labelled():
    found = ok("evaluate", "run", "--model", NAME, "--particles", 3, "--num", 20, "--json").json
    assert found["model"] == NAME
    assert {key: e["kind"] for key, e in found["estimates"].items()} == {"elbo": "lower bound", "iwae": "lower bound"}
    assert found["estimates"]["iwae"]["value"] > found["estimates"]["elbo"]["value"] - 1
    info = ok("info", "run", "--model", NAME, "--json").json
    assert info["sites"] == {"z": "latent", "x": "observed"}
    assert (info["options"]["latent_dim"], info["options"]["hidden"]) == (3, 16)


def test_load_runs_the_file_only_when_told(run):
    import probgen

    with pytest.raises(ValueError, match="executes no code by itself"):
        probgen.load(run)
    model = probgen.load(run, f"{run.parent / 'my_vae.py'}:MyVAE")
    assert type(model).__name__ == "MyVAE"
    assert not model.training


def test_no_latent_site_is_an_exact_density(tmp_path, monkeypatch):
    """An empty guide: the ELBO is log p(x), here −64 log 2 to begin with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coin.py").write_text(COIN)
    ok(
        "train",
        "coin.py:Coin",
        "--data",
        "digits",
        "--binarize",
        "threshold",
        "--steps",
        1,
        "--lr",
        1e-9,
        "--out",
        "run",
    )
    found = ok("evaluate", "run", "--model", "coin.py:Coin", "--json").json
    assert found["estimates"].keys() == {"log_prob"}
    assert found["estimates"]["log_prob"]["kind"] == "exact"
    assert found["estimates"]["log_prob"]["value"] == pytest.approx(-64 * np.log(2), rel=1e-5)
    assert found["bits_per_dim"] == pytest.approx(1.0, rel=1e-5)
    ok("sample", "run", "--model", "coin.py:Coin", "--out", "x.png")
    refused("reconstruct", "run", "--model", "coin.py:Coin", "--out", "y.png", says="no latent")


COIN = """\
import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Coin(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(image_shape))

    def model(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=self.logits.expand(len(x), 1, 8, 8)).to_event(3), obs=x)

    def guide(self, x):
        pass
"""


# --- options of a user's class


@pytest.mark.parametrize(
    ("signature", "value", "says"),
    [
        ("latent_dim: int = 2", "3", None),
        ("latent_dim=2", "3", None),
        ("latent_dim: 'int' = 2", "3", None),
        ("latent_dim: int = 2", "abc", ("latent_dim", "'abc'", "whole number")),
        ("latent_dim: 'int' = 2", "abc", ("latent_dim", "'abc'", "whole number")),
        ("latent_dim: int = 2", "0", ("MyVAE", "failed")),
    ],
)
def test_options_have_the_types_that_the_class_gives_them(signature, value, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = 'if latent_dim == 0: raise ValueError("latent_dim is 0")\n        super().__init__()'
    text = PAIR.replace("latent_dim: int = 2", signature).replace("super().__init__()", broken)
    (tmp_path / "my_vae.py").write_text(text)
    args = ("train", NAME, *TRAIN, "--set", f"latent_dim={value}", "--out", "run")
    if says is None:
        ok(*args)
        assert ok("info", "run", "--model", NAME, "--json").json["options"]["latent_dim"] == 3
    else:
        refused(*args, says=says)


def test_an_option_without_a_default_must_be_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_vae.py").write_text(PAIR.replace("latent_dim: int = 2", "latent_dim: int"))
    refused("train", NAME, *TRAIN, "--out", "run", says=("latent_dim", "--set latent_dim="))
    ok("train", NAME, *TRAIN, "--set", "latent_dim=2", "--out", "run")


def test_annotations_that_are_strings(tmp_path, monkeypatch):
    """`from __future__ import annotations` makes strings of all."""
    monkeypatch.chdir(tmp_path)
    text = PAIR.replace("hidden: int = 16", "hidden: tuple[int, ...] = (16,)").replace("hidden, ", "hidden[0], ")
    text = text.replace("size, hidden)", "size, hidden[0])").replace("latent_dim, hidden)", "latent_dim, hidden[0])")
    (tmp_path / "my_vae.py").write_text("from __future__ import annotations\n" + text)
    ok("train", NAME, *TRAIN, "--set", "latent_dim=3", "--set", "hidden=8", "--out", "run")
    assert ok("info", "run", "--model", NAME, "--json").json["options"] == {"latent_dim": 3, "hidden": [8]}


# --- what can be wrong with the file

LOGITS = "logits = self.decoder(z).reshape(-1, *self.image_shape)"
DRAW = 'pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))'
PLATE = 'with pyro.plate("images", len(x)):'
UNTRAINED = COIN.replace("Coin", "MyVAE").replace("nn.Parameter(torch.zeros(image_shape))", "torch.zeros(image_shape)")


def changed(old, new):
    """The pair with a mistake in it."""
    assert old in PAIR
    return PAIR.replace(old, new)


WRONG_FILES = {
    "syntax error": (changed("class MyVAE(nn.Module):", "class MyVAE(nn.Module)"), ("my_vae.py", "line 7")),
    "no such class": (changed("class MyVAE", "class Other"), ("MyVAE", "my_vae.py", "Other")),
    "no class at all": ("x = 1\n", ("MyVAE", "my_vae.py")),
    "not a class": ("MyVAE = 3\n", ("MyVAE", "my_vae.py")),
    "no guide": (changed("def guide", "def proposal"), ("MyVAE", "guide")),
    "no model": (changed("def model", "def program"), ("MyVAE", "model")),
    "import error": ("import json\nimport no_package\n" + PAIR, ("my_vae.py", "line 2", "no_package")),
    "error while loading": (PAIR + "\n1 / 0\n", ("my_vae.py", "line 26", "ZeroDivisionError")),
    "exit while loading": (PAIR + "\nraise SystemExit(0)\n", ("my_vae.py", "SystemExit")),
    "null byte": (PAIR + "\0", "my_vae.py"),
    "constructor fails": (
        changed("super().__init__()", "raise RuntimeError('no\\nway')"),
        ("MyVAE", "RuntimeError", "no"),
    ),
    "no module": (changed("(nn.Module)", "").replace("super().__init__()", "pass"), ("MyVAE", "nn.Module")),
    "no parameters": (UNTRAINED, ("MyVAE", "no parameters")),
    "no image plate": (changed(PLATE, "if True:"), ("MyVAE", "'z'", "pyro.plate")),
    "no plate in the guide": ("if True:".join(PAIR.rsplit(PLATE, 1)), ("MyVAE", "'z'", "pyro.plate")),
    "no plate in the model": (PAIR.replace(PLATE, "if True:", 1), ("MyVAE", "pyro.plate")),
    "no to_event on z": (changed("1.0).to_event(1)", "1.0)"), ("MyVAE", "'z'", ".to_event")),
    "no to_event on x": (changed(".to_event(3)", ""), ("MyVAE", "'x'", ".to_event")),
    "too little to_event": (changed(".to_event(3)", ".to_event(2)"), ("MyVAE", "'x'", ".to_event")),
    "wrong input size": (changed("Linear(size, hidden)", "Linear(9, hidden)"), ("MyVAE", "my_vae.py line 23", "9")),
    "wrong output size": (changed("Linear(hidden, size)", "Linear(hidden, 63)"), ("MyVAE", "my_vae.py line 18", "189")),
    "value outside the support": (changed("obs=x", "obs=x + 0.5"), ("MyVAE", "'x'", "support", "my_vae.py line 19")),
    "parameter outside its constraint": (
        changed("log_sigma.exp()", "-log_sigma.exp()"),
        ("MyVAE", "my_vae.py line 24", "scale"),
    ),
    "guide lacks a latent": (changed(DRAW, "pass"), ("MyVAE", "'z'", "guide")),
    "another name in the guide": (changed(DRAW, DRAW.replace('"z"', '"code"')), ("MyVAE", "guide")),
    "nothing observed": (changed(", obs=x", ""), ("MyVAE", "'x'", "obs")),
    "a name twice": (changed(LOGITS, LOGITS + f"\n            {DRAW}"), ("MyVAE", "my_vae.py")),
    "error in the model": (
        changed(LOGITS, LOGITS + "\n            [][0]"),
        ("MyVAE", "my_vae.py line 19", "IndexError"),
    ),
    "wrong signature": (changed("def guide(self, x):", "def guide(self):").replace("len(x)", "3"), ("MyVAE", "guide")),
    "nan": (changed(LOGITS, LOGITS + " * float('nan')"), ("MyVAE", "my_vae.py line 19")),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_what_is_wrong_is_told_in_one_line(name, tmp_path, monkeypatch):
    text, says = WRONG_FILES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_vae.py").write_text(text)
    line = refused("train", NAME, *TRAIN, "--out", "run", says=says)
    assert "probgen/inference" not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_vae.py", ("my_vae.py", "FILE.py:CLASS", "MyVAE")),
        ("my_vae.py:", "my_vae.py"),
        ("my_vae.py:torch", "torch"),
        ("my_vae.py:nn.Module", "nn.Module"),
        ("my_vae.pyi", "my_vae.pyi"),
        ("my_vae.py.txt:MyVAE", "my_vae.py.txt"),
        ("folder.py:MyVAE", "folder.py"),
        (".py:MyVAE", ".py"),
    ],
)
def test_a_name_that_is_no_file_and_class(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("my_vae.py", "my_vae.pyi", "my_vae.py.txt"):
        (tmp_path / file).write_text(PAIR)
    (tmp_path / "folder.py").mkdir()
    refused("train", name, *TRAIN, "--out", "run", says=says)


def test_nan_at_a_step_names_step_and_site_and_keeps_the_last_good_weights(tmp_path, monkeypatch):
    """The decoder gives nan from the seventh step on; checkpoints at each step."""
    import torch

    import probgen
    import probgen.commands.recorder as commands

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    broken = PAIR.replace(LOGITS, LOGITS + " + (float('nan') if self.training_step >= 6 else 0.0)")
    (tmp_path / "my_vae.py").write_text(broken.replace("    def model(", "    training_step = 0\n\n    def model("))
    args = [20 if word == 4 else word for word in TRAIN]
    line = refused("train", NAME, *args, "--out", "run", says=("step 7", "site 'x'", "model", "nan"))
    kept = int(re.search(r"checkpoint of step (\d+) is kept", line)[1])
    assert kept == 6
    assert torch.load("run/checkpoint.pt", weights_only=True)["trainer"]["steps_done"] == 6
    model = probgen.load("run", NAME)
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    (tmp_path / "my_vae.py").write_text(PAIR)  # mended
    ok("train", NAME, "--resume", "--out", "run", "--quiet")


def test_resuming_takes_the_file_as_model_option_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_vae.py").write_text(PAIR)
    ok("train", NAME, *TRAIN, "--out", "run", "--quiet")
    ok("train", "--model", NAME, "--resume", "--out", "run", "--quiet")
    refused("train", "--resume", "--out", "run", says="executes no code by itself")
    refused("train", "vae", "--model", NAME, "--out", "other", says="expected one of them")


SCORE_FUNCTION = """
import pyro, pyro.distributions as dist, torch
from torch import nn

class Switch(nn.Module):
    def __init__(self, image_shape, levels):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))
        self.loc = nn.Parameter(torch.tensor([4.0, 8.0]))

    def model(self, x):
        with pyro.plate("images", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            mean = self.loc[c.long()][..., None, None, None]
            mean = mean.expand(mean.shape[:-3] + x.shape[1:])
            pyro.sample("x", dist.Normal(mean, 5.0).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=self.logit){mark})
"""


def test_a_site_without_reparameterized_draws_is_warned_of_in_one_line(tmp_path):
    (tmp_path / "noisy.py").write_text(SCORE_FUNCTION.replace("{mark}", ""))
    result = ok("train", f"{tmp_path / 'noisy.py'}:Switch", "--data", "digits", "--steps", 2, "--out", tmp_path / "a")
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert line.startswith("probgen: warning: site 'c': Bernoulli in the guide has no reparameterized draws")
    assert "score-function gradient" in line
    marked = SCORE_FUNCTION.replace("{mark}", ", infer={'enumerate': 'parallel'}")
    (tmp_path / "summed.py").write_text(marked)
    result = ok("train", f"{tmp_path / 'summed.py'}:Switch", "--data", "digits", "--steps", 2, "--out", tmp_path / "b")
    assert "warning" not in result.stderr
