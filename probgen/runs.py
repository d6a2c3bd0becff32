"""A run directory: all that is known of one training run, in files that hold data and no code.

config.json          the configuration, as text
weights.safetensors  the weights to use
checkpoint.pt        all that the next training step depends on (read with weights_only=True)
metrics.jsonl        one record a line: training terms, validation terms
tensorboard/         the same for TensorBoard
pictures/            samples, reconstructions, curve
"""

import fcntl
import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from probgen.errors import UserError
from probgen.files import make_directory, remove_temporaries, write_atomic
from probgen.models.registry import build, find_class, is_user_file
from probgen.version import __version__

OUR_FILES = ("checkpoint.pt", "weights.safetensors", "metrics.jsonl", "config.json")
OUR_PICTURES = ("samples.png", "samples.txt", "reconstructions.png", "curve.png", "field.png", "training.gif")
FRAMES = "frames"  # of the film, in the folder of pictures
OUR_EVENTS = "events.out.tfevents.*"
LOCK = ".lock"


class RunConfig(BaseModel):
    """What determines a run: the same configuration gives the same weights on the same machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str = __version__
    model: str
    options: dict[str, Any] = {}
    data: str
    data_dir: str | None = None
    binarize: Literal["none", "static", "dynamic", "threshold"] = "none"
    image_shape: tuple[int, ...] = Field(min_length=1, max_length=3)
    levels: int | None = Field(default=None, ge=2)
    num_classes: int | None = Field(default=None, ge=1)
    vocabulary: tuple[str, ...] | None = None
    epochs: float | None = Field(default=None, gt=0, le=1e6)
    steps: int = Field(ge=1, le=10**12)
    batch_size: int = Field(default=128, ge=1, le=10**9)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_warmup: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    ema: float | None = Field(default=None, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "cpu"
    devices: int = Field(default=1, ge=1, le=10**6)
    num_nodes: int = Field(default=1, ge=1, le=10**6)
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: Literal["auto", "on", "off"] = "auto"
    animate: bool = False

    @property
    def num_processes(self) -> int:
        """One for each device of each host."""
        return self.devices * self.num_nodes


class Run:
    """An opened run directory."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config

    @property
    def pictures(self) -> Path:
        """Where pictures go."""
        return self.path / "pictures"

    def check_free(self, *, overwrite: bool) -> None:
        """Raise UserError where a run is already (without `overwrite`), or something that is none."""
        path = self.path
        if path.is_dir() and all(entry.name == LOCK for entry in path.iterdir()):
            return
        if path.exists() and not (path / "config.json").is_file():
            raise UserError(f"{path} exists and is no run directory: choose another --out")
        if path.exists() and not overwrite:
            raise UserError(
                f"{path} holds a run: go on with --resume, replace it with --overwrite, or choose another --out"
            )

    def begin(self, *, overwrite: bool) -> None:
        """Make it a new run, of which only the configuration is known; a former run's own files go."""
        self.check_free(overwrite=overwrite)
        clear(self.path)
        self.write_config()
        make_directory(self.pictures)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run. Raises UserError when the directory or its configuration is not one."""
        file = path / "config.json"
        if not file.is_file():
            came = "is no run directory (it has no config.json)" if path.is_dir() else "does not exist"
            came = "is a file, no run directory" if path.is_file() else came
            raise UserError(f"{path} {came}: give the directory of `probgen train --out`")
        try:
            return cls(path, RunConfig.model_validate_json(file.read_bytes()))
        except ValidationError as error:
            problem = error.errors()[0]
            place = "".join(f" at {name}" for name in problem["loc"])
            raise UserError(f"{file} is damaged{place}: {problem['msg'].lower()}") from error
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error

    def write_config(self) -> None:
        """Write config.json."""
        write_atomic(self.path / "config.json", (self.config.model_dump_json(indent=2) + "\n").encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing. Raises UserError when another process does."""
        make_directory(self.path)
        try:
            lock = open(self.path / LOCK, "w")  # noqa: SIM115  closed below
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"another process is training in {self.path}: wait for it, or choose another --out"
                ) from error
            for folder in (self.path, self.pictures):
                remove_temporaries(folder, (*OUR_FILES, *OUR_PICTURES))
            yield

    # --- weights and checkpoints

    def save_weights(self, weights: dict[str, Tensor]) -> None:
        """Write weights.safetensors."""
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        write_atomic(self.path / "weights.safetensors", save(tensors))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path / "checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, None if there is none yet. Executes nothing (weights_only).

        Raises UserError for a file that is damaged or holds more than tensors and plain values.
        """
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(f"{file} is refused: it is damaged, or holds more than tensors and plain values") from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{file} is damaged: restore it, or train anew with --overwrite") from error
        if not isinstance(state, dict):
            raise UserError(f"{file} is damaged: it holds a {type(state).__name__}; restore it, or train anew")
        return state

    def check_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of weights.safetensors. Raises UserError when they are not the model's."""
        file = self.path / "weights.safetensors"
        if not file.is_file():
            raise UserError(
                f"{self.path} has no weights yet (no weights.safetensors): go on with probgen train --resume"
            )
        try:
            with safe_open(file, framework="pt") as tensors:
                check_shapes(file, tensors, model)
                return {name: tensors.get_tensor(name) for name in model.state_dict()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}): restore it, or train anew") from error

    def load_weights(self, model: nn.Module) -> None:
        """Put weights.safetensors into a model. Raises UserError when it does not fit or is no number."""
        weights, file = self.check_weights(model), self.path / "weights.safetensors"
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise UserError(f"{file}: {name!r} holds nan or infinite numbers: restore it, or train anew")
        model.load_state_dict(weights)

    # --- metrics

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        try:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, up to the first line that is none: a kill may have cut off the last."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        records = []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if not is_record(record):
                break
            records.append(record)
        return records

    def rewind_metrics(self, step: int) -> None:
        """Drop the records after a step, which will be made again."""
        kept = [json.dumps(r) + "\n" for r in self.read_metrics() if r.get("step", 0) <= step]
        write_atomic(self.path / "metrics.jsonl", "".join(kept).encode())


