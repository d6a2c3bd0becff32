"""Wrong words and configurations on the command line: one line on stderr, exit code 2, nothing written."""

import pytest
from helpers import refused, trained

VAE = ("train", "vae", "--data", "digits", "--steps", 2, "--batch-size", 32)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in an empty directory of its own, where nothing may be left behind by a refusal."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- the words of `probgen train`


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--set", "latent_dim=abc"), ("latent_dim", "'abc'", "whole number")),
        (("--set", "latent_dim=-1"), ("latent_dim", "'-1'", "greater than or equal to 1")),
        (("--set", "latent_dim=0"), ("latent_dim", "'0'", "greater than or equal to 1")),
        (("--set", "latent_dim=1.5"), ("latent_dim", "'1.5'", "whole number")),
        (("--set", "latent_dim="), ("latent_dim", "''", "whole number")),
        (("--set", "beta=nan"), ("beta", "'nan'", "finite")),
        (("--set", "beta=inf"), ("beta", "'inf'", "finite")),
        (("--set", "beta=0"), ("beta", "greater than 0")),
        (("--set", "hidden="), "hidden"),
        (("--set", "hidden=16,x"), ("hidden", "x", "int")),
        (("--set", "hidden=0"), ("hidden", "greater than or equal to 1")),
        (("--set", "network=foo"), ("network", "foo", "mlp", "conv")),
        (("--set", "likelihood=foo"), ("likelihood", "foo", "bernoulli")),
        (("--set", "likelihood=bernoulli"), ("bernoulli", "17 grey levels", "--binarize dynamic")),
        (("--set", "latnt_dim=2"), ("latnt_dim", "did you mean 'latent_dim'")),
        (("--set", "x"), ("--set x", "OPTION=VALUE")),
        (("--set", "=1"), ("--set =1", "OPTION=VALUE")),
        (("--set", ""), "OPTION=VALUE"),
        (("--set", "beta=1", "--set", "beta=2"), ("beta", "twice")),
        (("--set", "latent-dim=1", "--set", "latent_dim=2"), ("latent_dim", "twice")),
        (("--set", "latent-dim=1", "--set", "latent-dim=2"), ("latent", "twice")),
        (("--steps", 0), ("steps", "0", "greater than or equal to 1")),
        (("--steps", "abc"), ("--steps", "integer")),
        (("--steps", 10**13), ("steps", "less than")),
        (("--steps", 10**30), "steps"),
        (("--lr", "nan"), ("lr", "nan", "finite")),
        (("--lr", "inf"), ("lr", "inf", "finite")),
        (("--lr", 0), ("lr", "greater than 0")),
        (("--lr", -1), ("lr", "-1", "greater than 0")),
        (("--batch-size", 0), ("--batch-size 0", "greater than or equal to 1")),
        (("--batch-size", -5), "--batch-size -5"),
        (("--seed", -1), ("seed", "-1")),
        (("--seed", 2**32), ("seed", "less than")),
        (("--ema", 1), ("ema", "less than 1")),
        (("--patience", 0), ("patience", "greater than or equal to 1")),
        (("--clip-norm", 0), ("--clip-norm", "greater than 0")),
        (("--lr-warmup", -1), "--lr-warmup -1"),
        (("--schedule", "foo"), ("--schedule foo", "cosine")),
        (("--binarize", "foo"), ("--binarize foo", "dynamic")),
        (("--device", "foo"), ("device 'foo'", "auto, cpu or cuda")),
        (("--device", "meta"), ("device 'meta'", "auto, cpu or cuda")),
        (("--device", ""), ("device ''", "auto, cpu or cuda")),
        (("--device", "cuda:99"), ("cuda:99", "--device cpu")),
        (("--epochs", 3), ("--epochs", "--steps", "one of them")),
        (("--resume", "--overwrite"), ("--resume", "--overwrite", "one of them")),
        (("--resume",), ("run", "does not exist")),
        (("--data", "digts"), ("'digts'", "did you mean digits")),
        (("--data", ""), "unknown data set"),
        (("--data", "digits:5"), "fixed size"),
        (("--data", "ring:0"), ("ring:0", "above 0")),
        (("--data", "ring:abc"), ("abc", "ring:5000")),
        (("--data", "ring:300", "--binarize", "static"), ("ring:300", "no grey levels")),
        (("--data", "ring:300", "--set", "likelihood=bernoulli"), ("bernoulli", "likelihood=gaussian")),
        (("--data", "ring:300", "--set", "network=conv"), ("conv", "network=mlp")),
        (("--data", "missing.npz"), ("missing.npz", "does not exist")),
        (("--config", "missing.toml"), ("missing.toml", "No such file")),
        (("--config", "."), "cannot read"),
    ],
)
def test_train_refuses(args, says, elsewhere):
    refused(*VAE, "--out", "run", *args, says=says)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("epochs", [-1, 0, "nan", "inf", "1e308", "1e300"])
