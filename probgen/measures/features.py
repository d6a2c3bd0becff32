"""Feature networks of our own: what images are compared in, always with a name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from torch import Tensor

from probgen.data import ImageData, Split
from probgen.data.stacked import STACKED_FACTORS
from probgen.errors import UserError
from probgen.measures.feature_cache import (
    cache_file,
    cache_key,
    checksum,
    default_cache_dir,
    load_network,
    store_network,
)
from probgen.measures.feature_networks import NUM_FEATURES, ImageClassifier, PixelComponents
from probgen.measures.feature_training import Pictures, fit_components, own_randomness, train_classifier
from probgen.measures.modes import is_stacked

MOST_CLASSES = 1_000

_CHUNK_IMAGES = 1_000


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A map from images to features, and its name, without which a distance between features means nothing.

    name: e.g. `classifier of digits, test accuracy 98.9 %`.
    module: the network; None where the features are the points themselves.
    levels: grey levels of the images, None for points.
    channelwise: each channel is an image of its own to the network, and the results stand side by side.
    identity: eight hexadecimal digits of the weights' SHA-256; training elsewhere may give slightly other ones.
    """

    name: str
    module: ImageClassifier | PixelComponents | None
    levels: int | None
    channelwise: bool = False
    identity: str | None = None

    def features(self, images: Shaped[Tensor, "n ..."]) -> Float64[Tensor, "n f"]:
        """The features of images of grey levels, scaled to a mean variance of 1 over what trained; or the points.

        Raises UserError for images of another shape.
        """
        if self.module is None:
            return images.detach().cpu().double()
        return self._apply(self.module.features, images)

    def logits(self, images: Shaped[Tensor, "n c h w"]) -> Float32[Tensor, "n k"]:
        """The classifier's logits, of a channelwise one those of each channel: k = classes · channels.

        Raises UserError for images of another shape, and where there is no classifier.
        """
        if not isinstance(self.module, ImageClassifier):
            raise UserError(f"logits of {self.name} were asked for: only a classifier of labelled images has them")
        return self._apply(self.module, images)

    def _apply(self, function: Callable[[Tensor], Tensor], images: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n f"]:
        """A function of images of grey 0 … 1, in chunks."""
        assert self.module is not None
        assert self.levels is not None
        channels, *size = self.module.image_shape
        if images.ndim != 4 or list(images.shape[2:]) != size or not (self.channelwise or images.shape[1] == channels):
            expected = ", ".join(map(str, ("c" if self.channelwise else channels, *size)))
            raise UserError(f"images of shape {tuple(images.shape)} came, expected (n, {expected})")
        parts = []
        with torch.no_grad():
            for chunk in images.detach().cpu().split(_CHUNK_IMAGES):
                single = chunk.reshape(-1, 1, *size) if self.channelwise else chunk
                parts.append(function(single.float() / (self.levels - 1)).reshape(len(chunk), -1))
        return torch.cat(parts)


def feature_network(data: ImageData, cache_dir: Path | None = None, *, quiet: bool = True) -> FeatureNetwork:
    """What images of these data are compared in: trained on their training images, or taken from the cache.

    Labelled images: the last layer but one of a small convolutional classifier, 64 features; of `stacked-mnist` it
    tells the digit of one channel, and the features of the three stand side by side. Images without labels (or with
    more than 1,000 classes): the first 64 principal components of the pixels. Points: the points themselves.

    The weights are the same each time on the same machine, and torch's generator is left alone. Their file has the
    data's own checksum in its name; a damaged one is trained anew, and where none can be written, nothing is kept.

    Raises:
        UserError: texts.
    """
    if data.vocabulary is not None:
        raise UserError(f"{data.name} holds texts: features are of images and of points")
    if data.levels is None:
        return FeatureNetwork("the points themselves", None, None)
    key = cache_key(data)
    file = cache_file(data, key, default_cache_dir() if cache_dir is None else cache_dir)
    # Whatever the caller is in: even weights that are to be replaced are drawn, and training needs gradients.
    with own_randomness(), torch.inference_mode(False), torch.enable_grad():
        module = untrained_network(data)
        accuracy = load_network(file, key, module)
        if accuracy is None:
            accuracy = _train(module, data, quiet)
            store_network(file, key, module, accuracy)
    identity = checksum(module.state_dict())[:8]
    return FeatureNetwork(_name(module, data, accuracy), module, data.levels, is_stacked(data), identity)


def untrained_network(data: ImageData) -> ImageClassifier | PixelComponents:
    """The architecture for these images."""
    channels, height, width = data.image_shape
    if is_stacked(data):
        return ImageClassifier((1, height, width), 10)
    classes = 0 if data.train.labels is None or data.test.labels is None else data.num_classes or 0
    if 2 <= classes <= MOST_CLASSES:
        return ImageClassifier((channels, height, width), classes)
    network = PixelComponents((channels, height, width), 1)
    return PixelComponents(network.image_shape, max(1, min(NUM_FEATURES, len(network.mean), len(data.train) - 1)))


def read_rows(split: Split, rows: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
    """The images of these rows as a model sees them, a dynamic binarization always drawn alike."""
    with own_randomness():
        return split.batch(rows).cpu()


def _train(module: ImageClassifier | PixelComponents, data: ImageData, quiet: bool) -> float:
    """Give it its weights; gives the test accuracy, nan where it has none."""
    assert data.levels is not None
    train, test = (Pictures(split, data.levels, _digits(split, data)) for split in (data.train, data.test))
    if isinstance(module, ImageClassifier):
        return train_classifier(module, train, test, quiet=quiet)
    fit_components(module, train)
    return float("nan")


def _digits(split: Split, data: ImageData) -> Int64[Tensor, "n 3"] | None:
    if not is_stacked(data):
        return None
    assert split.factors is not None
    return torch.stack([split.factors[name].cpu() for name in STACKED_FACTORS], dim=1)


def _name(module: ImageClassifier | PixelComponents, data: ImageData, accuracy: float) -> str:
    binarized = "" if data.binarize == "none" else f" ({data.binarize} binarization)"
    if isinstance(module, PixelComponents):
        return f"first {module.basis.shape[1]} principal components of the pixels of {data.name}{binarized}"
    what = f"the digits of {data.name}" if is_stacked(data) else data.name
    return f"classifier of {what}{binarized}, test accuracy {accuracy:.1%}".replace("%", " %")
