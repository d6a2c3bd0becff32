"""Feature networks: named, the same each time, and never met with other data than their own."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from stacked_digits import load_fake
from torch import nn

from probgen.data import load_data
from probgen.errors import UserError
from probgen.measures import FeatureNetwork, feature_network
from probgen.measures.feature_cache import cache_file, cache_key, default_cache_dir, store_network
from probgen.measures.feature_networks import ImageClassifier, PixelComponents
from probgen.measures.features import read_rows, untrained_network


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def hasty(monkeypatch):
    """Networks of a few steps: for what does not depend on how good they are."""
    monkeypatch.setattr("probgen.measures.feature_training.FEWEST_STEPS", 10)
    monkeypatch.setattr("probgen.measures.feature_training.EPOCHS", 0)


@pytest.fixture
def no_training(monkeypatch):
    """Called in a test, forbids training from then on."""

    def refuse(*_, **__):
        raise AssertionError("trained anew")

    return lambda: monkeypatch.setattr("probgen.measures.features._train", refuse)


def same_weights(a: FeatureNetwork, b: FeatureNetwork) -> bool:
    return all(torch.equal(x, b.module.state_dict()[name]) for name, x in a.module.state_dict().items())


# --- what they are


def test_the_classifier_of_digits_classifies():
    data = load_data("digits")
    network = feature_network(data)
    features, logits = network.features(data.test.images), network.logits(data.test.images)
    assert (features.shape, features.dtype, logits.shape) == ((360, 64), torch.float64, (360, 10))
    accuracy = float((logits.argmax(dim=1) == data.test.labels).double().mean())
    assert accuracy > 0.97
    assert network.name == f"classifier of digits, test accuracy {100 * accuracy:.1f} %"
    train = network.features(data.train.images)
    assert float(train.var(dim=0, correction=0).mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(network.features(data.test.images.double())[:5], features[:5])


def test_features_are_the_last_layer_but_one(hasty):
    data = load_data("digits")
    network = feature_network(data)
    last: nn.Linear = network.module.last
    activations = (network.features(data.test.images) / network.module.scale).float()
    assert torch.allclose(last(activations), network.logits(data.test.images), atol=1e-4)


def test_images_without_labels_have_principal_components():
    digits = load_data("digits")
    data = replace(digits, train=replace(digits.train, labels=None), test=replace(digits.test, labels=None), name="x")
    network = feature_network(data)
    assert network.name == "first 64 principal components of the pixels of x"
    pixels = data.train.images.flatten(1).double() / 16
    basis = network.module.basis
    assert torch.allclose(basis.T @ basis, torch.eye(64, dtype=torch.float64), atol=1e-9)
    features = network.features(data.train.images)
    covariance = features.T.cov()
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-9  # uncorrelated, the largest first
    assert (covariance.diag().diff() <= 1e-9).all()
    expected = torch.linalg.eigvalsh(pixels.T.cov()).flip(0) * float(network.module.scale) ** 2
    assert torch.allclose(covariance.diag(), expected, atol=1e-9)
    assert float(features.mean(dim=0).abs().max()) < 1e-9
    with pytest.raises(UserError, match="only a classifier"):
        network.logits(data.test.images)


def test_few_images_have_few_components(tmp_path):
    file = tmp_path / "few.npy"
    np.save(file, np.random.RandomState(0).randint(0, 256, (12, 5, 4)).astype(np.uint8))
    network = feature_network(load_data(file))
    assert network.name.startswith("first 9 principal components")  # of ten training images


def test_very_many_classes_are_not_learned():
    digits = load_data("digits")
    labels = digits.train.labels.clone()
    labels[0] = 10**9
    assert isinstance(untrained_network(changed(digits, "train", labels=labels)), PixelComponents)
    assert isinstance(untrained_network(changed(digits, "train", labels=labels * 0)), ImageClassifier)  # test has ten


def test_points_are_their_own_features():
    data = load_data("ring:50")
    network = feature_network(data)
    assert network.name == "the points themselves"
    assert torch.equal(network.features(data.test.images), data.test.images.double())


def test_stacked_digits_are_told_channel_by_channel(monkeypatch):
    monkeypatch.setattr("probgen.measures.feature_training.FEWEST_STEPS", 500)
    data = load_fake("stacked-mnist:1000", monkeypatch)
    network = feature_network(data)
    images = data.test.images[:500]
    features, logits = network.features(images), network.logits(images)
    assert (features.shape, logits.shape) == ((500, 192), (500, 30))
    for channel in range(3):
        assert torch.allclose(features[:, 64 * channel : 64 * channel + 64], network.features(images[:, [channel]]))
        digits = logits[:, 10 * channel : 10 * channel + 10].argmax(dim=1)
        known = data.test.factors[f"digit{channel + 1}"][:500]
        assert float((digits == known).double().mean()) > 0.95
    assert network.name.startswith("classifier of the digits of stacked-mnist:1000, test accuracy 9")


@pytest.mark.parametrize("shape", [(1, 2), (3, 40, 7), (1, 1, 1), (1, 33, 90)])
def test_images_of_any_shape_have_features(hasty, tmp_path, shape):
    generator = np.random.RandomState(0)
    file = tmp_path / "shapes.npz"
    images = generator.randint(0, 256, (40, *((1, *shape) if len(shape) == 2 else shape))).astype(np.uint8)
    np.savez(file, images=images, labels=np.arange(40) % 3)
    data = load_data(file)
    assert feature_network(data).features(data.test.images).shape == (4, 64)
    plain = replace(data, train=replace(data.train, labels=None))
    assert feature_network(plain).features(data.test.images).isfinite().all()


def test_texts_and_other_shapes_are_refused(hasty):
    with pytest.raises(UserError, match="holds texts"):
        feature_network(load_data("sea-log"))
    network = feature_network(load_data("digits"))
    for shape in ((5, 1, 8, 9), (5, 3, 8, 8), (5, 8, 8)):
        with pytest.raises(UserError, match=r"expected \(n, 1, 8, 8\)"):
            network.features(torch.zeros(shape))


# --- randomness


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_training_leaves_the_random_state_alone_and_does_not_depend_on_it(hasty, tmp_path, binarize):
    data, networks = load_data("digits", binarize=binarize), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        networks.append(feature_network(data, tmp_path / str(seed)))
        feature_network(data, tmp_path / str(seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(*networks)
    assert networks[0].identity == networks[1].identity


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_network_is_trained_wherever_it_is_asked_for(hasty, tmp_path, mode):
    data = load_data("digits")
    with mode():
        inside = feature_network(data, tmp_path / "inside")
    assert same_weights(inside, feature_network(data, tmp_path / "outside"))


def test_a_dynamic_binarization_is_read_alike_each_time():
    train, rows = load_data("digits", binarize="dynamic").train, torch.arange(30)
    first = read_rows(train, rows)
    assert set(first.unique().tolist()) == {0, 1}
    assert torch.equal(read_rows(train, rows), first)
    assert not torch.equal(train.batch(rows), train.batch(rows))


# --- the cache


def test_a_network_is_trained_once(hasty, no_training):
    data = load_data("digits")
    first = feature_network(data)
    no_training()
    second = feature_network(data)
    assert same_weights(first, second)
    assert torch.equal(first.features(data.test.images), second.features(data.test.images))
    assert (first.name, first.identity) == (second.name, second.identity)
    assert [file.parent for file in default_cache_dir().iterdir()] == [default_cache_dir()]


def test_components_are_kept_too(no_training):
    data = load_data("digits")
    data = replace(data, train=replace(data.train, labels=None))
    first = feature_network(data)
    no_training()
    assert same_weights(first, feature_network(data))


def changed(data, split: str, **changes):
    return replace(data, **{split: replace(getattr(data, split), **changes)})


def test_other_data_of_the_same_name_have_another_key():
    data = load_data("digits")
    images, labels, test = data.train.images.clone(), data.train.labels.clone(), data.test.images.clone()
    images[700, 0, 3, 3] += 1
    labels[0] = (labels[0] + 1) % 10
    test[0, 0, 0, 0] += 1
    others = [
        changed(data, "train", storage=images),
        changed(data, "train", labels=labels),
        changed(data, "train", labels=None),
        changed(data, "test", storage=test),
        replace(data, levels=18),
        replace(data, binarize="dynamic"),
        replace(data, name="sprites"),
    ]
    keys = {cache_key(other) for other in (data, *others)}
    assert len(keys) == 8
    assert cache_key(load_data("digits")) == cache_key(data)


def test_another_training_has_another_key(monkeypatch):
    before = cache_key(load_data("digits"))
    monkeypatch.setattr("probgen.measures.feature_training.EPOCHS", 5)
    assert cache_key(load_data("digits")) != before


def test_the_name_of_a_file_is_where_it_lies(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((30, 4, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert cache_key(load_data("a.npy")) == cache_key(load_data(str(tmp_path / "a.npy")))
    file = cache_file(load_data("a.npy"), "0" * 64, tmp_path)
    assert file == tmp_path / f"a-npy-{'0' * 32}.safetensors"


DAMAGE = {
    "empty": lambda raw: b"",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "no such file type": lambda raw: b"\x80\x04 a pickle would be refused, too",
    "a flipped bit in the weights": lambda raw: raw[:-5] + bytes([raw[-5] ^ 64]) + raw[-4:],
    "another accuracy": lambda raw: with_metadata(raw, accuracy="1.0"),
    "another key": lambda raw: with_metadata(raw, key="0" * 64),
    "no metadata": lambda raw: with_metadata(raw, accuracy=None),
}


def with_metadata(raw: bytes, **changes: str | None) -> bytes:
    """A safetensors file with some of its texts changed, or left out."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    texts = header["__metadata__"] | changes
    header["__metadata__"] = {name: text for name, text in texts.items() if text is not None}
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + raw[8 + size :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_trained_anew(hasty, damage):
    data = load_data("digits")
    first = feature_network(data)
    (file,) = default_cache_dir().iterdir()
    sound = file.read_bytes()
    file.write_bytes(DAMAGE[damage](sound))
    again = feature_network(data)
    assert same_weights(first, again)
    assert again.name == first.name
    assert list(default_cache_dir().iterdir()) == [file]
    # The file is sound again; the order of its texts is safetensors' own.
    feature_network(data)
    assert len(file.read_bytes()) == len(sound)


def test_the_weights_of_other_data_are_refused(hasty):
    data, other = load_data("digits"), load_data("digits", binarize="threshold")
    first, second = feature_network(data), feature_network(other)
    assert not same_weights(first, second)
    files = {cache_file(d, cache_key(d), default_cache_dir()): d for d in (data, other)}
    assert set(files) == set(default_cache_dir().iterdir())
    mine, theirs = files
    mine.write_bytes(theirs.read_bytes())
    assert same_weights(feature_network(data), first)


def test_weights_that_are_no_numbers_are_trained_anew(hasty):
    data = load_data("digits")
    first = feature_network(data)
    (file,) = default_cache_dir().iterdir()
    spoilt = ImageClassifier((1, 8, 8), 10)
    nn.init.constant_(spoilt.last.weight, float("nan"))
    store_network(file, cache_key(data), spoilt, 0.9)
    assert same_weights(first, feature_network(data))


def test_where_nothing_can_be_written_nothing_is_kept(hasty, tmp_path):
    (tmp_path / "file").write_text("in the way")
    network = feature_network(load_data("digits"), tmp_path / "file" / "below")
    assert isinstance(network.module, ImageClassifier)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert default_cache_dir() == tmp_path / "cache" / "probgen" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "probgen" / "features"


def test_the_accuracy_of_components_is_none_and_survives():
    data = load_data("digits")
    data = replace(data, train=replace(data.train, labels=None))
    assert isinstance(feature_network(data).module, PixelComponents)
    assert feature_network(data).name == feature_network(data).name
