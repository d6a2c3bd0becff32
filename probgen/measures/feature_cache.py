"""Feature networks in files, so that each is trained once: numbers and texts only, loading them runs no code."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from probgen.data import DATASET_NAMES, ImageData, Split
from probgen.errors import UserError
from probgen.files import make_directory, write_atomic
from probgen.measures.feature_networks import VERSION
from probgen.measures.feature_training import evenly, own_randomness, training_settings

_MOST_IMAGES = 10_000
_CHUNK = 1_000
# What a damaged file raises on the way to its weights.
_DAMAGE = (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError)


def default_cache_dir() -> Path:
    """`probgen/features` in XDG_CACHE_HOME (an absolute path) or in ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "")  # the XDG specification: ignore a relative one
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "probgen" / "features"


def cache_key(data: ImageData) -> str:
    """SHA-256 of what a feature network depends on: images, labels, levels, binarization, name, architecture, training.

    Of each split up to 10,000 images at even distances, and all labels. Another file of the same name has another key.
    """
    name = data.name if data.name.partition(":")[0] in DATASET_NAMES else str(Path(data.name).expanduser().resolve())
    facts = [VERSION, *training_settings(), name, data.binarize, data.levels, data.image_shape, data.factor_names]
    digest = hashlib.sha256(json.dumps(facts).encode())
    with own_randomness():
        for split in (data.train, data.test):
            for part in _bytes_of(split):
                digest.update(part)
    return digest.hexdigest()


def cache_file(data: ImageData, key: str, directory: Path) -> Path:
    """Where the network of these data lies."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(data.name).name)[-40:].strip("-")
    return directory / f"{slug}-{key[:32]}.safetensors"


def load_network(file: Path, key: str, module: nn.Module) -> float | None:
    """Put cached weights into a module, and give the accuracy with them; None where there is no sound file."""
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata()
            weights = {name: tensors.get_tensor(name) for name in module.state_dict()}
        sound = metadata["key"] == key and metadata["sha256"] == checksum(weights, key, metadata["accuracy"])
        if not sound or not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            return None
        module.load_state_dict(weights)
        module.eval().requires_grad_(False)
        return float(metadata["accuracy"])
    except _DAMAGE:
        return None


def store_network(file: Path, key: str, module: nn.Module, accuracy: float) -> None:
    """Keep a network for the next time; where nothing can be written, there is none."""
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}
    metadata = {"key": key, "accuracy": repr(accuracy), "sha256": checksum(weights, key, repr(accuracy))}
    try:
        make_directory(file.parent)
        write_atomic(file, save(weights, metadata))
    except UserError:
        pass


def checksum(weights: dict[str, Tensor], *texts: str) -> str:
    """SHA-256 of the numbers and what is said of them: a flipped bit in the file is found."""
    digest = hashlib.sha256("\n".join(texts).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy(force=True).tobytes())
    return digest.hexdigest()


def _bytes_of(split: Split) -> Iterator[bytes]:
    """What the key knows of a split."""
    yield str(len(split)).encode()
    for rows in evenly(len(split), _MOST_IMAGES).split(_CHUNK):
        yield split.batch(rows).cpu().contiguous().numpy().tobytes()
    if split.labels is not None:
        yield split.labels.cpu().contiguous().numpy().tobytes()