def test_train_refuses_epochs(epochs, elsewhere, monkeypatch):
    import probgen.commands.train as commands

    def climb(*_args, **_options):
        raise AssertionError("training began")

    monkeypatch.setattr(commands, "climb", climb)
    refused("train", "vae", "--data", "digits", "--epochs", epochs, "--out", "run", says="epochs")


def test_train_refuses_a_model_that_is_none():
    refused("train", says=("no model", "probgen models"))
    refused("train", "vea", says=("'vea'", "did you mean 'vae'"))
    refused("train", "evil", says=("'evil'", "FILE.py:CLASS"))
    refused("train", "missing.py:MyVAE", says=("no Python file", "missing.py"))
    refused("train", "", says="no model")


def test_options_that_do_not_go_together():
    refused("train", "ppca", "--set", "latent_dim=64", "--out", "run", says=("latent_dim=64", "64 numbers"))
    args = ("--set", "shrinkage=0.1", "--set", "estimator=svi")
    refused("train", "gaussian", *args, "--out", "run", says=("shrinkage", "estimator"))


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
@pytest.mark.parametrize("command", [VAE, ("evaluate", "RUN"), ("sample", "RUN", "--out", "x.png")])
def test_a_gpu_that_is_not_here(command):
    command = [trained("vae") if word == "RUN" else word for word in command]
    refused(*command, "--device", "cuda", says=("'cuda' is not here", "--device cpu"))


# --- --config


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.toml", "steps = ", ("c.toml", ".toml")),
        ("c.json", '{"steps": 1', ("c.json", ".json")),
        ("c.json", "[1]", ("list", "names and values")),
        ("c.toml", "stepz = 3", ("'stepz'", "steps")),
        ("c.toml", "options = 3", ("options", "3", "dictionary")),
        ("c.toml", 'steps = "abc"', ("steps", "abc")),
        ("c.toml", "lr = [1]", "lr"),
        ("c.toml", "[options]\nlatent_dim = -1", ("latent_dim", "-1")),
        ("c.toml", "[options]\nlatnt_dim = 1", "latnt_dim"),
        ("c.toml", "model = 3", "model"),
        ("c.toml", "data = 3", "data"),
        ("c.toml", "data_dir = 3", "--data-dir 3"),
        ("c.toml", "device = [1]", "device"),
        ("c.toml", "binarize = 3", "binariz"),
        ("c.toml", "seed = 1.5", "seed"),
    ],
)
def test_a_configuration_file_that_is_none(name, text, says, elsewhere):
    (elsewhere / name).write_text(text)
    model = () if text.startswith("model") else ("vae",)
    refused("train", *model, "--config", name, "--out", "run", says=says)
    assert [file.name for file in elsewhere.iterdir()] == [name]


def test_a_configuration_file_of_bytes(elsewhere):
    (elsewhere / "c.toml").write_bytes(b"\xff\xfe\x00")
    refused("train", "vae", "--config", "c.toml", says="c.toml")