def is_record(record: Any) -> bool:
    """Whether a line of metrics.jsonl is what this package writes: a step, a split, and numbers."""
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return False
    return record.get("split") in ("train", "valid") and all(
        isinstance(v, int | float) for k, v in record.items() if k != "split"
    )


def check_shapes(file: Path, tensors: Any, model: nn.Module) -> None:
    """The file's tensors are the model's, by name and shape; checked before any is read."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    came = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    for name in sorted(came.keys() ^ expected.keys()):
        side = "is missing from" if name in expected else "is of another model than config.json says, found in"
        raise UserError(f"weights do not fit: {name!r} {side} {file}")
    for name, shape in expected.items():
        if came[name] != shape:
            raise UserError(f"weights do not fit: {name!r} in {file} has shape {came[name]}, expected {shape}")


def clear(path: Path) -> None:
    """Delete a run's own files, and only those: whatever else lies there stays."""
    ours = [path / name for name in OUR_FILES]
    ours += [path / "pictures" / name for name in OUR_PICTURES]
    ours += (path / "pictures" / FRAMES).glob("[0-9]*.png")
    ours += (path / "tensorboard").glob(OUR_EVENTS)
    try:
        for file in ours:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot clear {path}: {error.strerror}") from error


def build_model(config: RunConfig, model: str | None = None) -> Any:
    """The model of a configuration, with fresh weights.

    A run of a user's own class names it, but never runs its file by itself: `model`, `FILE.py:CLASS`, must be
    given again. Raises UserError when it is not, or is another class.
    """
    if is_user_file(config.model):
        if model is None:
            raise UserError(
                f"this run's model is {config.model}; a run executes no code by itself: add --model {config.model}"
            )
        if model.rpartition(":")[2] != config.model.rpartition(":")[2]:
            raise UserError(f"--model {model} came, but the run was trained with {config.model}")
    elif model is not None and model != config.model:
        raise UserError(f"--model {model} came, but the run was trained with {config.model}")
    known = {"num_classes": config.num_classes, "vocabulary": config.vocabulary}
    return build(find_class(model or config.model), config.image_shape, config.levels, config.options, **known)


def load(path: str | Path, model: str | None = None, *, device: str = "cpu") -> Any:
    """The trained model of a run directory, in `eval()` mode. Executes no code from the directory.

    model: `FILE.py:CLASS` for a run of a user's own class. Raises UserError for a directory that is no run,
    is incomplete or damaged.
    """
    run = Run.open(Path(path))
    if not is_user_file(run.config.model):
        with torch.device("meta"):  # takes no memory: a damaged configuration may ask for any amount
            run.check_weights(build_model(run.config, model))
    built = build_model(run.config, model)
    run.load_weights(built)
    return built.to(device).eval()
