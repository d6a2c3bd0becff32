"""How feature networks come by their weights: from the training images alone, the same ones each time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from probgen.console import progress_bar
from probgen.data import Split
from probgen.measures.feature_networks import ImageClassifier, PixelComponents, shrink

EPOCHS = 4
FEWEST_STEPS = 1_000
MOST_IMAGES = 50_000
BATCH = 128
LEARNING_RATE = 3e-3

_CHUNK = 1_000
_SEED = 0


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images of grey 0 … 1 with their labels, by number; with `digits`, each channel is one of its own.

    digits: for each image (n 3) the labels of its channels.
    """

    split: Split
    levels: int
    digits: Int64[Tensor, "n 3"] | None = None

    def __len__(self) -> int:
        return len(self.split) * (1 if self.digits is None else 3)

    def batch(self, numbers: Int64[Tensor, "b"]) -> Float32[Tensor, "b c h w"]:
        """The images of these numbers."""
        if self.digits is None:
            images = self.split.batch(numbers)
        else:
            images = self.split.batch(numbers // 3)[torch.arange(len(numbers)), numbers % 3].unsqueeze(1)
        return images.cpu().float() / (self.levels - 1)

    def labels(self, numbers: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
        """The labels of these numbers."""
        known = self.split.labels if self.digits is None else self.digits.flatten()
        assert known is not None
        return known.cpu()[numbers]


def train_classifier(network: ImageClassifier, train: Pictures, test: Pictures, *, quiet: bool = True) -> float:
    """Maximize Σ log p(label | image) over training images; gives the accuracy on test images.

    Adam for four epochs, or 1,000 steps where these are more, of 128 of at most 50,000 images, the learning rate
    falling from 0.003 to 0 in a straight line.
    """
    with own_randomness():
        for module in (network.first, network.second, network.penultimate, network.last):
            module.reset_parameters()
        chosen = torch.randperm(len(train))[:MOST_IMAGES]
        steps = max(FEWEST_STEPS, EPOCHS * -(-len(chosen) // BATCH))
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        with progress_bar(quiet=quiet) as bar:
            task = bar.add_task("training the feature network", total=steps, terms="")
            for rows in _batches(chosen, steps):
                loss = F.cross_entropy(network(train.batch(rows)), train.labels(rows))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(task, advance=1, terms=f"loss {loss.item():.3f}" if not bar.disable else "")
        network.eval().requires_grad_(False)
        _set_scale(network, train)
        return _accuracy(network, test)


def fit_components(network: PixelComponents, train: Pictures) -> None:
    """Σ = B Λ Bᵀ, the covariance of the pixels of at most 50,000 training images; the largest Λ first."""
    with own_randomness():
        numbers = evenly(len(train), MOST_IMAGES)
        total, squares = torch.zeros_like(network.mean), network.mean.new_zeros(len(network.mean), len(network.mean))
        origin = shrink(train.batch(numbers[:1])).flatten().double()  # near the mean: keeps the digits of squares
        for chunk in numbers.split(_CHUNK):
            pixels: Float64[Tensor, "b p"] = shrink(train.batch(chunk)).flatten(1).double() - origin
            total, squares = total + pixels.sum(dim=0), squares + pixels.T @ pixels
        mean = total / len(numbers)
        _, vectors = torch.linalg.eigh(squares / len(numbers) - mean.outer(mean))  # ascending
        network.mean.copy_(origin + mean)
        network.basis.copy_(vectors.flip(1)[:, : network.basis.shape[1]])
        _set_scale(network, train)


def training_settings() -> tuple[float, ...]:
    """The numbers that the weights depend on."""
    return (EPOCHS, FEWEST_STEPS, MOST_IMAGES, BATCH, LEARNING_RATE, _SEED)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Draw from a stream of one's own on the CPU; torch's generator is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


def _batches(numbers: Int64[Tensor, "n"], steps: int) -> Iterator[Int64[Tensor, "b"]]:
    """So many batches, in a new order each epoch."""
    while True:
        for batch in numbers[torch.randperm(len(numbers))].split(BATCH):
            if steps == 0:
                return
            steps -= 1
            yield batch


def _set_scale(network: ImageClassifier | PixelComponents, train: Pictures) -> None:
    """scale = (mean over features of their variance over 10,000 training images)^-½; 1 where nothing varies."""
    with torch.no_grad():
        features = [network.features(train.batch(c)) for c in evenly(len(train), 10_000).split(_CHUNK)]
        variance = torch.cat(features).var(dim=0, correction=0).mean()
        if variance > 0:
            network.scale.copy_(variance.rsqrt())


def _accuracy(network: ImageClassifier, test: Pictures) -> float:
    right = 0
    with torch.no_grad():
        for chunk in torch.arange(len(test)).split(_CHUNK):
            right += int((network(test.batch(chunk)).argmax(dim=1) == test.labels(chunk)).sum())
    return right / len(test)


def evenly(count: int, most: int) -> Int64[Tensor, "n"]:
    """At most so many numbers below count, at even distances."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most