# --- the words of the other commands


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--num", 0), ("--num 0", "1 to")),
        (("--num", -3), ("--num -3", "1 to")),
        (("--num", 10**12), ("--num 1000000000000", "1 to")),
        (("--num", 10**40), "--num"),
        (("--num", "abc"), ("--num", "integer")),
        (("--temperature", -1), ("--temperature -1", "above 0")),
        (("--temperature", 0), ("--temperature 0", "above 0")),
        (("--temperature", "nan"), ("--temperature nan", "above 0")),
        (("--temperature", "inf"), ("--temperature inf", "above 0")),
        (("--temperature", "warm"), ("--temperature", "number")),
        (("--seed", -1), "--seed"),
        (("--seed", 2**32), "--seed"),
        (("--device", "foo"), ("device 'foo'", "auto, cpu or cuda")),
        (("--model", "ppca"), ("ppca", "vae")),
    ],
)
def test_sample_refuses(args, says, elsewhere):
    refused("sample", trained("vae"), "--out", "x.png", *args, says=says)
    assert list(elsewhere.iterdir()) == []


def test_a_mean_needs_a_code():
    refused("sample", trained("gaussian"), "--mean", "--out", "x.png", says="no latent")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("x.jpg", ("x.jpg", ".png")),
        ("x", ".png"),
        ("", ".png"),
        (".png", ".png"),
        ("missing/x.png", ("no directory", "missing")),
        ("file/x.png", ("file", "directory")),
        ("folder.png", ("folder.png", "directory")),
        ("/proc/x.png", ("cannot write", "/proc/x.png")),
        ("n" * 300 + ".png", "too long"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "reconstruct", "traverse"])
def test_places_that_cannot_be_written(command, out, says, elsewhere):
    (elsewhere / "file").write_text("mine")
    (elsewhere / "folder.png").mkdir()
    refused(command, trained("vae"), "--out", out, says=says)
    assert sorted(file.name for file in elsewhere.iterdir()) == ["file", "folder.png"]
    assert (elsewhere / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["reconstruct", "traverse"])
def test_only_samples_can_be_arrays(command):
    refused(command, trained("vae"), "--out", "x.npz", says=("x.npz", ".png"))


@pytest.mark.parametrize(
    ("command", "args", "says"),
    [
        ("reconstruct", ("--num", 0), ("--num 0", "1 to")),
        ("reconstruct", ("--split", "foo"), ("'foo'", "train, valid or test")),
        ("traverse", ("--num", 0), ("--num 0", "1 to")),
        ("traverse", ("--between", 0, 360), ("--between 0 360", "0 to 359")),
        ("traverse", ("--between", -1, 3), ("--between -1 3", "0 to 359")),
        ("traverse", ("--between", "a", "b"), ("--between", "integer")),
    ],
)
def test_pictures_refuse(command, args, says, elsewhere):
    refused(command, trained("vae"), "--out", "x.png", *args, says=says)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "elbo"])
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--split", "foo"), ("'foo'", "train, valid or test")),
        (("--split", ""), "train, valid or test"),
        (("--particles", 0), ("--particles 0", "1 to")),
        (("--particles", -1), ("--particles -1", "1 to")),
        (("--particles", 10**12), ("--particles", "1 to")),
        (("--particles", "abc"), ("--particles", "integer")),
        (("--num", 0), ("--num 0", "1 to")),
        (("--num", -3), ("--num -3", "1 to")),
        (("--num", 10**12), ("--num", "1 to")),
        (("--seed", -1), "--seed"),
        (("--data-dir", "/nonexistent"), ()),
    ],
)
def test_numbers_refuse(command, args, says):
    if args[0] == "--data-dir":  # digits need none
        from helpers import ok

        ok(command, trained("vae"), *args, "--num", 3)
    else:
        refused(command, trained("vae"), *args, says=says)


def test_an_image_that_is_not_there():
    refused("elbo", trained("vae"), "--index", 360, says=("--index 360", "0 to 359"))
    refused("elbo", trained("vae"), "--index", -1, says=("--index -1", "0 to 359"))
