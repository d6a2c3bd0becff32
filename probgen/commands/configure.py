"""From flags, `--set` and `--config` to the fields of a run's configuration."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probgen.errors import UserError
from probgen.runs import RunConfig

FROM_DATA = ("format", "version", "image_shape", "levels")  # known once the data are read


def gather(
    model: str | None, flags: Mapping[str, Any], sets: Sequence[str], config: Path | None
) -> tuple[str | None, dict[str, Any]]:
    """The model's name and the fields that were given: by the file, then by flags, which go before."""
    given = read_config(config) if config is not None else {}
    options = {**given.pop("options", {}), **parse_sets(sets)}
    name = model or given.pop("model", None)
    given.pop("model", None)
    flags = {key: value for key, value in flags.items() if value is not None}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in flags and other not in flags:
            given.pop(other, None)
    given |= flags
    return name, given | ({"options": options} if options else {})


def parse_sets(sets: Sequence[str]) -> dict[str, str]:
    """`["latent_dim=8", …]` as a mapping. Raises UserError for one without an equals sign, or twice."""
    options: dict[str, str] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text} came, expected --set OPTION=VALUE")
        if name in options:
            raise UserError(f"--set {name} came twice, expected once")
        options[name.strip().replace("-", "_")] = value.strip()
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
        raise UserError(
            f"{path}: unknown field {sorted(unknown)[0]!r}, expected any of {', '.join(RunConfig.model_fields)}"
        )
    fields = {key: value for key, value in fields.items() if key not in FROM_DATA and value is not None}
    if "epochs" in fields:
        fields.pop("steps", None)  # a run's own config.json has both: the one was counted from the other
    if not isinstance(fields.get("options", {}), dict):
        raise UserError(f"{path}: options came as {fields['options']!r}, expected a table of names and values")
    return fields
