"""All measures that apply to the samples of a model, each with its protocol."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probgen.data import ImageData, Split
from probgen.errors import UserError
from probgen.measures.features import FeatureNetwork, feature_network, read_rows
from probgen.measures.frechet import frechet_distance, kernel_distance
from probgen.measures.manifold import NEIGHBOURS, SHARE_ERROR, precision_recall, share_error
from probgen.measures.modes import ModeReport, count_modes, count_stacked_modes, digit_law, is_stacked
from probgen.measures.two_sample import two_sample_test

Better = Literal["higher", "lower", "0.5"]

MOST_SAMPLES = 10_000
FEWEST_SAMPLES = 50


@dataclass(frozen=True)
class Measure:
    """A number about samples, and what it is.

    value, stderr: the number and its standard error, None where there is none; how it is meant is in the protocol.
    better: in which direction samples are nearer to the data.
    protocol: method, source, features, numbers of samples and of real images.
    """

    name: str
    value: float
    stderr: float | None
    better: Better
    protocol: str

    def __str__(self) -> str:
        """`precision 0.973 ± 0.009`."""
        error = "" if self.stderr is None else f" ± {self.stderr:.2g}"
        return f"{self.name} {self.value:.4g}{error}"


@dataclass(frozen=True)
class Judgement:
    """The measures of one set of samples, in a fixed order.

    features: the name of the feature network under all measures but those of modes.
    num_samples, num_real: how many were compared in these features; the modes' protocol tells its own number.
    """

    measures: tuple[Measure, ...]
    features: str
    num_samples: int
    num_real: int

    def __getitem__(self, name: str) -> Measure:
        """The measure of a name. Raises KeyError."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Name → value, stderr, better and protocol; beside them `features`, `num_samples` and `num_real`."""
        keys = ("value", "stderr", "better", "protocol")
        record: dict[str, Any] = {m.name: {key: getattr(m, key) for key in keys} for m in self.measures}
        return record | {"features": self.features, "num_samples": self.num_samples, "num_real": self.num_real}


def judge_samples(
    samples: Shaped[Tensor, "..."] | np.ndarray,
    data: ImageData,
    *,
    split: str = "test",
    num: int = MOST_SAMPLES,
    seed: int = 0,
    quiet: bool = True,
    features: FeatureNetwork | None = None,
) -> Judgement:
    """Compare samples with as many real images (points) of a split.

    Where the modes of the data are known (ring, grid, stacked-mnist): `modes`, `share_within` (points only) and
    `kl_modes`, of all samples. For all data: `frechet_distance`, `kernel_distance`, `precision`, `recall` and
    `c2st`, on features of images (`feature_network`) or on the points themselves.

    Args:
        samples: images as whole grey levels 0 … levels-1, `n c h w` of any dtype; or points `n 2`.
        data: what the model was trained on.
        split: `train`, `valid` or `test`: where the real images come from.
        num: at most so many samples and real images are compared, drawn without replacement by `seed`; fewer where
            there are fewer samples or the split has fewer images.
        quiet: no progress bar while a feature network is trained.
        features: compare in these features; by default `feature_network(data)`.

    Raises:
        UserError: texts; samples of another shape than the data, with nan, of broken or impossible grey levels, or
            fewer than 50; an unknown split, or one with fewer than 50 images.
    """
    check_data(data, split, num)
    samples = check_samples(samples, data)
    rows: Split = getattr(data, split)
    network = feature_network(data, quiet=quiet) if features is None else features
    count = min(num, len(samples), len(rows))
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = samples[draw_rows(generator, len(samples), count)]
    real = read_rows(rows, draw_rows(generator, len(rows), count))
    measures = _modes(samples, data, network)
    measures += _comparison(network.features(chosen), network.features(real), _protocol(network, data, split, count))
    return Judgement(tuple(measures), network.name, count, count)


def reference(
    data: ImageData,
    *,
    split: str = "test",
    num: int = MOST_SAMPLES,
    seed: int = 0,
    quiet: bool = True,
    features: FeatureNetwork | None = None,
) -> Judgement:
    """The same measures of real training images in place of samples: the scale for reading those of a model.

    At most `num` training images, drawn without replacement; otherwise, and in its errors, as `judge_samples`. A
    classifier has trained on these very images, and where train and test differ, as in MNIST, so does this scale from
    no difference at all. Raises UserError for `train`, too, which would be compared with itself.
    """
    check_data(data, split, num)
    if split == "train":
        raise UserError("training images were to be compared with themselves: choose the split valid or test")
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    train = read_rows(data.train, draw_rows(generator, len(data.train), min(num, len(data.train))))
    return judge_samples(train, data, split=split, num=num, seed=seed, quiet=quiet, features=features)


