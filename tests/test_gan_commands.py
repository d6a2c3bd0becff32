"""An implicit model on the command line: what works without a density, what is refused, and a sampler of one's own."""

import numpy as np
import pytest
import torch
from helpers import ok, picture, records, refused
from PIL import Image
from safetensors.torch import load_file

import probgen as package
import probgen.commands.recorder as recorder
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.models.gan import GAN

SMALL = ("--steps", 4, "--batch-size", 16, "--set", "hidden=8", "--quiet")
DIGITS, RING = ("gan", "--data", "digits", *SMALL), ("gan", "--data", "ring:300", *SMALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gan")


def run_of(place, name, *args):
    """A small run, made once; to be read only."""
    if not (place / name).exists():
        ok("train", *args, "--out", place / name)
    return place / name


@pytest.fixture(scope="module")
def digits(place):
    return run_of(place, "digits", *DIGITS)


@pytest.fixture(scope="module")
def labelled(place):
    return run_of(place, "labelled", *DIGITS, "--set", "condition=label", "--lr", 0.02)


@pytest.fixture(scope="module")
def ring(place):
    return run_of(place, "ring", *RING)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty directory, where a refusal leaves nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what a run is


def test_a_run_keeps_both_players_and_tells_of_both(digits):
    assert {name.split(".")[0] for name in load_file(digits / "weights.safetensors")} == {"generator", "discriminator"}
    model = package.load(digits)
    assert isinstance(model, GAN)
    assert not model.training
    train, valid = ([r for r in records(digits) if r["split"] == split][-1] for split in ("train", "valid"))
    assert {"value", "critic_real", "critic_fake"} <= valid.keys() <= train.keys()
    assert {"generator_loss", "discriminator_loss", "generator_gradient", "discriminator_gradient"} <= train.keys()
    info = ok("info", digits, "--json").json
    assert (info["kind"], info["sites"]) == ("implicit", {"z": "latent", "x": "implicit"})
    assert any("x = G(z)" in line for line in info["equation"])


def test_a_run_draws_pictures_of_itself(digits, ring):
    assert {file.name for file in (digits / "pictures").iterdir()} == {"samples.png", "curve.png"}
    assert {file.name for file in (ring / "pictures").iterdir()} == {"samples.png", "curve.png", "field.png"}
    for run in (digits, ring):
        for file in (run / "pictures").iterdir():
            picture(file)


def test_the_average_is_what_is_saved(place):
    run = run_of(place, "ema", *DIGITS, "--ema", 0.9, "--lr", 0.02)
    saved, state = (
        load_file(run / "weights.safetensors"),
        torch.load(run / "checkpoint.pt", weights_only=True)["trainer"],
    )
    generator = [name for name in saved if name.startswith("generator")]
    assert len(generator) == len(state["average"]) > 0
    for name, average in zip(generator_order(state), state["average"], strict=True):
        assert torch.equal(saved[name], average), name
        assert not torch.equal(saved[name], state["pair"][name])  # the last is another
    for name in saved.keys() - set(generator):
        assert torch.equal(saved[name], state["pair"][name])


def generator_order(state):
    """As the module has its parameters; a file's are sorted."""
    return [name for name in state["pair"] if name.startswith("generator")]


# --- samples


def test_samples_are_whole_grey_levels(digits, elsewhere):
    ok("sample", digits, "--num", 20, "--out", "x.npz")
    ok("sample", digits, "--num", 20, "--out", "x.png")
    found = np.load("x.npz")
    assert (found["images"].shape, found["images"].dtype, int(found["levels"])) == ((20, 8, 8), np.uint8, 17)
    assert found["images"].max() <= 16
    picture(elsewhere / "x.png")
    ok("sample", digits, "--num", 20, "--out", "y.npz")
    ok("sample", digits, "--num", 20, "--seed", 1, "--out", "z.npz")
    ok("sample", digits, "--num", 20, "--temperature", 0.1, "--out", "t.npz")
    same, other, cold = (np.load(f"{name}.npz")["images"].astype(float) for name in "yzt")
    assert np.array_equal(found["images"], same)
    assert not np.array_equal(found["images"], other)
    assert cold.std(0).mean() < 0.5 * other.std(0).mean()


def test_samples_of_a_class(labelled, elsewhere):
    for label in (3, 4):
        ok("sample", labelled, "--num", 10, "--label", label, "--out", f"{label}.npz")
    three, four = (np.load(f"{label}.npz")["images"] for label in (3, 4))
    assert not np.array_equal(three, four)
    ok("sample", labelled, "--num", 10, "--temperature", 0.5, "--out", "cold.png")
    refused("sample", labelled, "--label", 10, "--out", "x.png", says=("label 10", "0 to 9"))
    refused("sample", labelled, "--label", -1, "--out", "x.png", says=("label -1", "0 to 9"))
    assert sorted(file.name for file in elsewhere.iterdir()) == ["3.npz", "4.npz", "cold.png"]


def test_a_walk_through_z(digits, labelled, ring, elsewhere):
    for run in (digits, labelled):
        ok("traverse", run, "--num", 3, "--out", "x.png")
        assert picture(elsewhere / "x.png").shape[1] > picture(elsewhere / "x.png").shape[0]
    refused("traverse", ring, "--out", "y.png", says="trained on points")


# --- what needs a density, or a code


NEEDS = [
    (("elbo",), ("no ELBO", "implicit", "probgen evaluate RUN")),
    (("diagnose", "--out", "x.png"), "implicit"),
    (("reconstruct", "--out", "x.png"), ("no guide", "probgen traverse")),
    (("complete", "--out", "x.png"), "one pixel after the other"),
    (("traverse", "--between", 0, 1, "--out", "x.png"), ("no guide", "probgen traverse without --between")),
    (("sample", "--mean", "--out", "x.png"), ("E[x | z] is x itself", "draw samples")),
    (("sample", "--label", 1, "--out", "x.png"), ("a label came", "condition=label")),
    (("sample", "--animate", "x.gif", "--out", "x.png"), ("--animate", "one pixel after the other")),
    (("evaluate", "--method", "elbo"), ("no ELBO", "implicit")),
    (("evaluate", "--method", "iwae"), ("no IWAE bound", "implicit")),
    (("evaluate", "--method", "bdmc"), ("no bound on log p(x)", "implicit")),
]


@pytest.mark.parametrize(("command", "says"), NEEDS, ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_what_needs_a_density_or_a_code_is_refused(command, says, digits, elsewhere):
    refused(command[0], digits, *command[1:], says=says)
    assert list(elsewhere.iterdir()) == []


def test_a_walk_needs_one_vector(place, elsewhere):
    (place / "own.py").write_text(OWN.replace('"z"', '"noise"'))
    run = run_of(place, "noise", f"{place / 'own.py'}:Own", "--data", "digits", "--steps", 2, "--quiet")
    says = "no latent vector 'z'"
    refused("traverse", run, "--model", f"{place / 'own.py'}:Own", "--out", "x.png", says=says)


# --- what cannot be trained

REFUSED = [
    (("--set", "network=dcgan"), ("network=dcgan", "8×8 pixels", "network=mlp")),
    (("--data", "ring:300", "--set", "network=dcgan"), ("network=dcgan", "shape (2,)")),
    (("--data", "ring:300", "--set", "network=resnet"), ("network=resnet", "shape (2,)")),
    (("--set", "spectral_norm=true", "--set", "discriminator_norm=none"), ("spectral_norm=true", "leave one")),
    (("--set", "discriminator_norm=batch"), ("discriminator_norm=batch", "regularizer=r1+r2")),
    (("--set", "packing=3"), ("batches of 16 images", "packing=3", "multiple of 3")),
    (("--patience", 3), ("patience", "implicit", "leave it out")),
    (("--set", "loss=hinge", "--set", "label_smoothing=0.1"), ("label_smoothing=0.1", "hinge", "least-squares")),
    (("--set", "label_smoothing=0.5"), ("label_smoothing", "less than 0.5")),
    (("--set", "loss=hinge", "--set", "gamma=0.1"), ("gamma=0.1", "no regularizer", "regularizer=r1")),
    (("--set", "gamma=-1"), ("gamma", "greater than or equal to 0")),
    (("--data", "UNLABELLED", "--set", "condition=label"), ("condition=label", "no labels", "leave it out")),
    (("--set", "loss=hing"), ("loss", "'hing'", "non-saturating|least-squares|hinge")),
    (("--set", "regularizer=r3"), ("regularizer", "'r3'", "r1+r2")),
    (("--set", "condition=label", "--set", "packing=2"), ("packing=2", "10 classes", "packing=1")),
    (("--set", "spectral_norm=true", "--set", "discriminator_norm=batch"), ("spectral_norm=true", "leave one")),
    (("--set", "discriminator_steps=0"), ("discriminator_steps", "greater than or equal to 1")),
    (("--set", "packing=0"), ("packing", "greater than or equal to 1")),
    (("--set", "beta1=1"), ("beta1", "less than 1")),
    (("--data", "sea-log"), "GAN is no model of text"),
]


@pytest.mark.parametrize(("args", "says"), REFUSED, ids=lambda value: " ".join(map(str, value)))
def test_what_cannot_be_trained_is_refused_before_anything_is_written(args, says, elsewhere, tmp_path_factory):
    if "UNLABELLED" in args:
        file = tmp_path_factory.mktemp("data") / "plain.npz"
        np.savez(file, images=np.random.RandomState(0).randint(0, 256, (30, 8, 8)).astype(np.uint8))
        args = [str(file) if word == "UNLABELLED" else word for word in args]
    refused("train", *DIGITS, *args, "--out", "run", says=says)
    assert list(elsewhere.iterdir()) == []


def test_batch_norm_needs_batches(elsewhere):
    args = ("--data", "sprites:40", "--batch-size", 1, "--steps", 2, "--set", "loss=hinge", "--set", "network=dcgan")
    refused("train", "gan", *args, "--set", "hidden=4", "--out", "run", says="batches of one image")
    assert list(elsewhere.iterdir()) == []


# --- a diverged player


def broken_from(monkeypatch, step, player):
    """From that step on a player's loss is nan."""
    real = AdversarialTrainer.update

    def update(self, name, loss, *judged):
        late = name == player and self.steps_done + 1 >= step
        return real(self, name, loss * float("nan") if late else loss, *judged)

    monkeypatch.setattr(AdversarialTrainer, "update", update)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_diverged_player_is_named_and_the_last_good_checkpoint_kept(player, elsewhere, monkeypatch):
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    ok("train", *RING, "--steps", 6, "--out", "whole")
    with pytest.MonkeyPatch.context() as patch:
        broken_from(patch, 4, player)
        says = ("step 4", f"the {player}'s loss is not a finite number", "checkpoint of step 3 is kept in run")
        refused("train", *RING, "--steps", 6, "--out", "run", says=says)
    assert torch.load("run/checkpoint.pt", weights_only=True)["trainer"]["steps_done"] == 3
    assert all(torch.isfinite(weight).all() for weight in package.load("run").state_dict().values())
    ok("evaluate", "run", "--samples", 50, "--json")
    ok("train", "--resume", "--out", "run", "--quiet")
    assert (elsewhere / "run/weights.safetensors").read_bytes() == (
        elsewhere / "whole/weights.safetensors"
    ).read_bytes()


def test_a_learning_rate_that_is_too_high_is_told_in_one_line(elsewhere):
    args = ("--set", "loss=wasserstein", "--set", "gamma=0", "--lr", 1e25)
    refused("train", *DIGITS, *args, "--out", "run", says=("step 1", "lower the learning rate (1e+25)"))
    ok("sample", "run", "--out", "x.png")


@pytest.mark.parametrize(
    ("args", "rate"),
    [
        (("--set", "discriminator_lr=1e20"), "lower its learning rate, lr × discriminator_lr (1e+17)"),
        (("--lr", "1e30"), "lower the learning rate (1e+30)"),
    ],
)
def test_a_discriminator_that_diverged_is_named_in_the_generators_step(args, rate, elsewhere):
    said = refused("train", *DIGITS, *args, "--out", "run", says=("step 1", "the discriminator's", rate, "clip_norm"))
    assert "generator's" not in str(said)
    assert "a regularizer" not in str(said)


# --- a sampler of one's own

OWN = """\
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from probgen.models.contracts import AdversarialObjective, Kind


class Own(nn.Module):
    kind = Kind.IMPLICIT

    def __init__(self, image_shape, levels=None, hidden: int = 8):
        super().__init__()
        self.image_shape, self.levels, size = image_shape, levels, image_shape.numel()
        self.generator = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, size))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.objective = AdversarialObjective(loss="hinge", regularizer="r1", gamma=0.1)

    def model(self, num):
        num = num if isinstance(num, int) else len(num)
        with pyro.plate("images", num):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return (self.generator(z).reshape(-1, *self.image_shape).tanh() + 1) * ((self.levels - 1) / 2)

    def seen(self, x):
        return x.float() * (2 / (self.levels - 1)) - 1

    def judge(self, seen):
        return self.discriminator(seen).squeeze(1)
""".replace("image_shape.numel()", "torch.Size(image_shape).numel()")
NAME = "own.py:Own"
TRAIN = ("--data", "digits", "--steps", 4, "--batch-size", 16, "--quiet")


def test_a_sampler_of_ones_own_trains_resumes_samples_and_is_judged(elsewhere):
    (elsewhere / "own.py").write_text(OWN)
    ok("train", NAME, *TRAIN, "--ema", 0.9, "--animate", "--out", "run", "--set", "hidden=4")
    ok("train", NAME, "--resume", "--out", "run", "--quiet")
    ok("sample", "run", "--model", NAME, "--num", 7, "--out", "x.npz")
    images = np.load("x.npz")["images"]
    assert (images.shape, images.dtype) == ((7, 8, 8), np.uint8)
    ok("traverse", "run", "--model", NAME, "--num", 2, "--out", "x.png")
    found = ok("evaluate", "run", "--model", NAME, "--samples", 60, "--json").json
    assert found["estimates"] == {}
    assert "samples" in found
    info = ok("info", "run", "--model", NAME, "--json").json
    assert (info["kind"], info["options"]) == ("implicit", {"hidden": 4})
    refused("sample", "run", "--out", "y.png", says=(NAME, "executes no code by itself"))
    refused("elbo", "run", "--model", NAME, says="no ELBO")
    for name in ("samples.png", "curve.png"):
        picture(elsewhere / "run/pictures" / name)
    with Image.open("run/pictures/training.gif") as film:
        assert film.n_frames == 5


def test_a_sampler_that_takes_a_number_only_trains_and_samples(elsewhere):
    """`pyro.plate("images", num)` as it is written first."""
    text = changed("        num = num if isinstance(num, int) else len(num)\n", "")
    (elsewhere / "own.py").write_text(text)
    ok("train", NAME, *TRAIN, "--out", "run")
    ok("sample", "run", "--model", NAME, "--num", 7, "--out", "x.npz")
    assert np.load("x.npz")["images"].shape == (7, 8, 8)
    assert ok("info", "run", "--model", NAME, "--json").json["sites"] == {"z": "latent"}


def changed(old, new):
    assert old in OWN
    return OWN.replace(old, new)


LOGIT = "return self.discriminator(seen).squeeze(1)"
WRONG = {
    "no generator": (changed("self.generator = ", "self.maker = "), ("Own", "'generator'", "torch.nn.Module")),
    "no discriminator": (changed("self.discriminator = ", "self.critic = "), ("Own", "'discriminator'")),
    "no objective": (changed("self.objective = ", "self.game = "), ("Own", "'objective'", "AdversarialObjective")),
    "no judge": (changed("def judge", "def judged"), ("Own", "'judge'")),
    "no seen": (changed("def seen", "def saw"), ("Own", "'seen'")),
    "no model": (changed("def model", "def program"), ("Own", "model")),
    "no kind": (changed("kind = Kind.IMPLICIT", "pass"), ("Own", "guide")),
    "no module": (changed("(nn.Module)", "").replace("super().__init__()", "pass"), ("Own", "nn.Module")),
    "another shape": (changed("nn.Linear(hidden, size)", "nn.Linear(hidden, 2 * size)"), ("Own", "gives 6 images")),
    "a flat image": (changed(".reshape(-1, *self.image_shape)", ""), ("Own", "(64,)", "(1, 8, 8)")),
    "wide logits": (changed(".squeeze(1)", ""), ("Own", "(2, 1)", "expected (2,)")),
    "nothing": (changed("return (self.generator", "(self.generator"), ("Own", "NoneType")),
    "error": (changed(LOGIT, "return self.nothing"), ("Own", "own.py line", "AttributeError")),
    "error while made": (changed("torch.zeros(3)", "torch.zeros(9)"), ("Own", "own.py line", "9")),
    "no event": (changed(".to_event(1)", ""), ("Own", "gives 1 images")),
    "a negative scale": (changed("1.0)", "-1.0)"), ("Own", "own.py line")),
    "cut": (changed("self.generator(z)", "self.generator(z).detach()"), ("Own", "generator's parameters", ".detach()")),
    "labels": (
        changed("kind = Kind.IMPLICIT", "kind, takes_labels, num_classes = Kind.IMPLICIT, True, 10"),
        ("Own", "positional"),
    ),
    "a parameter of neither player": (
        changed(
            "        self.objective = ", "        self.scale = nn.Parameter(torch.ones(1))\n        self.objective = "
        ),
        ("Own", "'scale'", "neither player's", "would never be trained"),
    ),
    "no classes": (
        changed("kind = Kind.IMPLICIT", "kind, takes_labels = Kind.IMPLICIT, True"),
        ("Own", "'num_classes'"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_ones_own_is_told_in_one_line(name, elsewhere):
    text, says = WRONG[name]
    (elsewhere / "own.py").write_text(text)
    refused("train", NAME, *TRAIN, "--out", "run", says=says)
    assert [file.name for file in elsewhere.iterdir() if file.name != "__pycache__"] == ["own.py"]


def test_labels_that_the_data_lack_are_told_before_anything_is_written(elsewhere, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "plain.npz"
    np.savez(file, images=np.random.RandomState(0).randint(0, 256, (30, 8, 8)).astype(np.uint8))
    text = changed("kind = Kind.IMPLICIT", "kind, takes_labels, num_classes = Kind.IMPLICIT, True, 10")
    text = text.replace("(self, num)", "(self, num, y=None)").replace("(self, seen)", "(self, seen, y=None)")
    (elsewhere / "own.py").write_text(text)
    says = ("Own takes labels", "came without")
    refused("train", NAME, "--data", file, "--steps", 2, "--batch-size", 5, "--out", "run", says=says)
    assert not (elsewhere / "run").exists()
    ok("train", NAME, *TRAIN, "--out", "run")
