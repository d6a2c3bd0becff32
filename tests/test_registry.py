"""Models by name or from a file, and their options as text."""

import os
from typing import Annotated

import pytest
import torch
from pydantic import Field

from probgen.errors import UserError
from probgen.models import VAE, Autoencoder, MultivariateGaussian, ProbabilisticPCA
from probgen.models.registry import MODELS, build, check_options, find_class, is_user_file, options_of

PAIR = """
class {name}:
    def __init__(self{arguments}):
        {body}

    def model(self, x): ...

    def guide(self, x): ...
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text)
    return str(path)


def pair_file(
    folder, arguments="", body="self.given = {k: v for k, v in locals().items() if k != 'self'}", name="Mine"
):
    return write(folder, PAIR.format(name=name, arguments=arguments, body=body)) + f":{name}"


def refusal(function, *args):
    with pytest.raises(UserError) as error:
        function(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


# --- names


def test_every_registered_name_is_its_class():
    ours = {"gaussian": MultivariateGaussian, "ppca": ProbabilisticPCA, "autoencoder": Autoencoder, "vae": VAE}
    found = {name: find_class(name) for name in MODELS}
    assert ours.items() <= found.items()
    assert all(callable(cls.model) and callable(cls.guide) for cls in found.values())


@pytest.mark.parametrize(("typed", "meant"), [("vea", "vae"), ("gausian", "gaussian"), ("autoencodr", "autoencoder")])
def test_an_unknown_name_suggests_the_nearest(typed, meant):
    message = refusal(find_class, typed)
    assert f"unknown model {typed!r}: did you mean {meant!r}?" in message
    assert all(name in message for name in MODELS)


def test_a_name_near_nothing_suggests_nothing():
    assert "did you mean" not in refusal(find_class, "xyzzy")


# --- a user's file


def test_a_users_class_is_found_in_its_file(tmp_path):
    cls = find_class(pair_file(tmp_path))
    assert cls.__name__ == "Mine"
    assert is_user_file("some/where.py:Mine")
    assert not is_user_file("vae")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("x = 1\ndef f(:\n", "Mine", "mine.py, line 2: invalid syntax"),
        ("x = 1\ny = 2\nimport no_such_module\n", "Mine", "mine.py, line 3: ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", "Mine", "mine.py, line 2: ZeroDivisionError"),
        ("class Yours: ...\n", "Mine", "no class 'Mine' in"),
        ("class Yours: ...\n", "", "came without a class"),
        ("Mine = 3\n", "Mine", "(it defines no class)"),
        ("class Mine:\n    def model(self, x): ...\n", "Mine", "has no method guide(self, x)"),
        ("class Mine:\n    def guide(self, x): ...\n", "Mine", "has no method model(self, x)"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_file_that_fails_is_told_in_one_line(tmp_path, monkeypatch, text, name, expected, relative):
    path = write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    path = os.path.relpath(path) if relative else path
    assert expected in refusal(find_class, f"{path}:{name}" if name else path)


def test_a_missing_class_is_told_with_those_that_are_there(tmp_path):
    message = refusal(find_class, write(tmp_path, "class Yours: ...\nclass Theirs: ...\n") + ":Mine")
    assert "Yours, Theirs" in message


def test_a_missing_file_is_told(tmp_path):
    assert "no Python file" in refusal(find_class, str(tmp_path / "absent.py") + ":Mine")


def test_two_files_of_one_name_are_two_classes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write(folder, f"class Mine:\n    number = {number}\n    def model(self, x): ...\n    guide = model\n")
    assert [find_class(f"{folder}/mine.py:Mine").number for folder in folders] == [0, 1]


# --- options


def test_options_are_the_constructors_keywords_without_what_the_data_give():
    options = {option.name: option for option in options_of(VAE)}
    assert list(options)[:3] == ["latent_dim", "network", "hidden"]
    assert not {"self", "image_shape", "levels"} & options.keys()
    assert options["latent_dim"].default == 16
    assert options["latent_dim"].type_name == "int"
    assert options["network"].type_name == "mlp|conv"
    assert options["hidden"].type_name == "int,…"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"latent_dim": "8"}, {"latent_dim": 8}),
        ({"hidden": "200,100"}, {"hidden": (200, 100)}),
        ({"hidden": "200"}, {"hidden": (200,)}),
        ({"hidden": [3, 4]}, {"hidden": (3, 4)}),
        ({"beta": "4"}, {"beta": 4.0}),
        ({"likelihood": "none"}, {"likelihood": None}),
        ({"likelihood": "categorical"}, {"likelihood": "categorical"}),
        ({"network": "conv", "kl": "sampled"}, {"network": "conv", "kl": "sampled"}),
    ],
)
def test_text_becomes_the_type_of_the_option(text, value):
    assert check_options(VAE, text) == value


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("latnt_dim", "8", "unknown option 'latnt_dim' of VAE: did you mean 'latent_dim'?"),
        ("colour", "8", "unknown option 'colour' of VAE: it has latent_dim,"),
        ("image_shape", "8", "unknown option 'image_shape'"),
        ("latent_dim", "eight", "latent_dim='eight' came, expected a whole number"),
        ("latent_dim", "8.5", "latent_dim='8.5' came, expected a whole number"),
        ("latent_dim", "0", "greater than or equal to 1"),
        ("hidden", "200,x", "hidden="),
        ("hidden", "", "at least 1 item"),
        ("hidden", "200,0", "greater than or equal to 1"),
        ("network", "rnn", "network='rnn' came, expected mlp|conv"),
        ("beta", "nan", "finite number"),
        ("beta", "-1", "greater than 0"),
        ("latent_dim", "none", "latent_dim='none' came, expected a whole number"),
    ],
)
def test_an_option_that_does_not_fit_is_told_in_one_line(option, value, expected):
    assert expected in refusal(check_options, VAE, {option: value})


# --- construction


def test_the_constructor_is_given_the_shape_and_levels_of_the_data(tmp_path):
    cls = find_class(pair_file(tmp_path, ", image_shape, levels, depth: int = 2"))
    assert build(cls, [1, 2, 3], 17, {"depth": "5"}).given == {"image_shape": (1, 2, 3), "levels": 17, "depth": 5}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("", {}), (", levels", {"levels": 17}), (", image_shape=None", {"image_shape": (1, 2, 3)})],
)
def test_a_constructor_is_given_only_what_it_names(tmp_path, arguments, given):
    assert build(find_class(pair_file(tmp_path, arguments)), (1, 2, 3), 17, {}).given == given


def test_a_required_option_must_be_given(tmp_path):
    cls = find_class(pair_file(tmp_path, ", depth: int"))
    assert "option 'depth' of Mine has no default: give --set depth=" in refusal(build, cls, (1, 2, 3), 17, {})
    assert build(cls, (1, 2, 3), 17, {"depth": "3"}).given == {"depth": 3}


def test_annotations_that_are_text_are_read_too(tmp_path):
    text = "from __future__ import annotations\n" + PAIR.format(
        name="Mine", arguments=", depth: int = 2, widths: tuple[int, ...] = (1,)", body="self.given = depth, widths"
    )
    cls = find_class(write(tmp_path, text) + ":Mine")
    assert build(cls, (1,), None, {"depth": "5", "widths": "3,4"}).given == (5, (3, 4))


def test_a_users_failing_constructor_is_told_in_one_line(tmp_path):
    cls = find_class(pair_file(tmp_path, body="raise KeyError('two\\nlines')"))
    assert "Mine(…) failed: KeyError" in refusal(build, cls, (1,), None, {})


def test_limits_of_an_annotation_hold_for_a_users_class():
    class Mine:
        def __init__(self, depth: Annotated[int, Field(ge=1)] = 1):
            self.depth = depth

    assert "greater than or equal to 1" in refusal(check_options, Mine, {"depth": "0"})


@pytest.mark.parametrize("name", ["gaussian", "ppca", "autoencoder", "vae"])
def test_every_model_is_built_for_images_and_scores_or_refuses_them(name):
    model = build(find_class(name), (1, 4, 4), 2, {})
    assert (model.image_shape, model.levels) == ((1, 4, 4), 2)
    model.guide(torch.zeros(2, 1, 4, 4))


def test_errors_of_our_own_constructors_pass_through():
    assert "latent_dim=16 came" in refusal(build, ProbabilisticPCA, (1, 4, 4), 2, {"latent_dim": 16})
