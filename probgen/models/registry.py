"""Models by name, or from a user's file, and their options: a constructor's keywords are its options."""

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from probgen.errors import UserError
from probgen.models.contracts import Kind

MODELS = {
    "gaussian": "probgen.models.gaussian:MultivariateGaussian",
    "ppca": "probgen.models.ppca:ProbabilisticPCA",
    "autoencoder": "probgen.models.autoencoder:Autoencoder",
    "vae": "probgen.models.vae:VAE",
    "pixelcnn": "probgen.models.pixelcnn:PixelCNN",
    "gated-pixelcnn": "probgen.models.pixelcnn:GatedPixelCNN",
    "row-lstm": "probgen.models.pixelrnn:RowLSTM",
    "diagonal-bilstm": "probgen.models.pixelrnn:DiagonalBiLSTM",
    "raster-lstm": "probgen.models.pixelrnn:RasterLSTM",
    "gan": "probgen.models.gan:GAN",
    "language": "probgen.models.language:LanguageModel",
}
PLAIN_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false"}
DATA_PARAMETERS = ("image_shape", "levels", "num_classes", "vocabulary")  # given by the data, not by the user


@dataclass(frozen=True)
class Option:
    """A constructor's keyword: what `--set name=value` may set."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        """The type as a user reads it: `int`, `mlp|conv`, `int,int,…`."""
        return describe_type(self.annotation)


def describe_type(annotation: Any) -> str:
    """A type annotation in a word."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe_type(arguments[0])
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return "|".join(describe_type(a) for a in arguments if a is not type(None))
    if origin is tuple:
        return describe_type(arguments[0]) + ",…"
    return "any" if annotation is inspect.Parameter.empty else getattr(annotation, "__name__", str(annotation))


def find_class(name: str) -> type:
    """The model class of a registered name, or of `file.py:Class`; the file is executed.

    Raises UserError for an unknown name (with the nearest), a file that fails to load, a class that is not
    there or has no `model` and `guide`.
    """
    if is_user_file(name):
        return class_from_file(name)
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown model {name!r}: {hint}expected one of {', '.join(MODELS)}, or FILE.py:CLASS")
    module, _, attribute = MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_user_file(name: str) -> bool:
    """Whether a model's name is a file's, whose code would be run to find it."""
    return name not in MODELS and ".py" in name


def class_from_file(name: str) -> type:
    """`path/to/file.py:Class`, loaded by running the file."""
    filename, _, class_name = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(filename)
    if not path.is_file() or path.suffix != ".py":
        raise UserError(f"no Python file {filename!r}: expected FILE.py:CLASS, a Python file and a class in it")
    module_name = f"probgen_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename or filename}, line {error.lineno or 0}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((f.lineno for f in frames if Path(f.filename) == path.resolve()), 0)
        raise UserError(f"{filename}, line {line}: {type(error).__name__}: {first_line(error)}") from error
    return pair_class(module, filename, class_name)


def pair_class(module: types.ModuleType, filename: str, class_name: str) -> type:
    """The named class of a loaded file, checked for `model` and `guide`."""
    own = [k for k, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
    found = getattr(module, class_name, None) if class_name else None
    if not inspect.isclass(found):
        came = f"no class {class_name!r} in {filename}" if class_name else f"{filename} came without a class"
        raise UserError(f"{came}: expected FILE.py:CLASS with one of {', '.join(own) or '(it defines no class)'}")
    implicit = getattr(found, "kind", None) == Kind.IMPLICIT  # it has nothing to infer
    for program in ("model",) if implicit else ("model", "guide"):
        if not callable(getattr(found, program, None)):
            raise UserError(f"{class_name} in {filename} has no method {program}(self, x), expected model and guide")
    return found


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), "")


def options_of(cls: type) -> list[Option]:
    """The options of a model class, in the order of its constructor."""
    try:
        signature = inspect.signature(cls, eval_str=True)  # also after `from __future__ import annotations`
    except NameError as error:
        raise UserError(f"{cls.__name__}: an annotation of its constructor cannot be read: {error}") from error
    parameters = signature.parameters.values()
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        Option(p.name, type_of(p), p.default) for p in parameters if p.kind in kinds and p.name not in DATA_PARAMETERS
    ]


def type_of(parameter: inspect.Parameter) -> Any:
    """The annotation; without one the type of the default, where that says something."""
    untyped = parameter.annotation is inspect.Parameter.empty
    by_default = untyped and isinstance(parameter.default, bool | int | float | str)
    return type(parameter.default) if by_default else parameter.annotation


def check_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options in their types; values may come as text (`latent_dim=8`, `hidden=200,200`).

    Raises UserError for an unknown option, a value of another type or range, or one that is missing.
    """
    known = {option.name: option for option in options_of(cls)}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"unknown option {name!r} of {cls.__name__}: {hint}it has {', '.join(known) or 'none'}")
    for option in known.values():
        if option.required and option.name not in options:
            raise UserError(f"option {option.name!r} of {cls.__name__} has no default: give --set {option.name}=…")
    return {name: convert(known[name], value) for name, value in options.items()}


def convert(option: Option, value: Any) -> Any:
    """A value in the type that the option's annotation asks for."""
    if option.annotation is inspect.Parameter.empty:
        return value
    if value in (None, "none", "None") and option.default is None:
        return None
    if isinstance(value, str) and option.type_name.endswith(",…"):
        value = [part for part in value.split(",") if part]
    try:
        return TypeAdapter(option.annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        why = (
            "" if "parsing" in problem["type"] or problem["type"] == "literal_error" else f": {problem['msg'].lower()}"
        )
        expected = PLAIN_NAMES.get(option.type_name, option.type_name)
        raise UserError(f"option {option.name}={value!r} came, expected {expected}{why}") from error


def build(cls: type, image_shape: Sequence[int], levels: int | None, options: Mapping[str, Any], **known: Any) -> Any:
    """A model for data of that shape and number of levels; `known` is what else is, e.g. `num_classes`.

    A constructor is given `image_shape`, `levels` and the rest if it names them. Raises UserError for options that do
    not fit, or for a user's constructor that fails.
    """
    arguments = check_options(cls, options)
    names = inspect.signature(cls).parameters
    if known.get("vocabulary") is not None and "vocabulary" not in names:
        raise UserError(f"{cls.__name__} is no model of text, but the data are: train the model language on them")
    given = {"image_shape": tuple(image_shape), "levels": levels, **known}
    arguments |= {name: value for name, value in given.items() if name in names}
    try:
        return cls(**arguments)
    except UserError:
        raise
    except Exception as error:
        if cls.__module__.startswith("probgen."):
            raise
        raise UserError(f"{cls.__name__}(…) failed: {type(error).__name__}: {first_line(error)}") from error
