"""The splits, the binarizations and the list of data sets."""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from probgen.data import DATASET_NAMES, ImageData, default_data_dir, describe_datasets, load_data
from probgen.data.binarize import Binarizer
from probgen.data.split import RawData, assemble, random_splits
from probgen.errors import UserError


def rows_of(data: ImageData) -> tuple[Tensor, Tensor, Tensor]:
    return data.train.images, data.valid.images, data.test.images


def checksum(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]


def numbered_images(count: int) -> RawData:
    """Each image is its own number, so that it can be followed into its split."""
    numbers = torch.arange(count)
    images = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8).view(count, 1, 1, 2)
    return RawData(images, random_splits(count, count // 10, count // 10), 256, labels=numbers)


# --- splits


@pytest.mark.parametrize("count", [10, 1003])
def test_splits_are_disjoint_and_cover(count):
    data = assemble("numbers", numbered_images(count), "none")
    numbers = [(split[:, 0, 0, 0].long() * 256 + split[:, 0, 0, 1]) for split in rows_of(data)]
    assert torch.cat(numbers).sort().values.tolist() == list(range(count))
    for split, expected in zip((data.train, data.valid, data.test), numbers, strict=True):
        assert split.labels is not None
        assert torch.equal(split.labels, expected)  # labels go with their images
        assert len(split) == len(expected)


def test_digits_are_those_of_scikit_learn_in_a_fixed_split():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    source = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    assert (len(data.train), len(data.valid), len(data.test)) == (1257, 180, 360)
    assert (data.levels, data.image_shape, data.factor_names) == (17, (1, 8, 8), ())
    assert torch.equal(torch.cat(rows_of(data))[:, 0].double(), torch.from_numpy(source.images[order]))
    labels = torch.cat([split.labels for split in (data.train, data.valid, data.test)])
    assert torch.equal(labels, torch.from_numpy(source.target[order]))


def test_batch_gives_the_rows_asked_for_in_their_order():
    train = load_data("digits").train
    rows = torch.tensor([5, 0, 5, 1256])
    assert torch.equal(train.batch(rows), train.images[rows])
    assert train.batch(rows).dtype == torch.uint8
    assert train.batch(torch.tensor([], dtype=torch.int64)).shape == (0, 1, 8, 8)
    with pytest.raises(IndexError):
        train.batch(torch.tensor([1257]))


def test_a_batch_is_no_window_into_the_storage():
    train = load_data("digits").train
    before = train.images.clone()
    train.batch(torch.arange(3)).zero_()
    assert torch.equal(train.images, before)


def test_to_moves_images_labels_and_factors():
    split = load_data("sprites:10").train.to("meta")
    assert {split.images.device.type, split.labels.device.type, split.factors["x"].device.type} == {"meta"}


# --- binarization


def standard_scores(binary: Tensor, grey: Tensor, levels: int) -> Tensor:
    """For each grey level inside the range: (ones - expected) / standard error of a Bernoulli(x/top) draw."""
    counts = grey.flatten().int().bincount(minlength=levels)[1:-1].double()
    ones = grey[binary == 1].int().bincount(minlength=levels)[1:-1].double()
    p = torch.arange(1, levels - 1).double() / (levels - 1)
    seen = counts > 0
    return ((ones - p * counts) / (p * (1 - p) * counts).sqrt())[seen]


def looks_bernoulli(binary: Tensor, grey: Tensor, levels: int) -> bool:
    """Mean of the squared scores, a chi-square over its degrees, within 5 standard errors of one."""
    scores = standard_scores(binary, grey, levels)
    certain = bool((binary[grey == 0] == 0).all() and (binary[grey == levels - 1] == 1).all())
    return certain and bool((scores.square().mean() - 1).abs() < 5 * (2 / len(scores)) ** 0.5)


@pytest.mark.parametrize(("name", "levels"), [("digits", 17), ("sprites:500", 256)])
def test_static_binarization_has_the_frequencies_of_the_intensities(name, levels):
    grey, static = load_data(name), load_data(name, binarize="static")
    assert (static.levels, static.binarize) == (2, "static")
    assert all(split.unique().tolist() == [0, 1] for split in rows_of(static))
    assert looks_bernoulli(static.train.images, grey.train.images, levels)
    assert looks_bernoulli(static.test.images, grey.test.images, levels)
    assert torch.equal(static.train.batch(torch.arange(9)), static.train.images[:9])
    # The broken twins: a threshold, and a draw with p = x/levels.
    threshold = load_data(name, binarize="threshold")
    assert not looks_bernoulli(threshold.train.images, grey.train.images, levels)
    off_by_one = (torch.rand(grey.train.images.shape) * levels < grey.train.images).to(torch.uint8)
    assert not looks_bernoulli(off_by_one, grey.train.images, levels)


def test_the_static_draw_is_recorded():
    # A number reported today must be comparable with one of a later version: the draw may never change.
    assert checksum(load_data("digits", binarize="static").test.images) == "b6681ef7f3d8d9e6"


def test_pixels_of_the_static_draw_are_independent_of_their_neighbours():
    half = torch.full((400, 1, 8, 8), 128, dtype=torch.uint8)
    drawn = Binarizer("static", 257)(half, torch.arange(400)).double().flatten() - 0.5
    for lag in (1, 8, 64):
        assert abs(float((drawn[lag:] * drawn[:-lag]).mean()) / 0.25 * len(drawn) ** 0.5) < 4


def test_the_static_draw_does_not_depend_on_the_batches():
    images = torch.randint(0, 256, (50, 1, 5, 7), dtype=torch.uint8)
    static = Binarizer("static", 256)
    whole = static(images, torch.arange(50))
    order = torch.randperm(50)
    assert torch.equal(static(images[order], order), whole[order])
    assert torch.equal(static(images[30:], torch.arange(30, 50)), whole[30:])
    assert not torch.equal(static(images, torch.arange(1, 51)), whole)  # another row, another draw


def test_dynamic_binarization_draws_anew_with_the_right_law():
    grey, data = load_data("digits"), load_data("digits", binarize="dynamic")
    rows = torch.arange(len(data.train))
    first, second = data.train.batch(rows), data.train.batch(rows)
    assert not torch.equal(first, second)
    assert looks_bernoulli(first, grey.train.images, 17)
    assert looks_bernoulli(second, grey.train.images, 17)
    assert torch.equal(data.train.images, grey.train.images)  # storage stays grey
    assert data.levels == 2


@pytest.mark.parametrize("levels", [3, 17, 256])
def test_dynamic_binarization_has_the_right_law_at_every_level(levels):
    images = torch.arange(levels, dtype=torch.uint8).repeat(4001).reshape(-1, 1, 1, levels)
    binary = Binarizer("dynamic", levels)(images, torch.arange(4001))
    assert binary.dtype == torch.uint8
    assert looks_bernoulli(binary, images, levels)
    assert not binary[images == 0].any()
    assert binary[images == levels - 1].all()


def test_dynamic_binarization_draws_again_where_the_byte_is_the_grey_level(monkeypatch):
    images = torch.arange(256, dtype=torch.uint8).repeat(80).reshape(-1, 1, 16, 16)
    bytes_drawn = torch.arange(256, dtype=torch.uint8).repeat(80).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda words, *_: words.copy_(bytes_drawn))
    binary = Binarizer("dynamic", 256)(images, torch.arange(80))
    assert looks_bernoulli(binary, images, 256)
    assert not binary[images == 0].any()
    assert binary[images == 255].all()


def test_dynamic_binarization_follows_torch_seed():
    train = load_data("digits", binarize="dynamic").train
    torch.manual_seed(3)
    first = train.batch(torch.arange(20))
    torch.manual_seed(3)
    assert torch.equal(train.batch(torch.arange(20)), first)


def test_dynamic_binarization_evaluates_on_the_static_draw():
    dynamic, static = load_data("digits", binarize="dynamic"), load_data("digits", binarize="static")
    for one, other in ((dynamic.valid, static.valid), (dynamic.test, static.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.batch(torch.arange(7)), other.images[:7])


@pytest.mark.parametrize(("levels", "first_one"), [(2, 1), (3, 1), (4, 2), (17, 8), (256, 128)])
def test_threshold_is_half_of_the_top_level(levels, first_one):
    images = torch.arange(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    binary = Binarizer("threshold", levels)(images, torch.arange(levels)).flatten()
    assert binary.tolist() == [int(2 * level >= levels - 1) for level in range(levels)]
    assert int(binary.argmax()) == first_one


@pytest.mark.parametrize("binarize", ["none", "threshold", "static"])
def test_binary_images_stay_as_they_are(binarize):
    raw = RawData(torch.randint(0, 2, (30, 1, 3, 4), dtype=torch.uint8), random_splits(30, 3, 3), 2)
    assert all(
        torch.equal(one, other)
        for one, other in zip(rows_of(assemble("b", raw, binarize)), rows_of(assemble("b", raw, "none")), strict=True)
    )


def test_dynamic_binarization_of_binary_images_is_refused():
    raw = RawData(torch.zeros(30, 1, 3, 4, dtype=torch.uint8), random_splits(30, 3, 3), 2)
    with pytest.raises(UserError, match="already binary"):
        assemble("b", raw, "dynamic")


# --- names


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("digit", "did you mean digits"),
        ("MNIST", "did you mean mnist"),
        ("xyzzy", "choose one of digits, sprites"),
        ("", "unknown data set ''"),
        ("x" * 5000, "unknown data set"),
        ("a\0b", "unknown data set"),
        ("./missing.npz", "does not exist"),
        ("missing.npy", "does not exist"),
        ("digits:5", "fixed size"),
        ("mnist:5", "fixed size"),
        ("sprites:0", "above 0"),
        ("sprites:-3", "above 0"),
        ("sprites:abc", "above 0"),
        ("sprites:", "above 0"),
        ("sprites:1e3", "above 0"),
        ("sprites:²", "above 0"),
        ("sprites:2", "at least 3"),
        ("sprites:1000000000000", "at most 10000000"),
        ("sprites:" + "9" * 5000, "above 0"),
        ("ring:1000000000000", "1 to 10000000"),
        ("ring:0", "above 0"),
    ],
)
def test_a_wrong_name_is_one_clear_line(name, part):
    with pytest.raises(UserError) as error:
        load_data(name)
    assert part in one_line(error)


def test_an_unknown_binarization_lists_the_choices():
    with pytest.raises(UserError, match="none, threshold, static, dynamic"):
        load_data("digits", binarize="otsu")


def test_a_path_object_is_never_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown data set 'digits'"):
        load_data(Path("digits"))


# --- the list of data sets


def test_the_list_tells_the_truth_about_what_can_be_loaded():
    infos = {info.name: info for info in describe_datasets()}
    assert tuple(infos) == DATASET_NAMES
    for name in ("digits", "sprites", "ring", "grid", "moons", "spiral"):
        data, info = load_data(name), infos[name]
        assert info.here
        assert (len(data.train), len(data.valid), len(data.test)) == info.size
        assert (data.image_shape, data.levels, data.factor_names) == (info.shape, info.levels, info.factors)
        assert info.labels == int(data.train.labels.max()) + 1


def test_the_list_looks_where_it_is_told(tmp_path):
    names = ("mnist", "fashion-mnist", "kmnist", "cifar10", "binarized-mnist")
    assert not any(info.here for info in describe_datasets(tmp_path) if info.name in names)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte"):
        (raw / file).touch()
    assert not next(info.here for info in describe_datasets(tmp_path) if info.name == "kmnist")
    (raw / "t10k-labels-idx1-ubyte").touch()
    (tmp_path / "cifar-10-python.tar.gz").touch()
    for split in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{split}.amat").touch()
    here = [info.name for info in describe_datasets(str(tmp_path)) if info.here and info.name in names]
    assert here == ["kmnist", "cifar10", "binarized-mnist"]


def test_the_data_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PROBGEN_DATA", "~/somewhere")
    assert default_data_dir() == Path.home() / "somewhere"
    monkeypatch.setenv("PROBGEN_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "probgen"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_data_dir() == Path.home() / ".cache" / "probgen"


# --- files of the benchmarks


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mnist", ("MNIST/raw", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
        ("fashion-mnist", ("FashionMNIST/raw",)),
        ("kmnist", ("KMNIST/raw",)),
        ("cifar10", ("cifar-10-python.tar.gz",)),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(name, parts, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        load_data(name, data_dir=tmp_path)
    assert all(part in one_line(error) for part in (*parts, "no network in this test", str(tmp_path)))
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_no_network")
def test_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("mnist", "cifar10", "binarized-mnist"):
        with pytest.raises(UserError):
            load_data(name, data_dir=tmp_path / "file")


def write_idx(folder: Path, sizes: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        with open(folder / name, "wb") as stream:
            stream.truncate(size)  # sparse: zeros that take no room


def test_a_truncated_benchmark_file_is_named(tmp_path):
    from probgen.data.benchmarks import IDX_FILES

    write_idx(tmp_path / "MNIST" / "raw", {**IDX_FILES, "t10k-images-idx3-ubyte": 5000})
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte is truncated.*5000 bytes, expected 7840016"):
        load_data("mnist", data_dir=tmp_path)


def test_a_benchmark_file_of_right_size_and_wrong_content_is_refused(tmp_path):
    from probgen.data.benchmarks import IDX_FILES

    write_idx(tmp_path / "MNIST" / "raw", IDX_FILES)
    with pytest.raises(UserError, match="MNIST/raw are corrupt"):
        load_data("mnist", data_dir=tmp_path)


class Opened:
    """A pickle of this object creates a file when it is opened."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.usefixtures("_no_network")
def test_a_foreign_pickle_in_place_of_cifar_is_not_opened(tmp_path):
    import pickle

    from probgen.data.benchmarks import CIFAR_FILES

    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in CIFAR_FILES:
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Opened(str(tmp_path / "opened"))))
    with pytest.raises(UserError, match="data_batch_1 is truncated or corrupt"):
        load_data("cifar10", data_dir=tmp_path)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()
    with pytest.raises(UserError, match="could not be downloaded"):
        load_data("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "opened").exists()


def test_cifar_comes_as_channels_first_with_the_last_5000_for_validation(tmp_path, monkeypatch):
    import torchvision

    from probgen.data import benchmarks

    class Cifar:
        def __init__(self, root, train, download):
            count = 50_000 if train else 10_000
            self.data = np.zeros((count, 32, 32, 3), np.uint8)
            self.data[:, 1, 2, 0] = np.arange(count) % 251
            self.targets = [number % 10 for number in range(count)]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Cifar)
    monkeypatch.setattr(benchmarks, "benchmark_files", lambda name, root: [tmp_path])
    monkeypatch.setattr(benchmarks, "_check_file", lambda name, path: None)
    monkeypatch.setattr(benchmarks, "_download", lambda name, dataset, root: None)
    data = load_data("cifar10", data_dir=tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (45_000, 5_000, 10_000)
    assert data.image_shape == (3, 32, 32)
    assert torch.equal(data.valid.images[:, 0, 1, 2], (torch.arange(45_000, 50_000) % 251).to(torch.uint8))
    assert int(data.valid.images.count_nonzero()) == int(data.valid.images[:, 0, 1, 2].count_nonzero())
    assert data.valid.labels[3] == 3


# --- the real files


def real_data_dir(*needed: str) -> Path:
    """The directory of the real data, or a skip with the reason."""
    candidates = [os.environ.get("PROBGEN_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and all((Path(candidate) / name).exists() for name in needed):
            return Path(candidate)
    pytest.skip(f"{' and '.join(needed)} neither in PROBGEN_DATA nor in ../shared/data")


@pytest.mark.real_data
def test_mnist_is_mnist():
    root = real_data_dir("MNIST/raw/train-images-idx3-ubyte")
    data = load_data("mnist", data_dir=root)
    assert (len(data.train), len(data.valid), len(data.test)) == (50_000, 10_000, 10_000)
    assert (data.image_shape, data.levels) == ((1, 28, 28), 256)
    raw = (root / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    assert data.train.images.numpy().tobytes() + data.valid.images.numpy().tobytes() == raw
    assert data.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.real_data
def test_static_mnist_has_the_frequencies_of_its_intensities():
    root = real_data_dir("MNIST/raw/train-images-idx3-ubyte")
    grey, static = load_data("mnist", data_dir=root), load_data("mnist", data_dir=root, binarize="static")
    assert looks_bernoulli(static.test.images, grey.test.images, 256)


@pytest.mark.real_data
def test_binarized_mnist_is_that_of_the_literature():
    data = load_data("binarized-mnist", data_dir=real_data_dir("binarized_mnist"))
    assert (len(data.train), len(data.valid), len(data.test)) == (50_000, 10_000, 10_000)
    assert (data.image_shape, data.levels, data.train.labels) == ((1, 28, 28), 2, None)
    assert round(float(data.test.images.double().mean()), 5) == 0.13251
    assert int(data.train.images.max()) == 1