def check_data(data: ImageData, split: str, num: int) -> None:
    """Raise UserError for what samples cannot be compared with."""
    if data.vocabulary is not None:
        raise UserError(f"{data.name} holds texts: samples are judged of images and of points")
    if split not in ("train", "valid", "test"):
        raise UserError(f"split {split!r} came, expected train, valid or test")
    count = len(getattr(data, split))
    if count < FEWEST_SAMPLES:
        raise UserError(
            f"the {split} split of {data.name} holds {count} images, at least {FEWEST_SAMPLES} are needed to judge "
            "samples: choose another split, or a larger data set"
        )
    if num < FEWEST_SAMPLES:
        raise UserError(f"num = {num} came, expected at least {FEWEST_SAMPLES} samples to judge")


def check_samples(samples: Shaped[Tensor, "..."] | np.ndarray, data: ImageData) -> Shaped[Tensor, "n ..."]:
    """The samples as float32 points, or as uint8 (of more than 256 levels: int64) images. Raises UserError."""
    samples = torch.as_tensor(samples).detach().cpu()
    came, expected = tuple(samples.shape), ", ".join(map(str, data.image_shape))
    if came[1:] != data.image_shape or not came:
        raise UserError(f"samples of shape {came} came, expected (n, {expected}) as in {data.name}")
    if len(samples) < FEWEST_SAMPLES:
        raise UserError(f"{len(samples)} samples came, expected at least {FEWEST_SAMPLES} to judge: draw more")
    if not torch.isfinite(samples).all():
        raise UserError("samples with nan or infinite numbers came: the model that drew them is broken")
    if data.levels is None:
        return samples.float()
    low, high = float(samples.min()), float(samples.max())
    if low < 0 or high > data.levels - 1 or bool((samples != samples.round()).any()):
        raise UserError(
            f"samples from {low:g} to {high:g} came, expected whole grey levels 0 … {data.levels - 1} as in {data.name}"
        )
    return samples.to(torch.uint8 if data.levels <= 256 else torch.int64)


def draw_rows(generator: np.random.Generator, size: int, count: int) -> Tensor:
    """`count` different row numbers below `size`, at random."""
    return torch.from_numpy(generator.permutation(size)[:count])


def _modes(samples: Tensor, data: ImageData, network: FeatureNetwork) -> list[Measure]:
    """What is known of modes, if anything is."""
    if data.modes is not None:
        report = count_modes(samples.float(), data.modes)
    elif is_stacked(data) and network.channelwise:
        report = count_stacked_modes(samples, network, digit_law(data))
    else:
        return []
    return mode_measures(report)


def mode_measures(report: ModeReport) -> list[Measure]:
    """The numbers of a report on modes as measures."""
    measures = [Measure("modes", float(report.covered), None, "higher", report.protocol)]
    if report.share_within is not None:
        measures.append(Measure("share_within", report.share_within, report.share_stderr, "higher", report.protocol))
    return [*measures, Measure("kl_modes", report.kl, None, "lower", report.protocol)]


def _comparison(samples: Float[Tensor, "n f"], real: Float[Tensor, "n f"], protocol: str) -> list[Measure]:
    """The measures of two equally large sets of features."""
    distance, kernel = frechet_distance(samples, real), kernel_distance(samples, real)
    manifold, test = precision_recall(samples, real), two_sample_test(samples, real)
    ball = f"the distance to its {NEIGHBOURS}rd nearest neighbour (Kynkäänniemi et al. 2019)"
    precision, recall = (
        f"share of samples as near to a real one as {ball}",
        f"share of real ones as near to a sample as {ball}",
    )
    counted = f"{SHARE_ERROR}, the other set held fixed; {protocol}"
    return [
        Measure(
            "frechet_distance",
            distance,
            None,
            "lower",
            f"Fréchet distance (the FID of Heusel et al. 2017, but not on the Inception network) {protocol}",
        ),
        Measure("kernel_distance", kernel.value, kernel.stderr, "lower", f"{kernel.protocol} {protocol}"),
        Measure(
            "precision",
            manifold.precision,
            share_error(manifold.precision, len(samples)),
            "higher",
            f"{precision}; {counted}",
        ),
        Measure("recall", manifold.recall, share_error(manifold.recall, len(real)), "higher", f"{recall}; {counted}"),
        Measure("c2st", test.accuracy, test.null_stderr, "0.5", f"{test.protocol}; {protocol}"),
    ]


def _protocol(network: FeatureNetwork, data: ImageData, split: str, count: int) -> str:
    """Features and numbers, as each measure tells them."""
    size = len(getattr(data, split))
    which = f"all {count}" if count == size else f"{count} of the {size}"
    place = "on " + network.name if network.module is None else f"on features of the {network.name}"
    weights = "" if network.identity is None else f" (weights {network.identity})"
    kind = "points" if data.levels is None else "images"
    return f"{place}{weights}: {count} samples against {which} {split} {kind} of {data.name}"
