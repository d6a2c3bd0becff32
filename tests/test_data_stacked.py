"""Stacked MNIST: three digits as colours, drawn alike each time."""

import pytest
import torch
from stacked_digits import SPLITS, load_fake, small_mnist
from test_data import real_data_dir

from probgen.data import describe_datasets, load_data
from probgen.errors import UserError

NAMES = ("train", "valid", "test")


@pytest.fixture
def fake(monkeypatch):
    """Loads stacked digits of 8 × 8 pixels."""
    return lambda name: load_fake(name, monkeypatch)


def test_labels_are_the_digits_of_the_channels(fake):
    data = fake("stacked-mnist:2000")
    assert (data.levels, data.image_shape, data.num_classes) == (256, (3, 8, 8), 1000)
    source = small_mnist()
    known = {image.numpy().tobytes(): int(label) for image, label in zip(source.images, source.labels, strict=True)}
    for split in NAMES:
        part = getattr(data, split)
        for image, label in zip(part.images[:300], part.labels[:300], strict=True):
            digits = [known[channel.numpy().tobytes()] for channel in image]
            assert int(label) == 100 * digits[0] + 10 * digits[1] + digits[2]
        digits = [part.factors[name] for name in data.factor_names]
        assert torch.equal(part.labels, 100 * digits[0] + 10 * digits[1] + digits[2])


def test_each_split_is_drawn_from_its_own_rows(fake):
    data, images = fake("stacked-mnist:500"), small_mnist().images
    for name, rows in zip(NAMES, SPLITS, strict=True):
        own = {image.numpy().tobytes() for image in images[rows]}
        channels = getattr(data, name).images[:500].flatten(0, 1)
        assert all(channel.numpy().tobytes() in own for channel in channels)


def test_the_channels_are_drawn_independently(fake):
    """Of 10 × 10 pairs of digits each comes as often as the product of its shares: χ² with 81 degrees of freedom."""
    from scipy.stats import chi2_contingency

    data = fake("stacked-mnist:20000")
    first, second, third = (data.train.factors[f"digit{k}"] for k in (1, 2, 3))

    def p_value(a, b):
        return chi2_contingency((10 * a + b).bincount(minlength=100).view(10, 10).numpy()).pvalue

    assert min(p_value(first, second), p_value(second, third), p_value(first, third)) > 1e-4
    # The broken twin repeats a digit in every tenth image.
    assert p_value(first, torch.where(torch.arange(20_000) % 10 == 0, first, second)) < 1e-10


def test_the_draw_is_the_same_each_time_and_whatever_the_number(fake):
    first, again, small = fake("stacked-mnist:400"), fake("stacked-mnist:400"), fake("stacked-mnist:30")
    for name in NAMES:
        assert torch.equal(getattr(first, name).images, getattr(again, name).images)
    assert [len(getattr(small, name)) for name in NAMES] == [30, 5000, 10_000]
    assert torch.equal(small.train.images, first.train.images[:30])
    assert torch.equal(small.test.images, first.test.images)
    assert len(fake("stacked-mnist").train) == 50_000


def test_an_impossible_number_is_refused(fake):
    with pytest.raises(UserError, match="stacked-mnist:0"):
        fake("stacked-mnist:0")
    with pytest.raises(UserError, match="give 1 to 1000000 training images"):
        fake("stacked-mnist:1000001")


def test_without_mnist_it_says_what_mnist_says(tmp_path, monkeypatch):
    monkeypatch.setattr("probgen.data.benchmarks._download", refuse)
    messages = []
    for name in ("mnist", "stacked-mnist", "stacked-mnist:10"):
        with pytest.raises(UserError) as caught:
            load_data(name, data_dir=tmp_path)
        messages.append(str(caught.value))
    assert messages == ["mnist is not there"] * 3


def refuse(name, dataset, data_dir):
    raise UserError(f"{name} is not there")


def test_it_is_here_when_mnist_is(tmp_path):
    def infos():
        return {info.name: info for info in describe_datasets(tmp_path)}

    assert not infos()["stacked-mnist"].here
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            (folder / f"{split}-{kind}").touch()
    assert infos()["stacked-mnist"].here
    assert infos()["stacked-mnist"].where == infos()["mnist"].where == str(folder)


@pytest.mark.real_data
def test_stacked_mnist_is_what_the_list_says():
    root = real_data_dir("MNIST/raw/train-images-idx3-ubyte")
    data, mnist = load_data("stacked-mnist", data_dir=root), load_data("mnist", data_dir=root)
    info = next(info for info in describe_datasets(root) if info.name == "stacked-mnist")
    assert tuple(len(getattr(data, name)) for name in NAMES) == info.size
    assert (data.image_shape, data.levels, data.factor_names) == (info.shape, info.levels, info.factors)
    assert (data.num_classes, info.here) == (info.labels, True)
    assert int(data.train.labels.bincount(minlength=1000).min()) > 0
    for name in NAMES:
        part, source = getattr(data, name), getattr(mnist, name)
        known = {image.numpy().tobytes(): int(k) for image, k in zip(source.images, source.labels, strict=True)}
        for image, label in zip(part.images[:200], part.labels[:200], strict=True):
            digits = [known[channel.numpy().tobytes()] for channel in image]
            assert int(label) == 100 * digits[0] + 10 * digits[1] + digits[2]


@pytest.mark.real_data
def test_the_draw_is_recorded():
    # Counts of modes are compared across versions.
    root = real_data_dir("MNIST/raw/train-images-idx3-ubyte")
    data = load_data("stacked-mnist:5", data_dir=root)
    assert data.train.labels.tolist() == [382, 969, 790, 218, 123]
    assert data.test.labels[:5].tolist() == [176, 857, 423, 289, 959]
