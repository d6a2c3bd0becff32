"""From flags, `--set` and `--config` to a run's configuration, new or continued."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from probgen.commands.common import choose_device
from probgen.data import DATASET_NAMES, TEXT_LEVELS, ImageData
from probgen.errors import UserError
from probgen.inference.batches import BatchOrder
from probgen.inference.fit import steps_of
from probgen.models.registry import check_options, find_class, is_user_file, options_of
from probgen.runs import RunConfig, build_model

DEFAULT_EPOCHS = 50
FROM_DATA = ("format", "version", "image_shape", "levels", "num_classes", "vocabulary")  # known once the data are read


def gather(
    model: str | None, flags: Mapping[str, Any], sets: Sequence[str], config: Path | None
) -> tuple[str | None, dict[str, Any]]:
    """The model's name and the fields that were given: by the file, then by flags, which go before."""
    given = read_config(config) if config is not None else {}
    options = {**given.pop("options", {}), **parse_sets(sets)}
    from_file = given.pop("model", None)
    flags = {key: value for key, value in flags.items() if value is not None}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in flags and other not in flags:
            given.pop(other, None)
    given = check_fields(given | flags)
    return model or from_file, given | ({"options": options} if options else {})


def parse_sets(sets: Sequence[str]) -> dict[str, str]:
    """`["latent_dim=8", …]` as a mapping. Raises UserError for one without an equals sign, or twice."""
    options: dict[str, str] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise UserError(f"--set {text} came, expected --set OPTION=VALUE")
        if name in options:
            raise UserError(f"--set {name} came twice, expected once")
        options[name] = value.strip()
    return options


def read_config(path: Path) -> dict[str, Any]:
    """A .toml or .json file with fields of `RunConfig` (a run's own config.json will do)."""
    try:
        text = path.read_text()
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no {path.suffix or '.toml'} file: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} holds a {type(fields).__name__}, expected names and values")
    if unknown := fields.keys() - RunConfig.model_fields.keys():
        known = ", ".join(RunConfig.model_fields)
        raise UserError(f"{path}: unknown field {sorted(unknown)[0]!r}, expected any of {known}")
    fields = {key: value for key, value in fields.items() if key not in FROM_DATA and value is not None}
    if "epochs" in fields:
        fields.pop("steps", None)  # a run's own config.json has both: the one was counted from the other
    return check_fields(fields)


def check_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in their types. Raises UserError, naming the flag, for one of another type or range."""
    checked = {}
    for name, value in fields.items():
        field = RunConfig.model_fields[name]
        kind: Any = Annotated[(field.annotation, field, *field.metadata)]
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            checked[name] = adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].lower().removeprefix("input should be ")
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {value} came, expected it to be {problem}") from error
    return checked


def new_config(model: str, given: Mapping[str, Any], data: ImageData) -> RunConfig:
    """The configuration of a new run: what was given, the data's shape, defaults for the rest.

    Raises UserError for what does not go together, options that the model lacks, or a model that is no module.
    """
    if given.get("steps") is not None and given.get("epochs") is not None:
        raise UserError("both --epochs and --steps came, expected one of them")
    fields = {"data": "digits", **given, "model": model} | data.facts
    fields |= {name: lasting(fields[name]) for name in ("data", "data_dir") if fields.get(name)}
    fields["device"] = str(choose_device(given.get("device", "auto")))
    cls = find_class(model)
    defaults = {option.name: option.default for option in options_of(cls)}
    fields["options"] = as_data(defaults | check_options(cls, given.get("options", {})))
    if fields.get("steps") is None:
        fields.setdefault("epochs", DEFAULT_EPOCHS)
        order = BatchOrder(len(data.train), fields.get("batch_size", RunConfig.model_fields["batch_size"].default), 0)
        fields["steps"] = max(1, order.steps_for(fields["epochs"]))
    config = RunConfig(**fields)
    built = build_model(config, model)
    if not isinstance(built, nn.Module):
        raise UserError(f"{type(built).__name__} is no torch.nn.Module: make it one, so that its weights can be saved")
    return config if given.get("steps") else config.model_copy(update={"steps": steps_of(built, config.steps)})


def lasting(place: str) -> str:
    """A path as an absolute one, so that the run finds its data from anywhere; a data set's name as it is."""
    file, _, level = place.rpartition(":")
    if level in TEXT_LEVELS and Path(file).is_file():
        return f"{Path(file).resolve()}:{level}"
    named = place.partition(":")[0] in DATASET_NAMES
    return place if named or not Path(place).exists() else str(Path(place).resolve())


def continued(config: RunConfig, model: str | None, given: Mapping[str, Any], out: Path) -> RunConfig:
    """A run's own configuration; what is given again must agree with it, but for devices, compiling, the data's place.

    Raises UserError where it does not, or where a user's own class is not named again.
    """
    if is_user_file(config.model) and model is None:
        again = f"probgen train {config.model} --out {out} --resume"
        raise UserError(f"a run executes no code by itself, and this one's model is a file: name it again, {again}")
    wanted = {k: v for k, v in given.items() if v is not None}
    if model is not None and not is_user_file(model):
        wanted["model"] = model
    free = {"data_dir", "device", "devices", "num_nodes", "strategy", "compile"}
    if wanted.get("device") == "auto":
        wanted.pop("device")
    for name, value in wanted.items():
        recorded = getattr(config, name)
        if name == "data":
            value = lasting(str(value))
        elif name == "options":
            value = as_data(check_options(find_class(model or config.model), value))
            recorded = {k: recorded.get(k) for k in value}
        if name not in free and value != recorded:
            raise UserError(
                f"--resume with {name}={value} came, but the run has {name}={recorded}: leave it out, or train anew"
            )
    config = config.model_copy(update={k: wanted[k] for k in free & wanted.keys()})
    needs_none = config.num_processes == 1 and "strategy" not in wanted  # there were several processes before
    return config.model_copy(update={"strategy": "auto"}) if needs_none else config


def as_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a configuration file holds them; a default that is no plain value stays the code's own."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return {k: v for k, v in plain.items() if isinstance(v, str | int | float | list | None)}
