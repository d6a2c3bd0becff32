"""Samples judged as a whole: real ones pass, broken ones do not, and each number tells what it is."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stacked_digits import load_fake

from probgen.data import load_data
from probgen.errors import UserError
from probgen.measures import feature_network, judge_samples, reference

COMPARED = ["frechet_distance", "kernel_distance", "precision", "recall", "c2st"]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def network(digits, tmp_path_factory):
    return feature_network(digits, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def scale(digits, network):
    return reference(digits, features=network)


def names(judgement):
    return [measure.name for measure in judgement.measures]


def test_real_images_cannot_be_told_from_real_ones(scale):
    assert names(scale) == COMPARED
    test, kernel = scale["c2st"], scale["kernel_distance"]
    assert abs(test.value - 0.5) < 4 * test.stderr
    assert abs(kernel.value) < 4 * kernel.stderr
    assert min(scale["precision"].value, scale["recall"].value) > 0.85
    assert (scale.num_samples, scale.num_real) == (360, 360)


def test_noise_is_told_from_images(digits, network, scale):
    noise = torch.randint(0, 17, (400, 1, 8, 8))
    found = judge_samples(noise, digits, features=network)
    assert found["c2st"].value > 0.85
    assert found["precision"].value < scale["precision"].value - 0.2
    assert found["recall"].value < 0.3
    assert found["frechet_distance"].value > 20 * scale["frechet_distance"].value
    assert found["kernel_distance"].value > scale["kernel_distance"].value + 4 * found["kernel_distance"].stderr


def test_a_sampler_of_one_digit_loses_recall(digits, network, scale):
    ones = digits.train.images[digits.train.labels == 1]
    found = judge_samples(ones, digits, features=network)
    assert found["recall"].value < 0.2
    assert found["precision"].value > 0.85
    assert found["frechet_distance"].value > 5 * scale["frechet_distance"].value


def test_the_order_of_the_samples_does_not_matter_much(digits, network, scale):
    """Sorted by label, the first 360 of 1,257 would be zeros, ones and twos."""
    found = judge_samples(digits.train.images[digits.train.labels.argsort()], digits, features=network)
    assert abs(found["c2st"].value - 0.5) < 4 * found["c2st"].stderr
    assert abs(found["kernel_distance"].value) < 4 * found["kernel_distance"].stderr


def test_each_measure_has_its_protocol(digits, network, scale):
    for measure in scale.measures:
        assert network.name in measure.protocol
        assert f"weights {network.identity}" in measure.protocol
        assert "360 samples against all 360 test images of digits" in measure.protocol
        assert measure.better == {"precision": "higher", "recall": "higher", "c2st": "0.5"}.get(measure.name, "lower")
    assert scale.features == network.name
    assert "not on the Inception network" in scale["frechet_distance"].protocol
    assert scale["frechet_distance"].stderr is None
    share = scale["recall"].value
    middle = (360 * share + 2) / 364
    assert scale["recall"].stderr == pytest.approx(math.sqrt(middle * (1 - middle) / 364))
    assert "two successes and two failures" in scale["recall"].protocol
    assert scale["c2st"].stderr == pytest.approx(0.5 / math.sqrt(360))


def test_fewer_are_compared_where_fewer_are_asked_for(digits, network):
    found = judge_samples(digits.train.images, digits, num=100, split="valid", features=network)
    assert (found.num_samples, found.num_real) == (100, 100)
    assert "100 samples against 100 of the 180 valid images of digits" in found["recall"].protocol
    few = judge_samples(digits.train.images[:60], digits, features=network)
    assert (few.num_samples, few.num_real) == (60, 60)


def test_the_record_for_machines_is_plain(scale):
    record = json.loads(json.dumps(scale.to_json(), allow_nan=False))
    assert list(record) == [*COMPARED, "features", "num_samples", "num_real"]
    assert set(record["recall"]) == {"value", "stderr", "better", "protocol"}
    assert record["recall"]["value"] == scale["recall"].value
    with pytest.raises(KeyError):
        scale["fid"]


def test_the_seed_decides_and_nothing_else_draws(digits, network):
    samples = digits.train.images
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = judge_samples(samples, digits, features=network)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert judge_samples(samples.double().numpy(), digits, features=network) == first
    assert judge_samples(samples, digits, seed=1, features=network) != first


def test_binarized_images_are_judged_among_their_like(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("probgen.measures.feature_training.FEWEST_STEPS", 200)
    data = load_data("digits", binarize="dynamic")
    found = reference(data)
    assert abs(found["c2st"].value - 0.5) < 4 * found["c2st"].stderr
    with pytest.raises(UserError, match="whole grey levels 0 … 1"):
        judge_samples(load_data("digits").train.images, data)


# --- points and stacked digits


def test_points_have_modes_too():
    data = load_data("ring")
    found = reference(data)
    assert names(found) == ["modes", "share_within", "kl_modes", *COMPARED]
    assert (found["modes"].value, found.features) == (8.0, "the points themselves")
    assert abs(found["share_within"].value - (1 - math.exp(-4.5))) < 4 * found["share_within"].stderr
    assert "10000 samples" in found["modes"].protocol  # all of them
    assert "1000 samples against all 1000 test points" in found["c2st"].protocol
    collapsed = judge_samples(data.modes.centers[:2].repeat(500, 1) + 0.02 * torch.randn(1000, 2), data)
    assert collapsed["modes"].value == 2
    assert collapsed["kl_modes"].value == pytest.approx(math.log(4), abs=1e-6)
    assert collapsed["recall"].value < 0.5
    assert collapsed["c2st"].value > 0.7


def test_points_without_modes_have_none():
    assert names(reference(load_data("moons"))) == COMPARED


def test_stacked_digits_have_modes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("probgen.measures.feature_training.FEWEST_STEPS", 200)
    data = load_fake("stacked-mnist:2000", monkeypatch)
    found = reference(data, num=600)
    assert names(found) == ["modes", "kl_modes", *COMPARED]
    exact = data.train.labels  # of which 600 were drawn
    assert 400 < found["modes"].value < len(exact.unique())
    assert "600 samples" in found["modes"].protocol
    assert "classifier of the digits of stacked-mnist:2000" in found["modes"].protocol
    collapsed = judge_samples(data.train.images[:1].repeat(100, 1, 1, 1), data)
    assert collapsed["modes"].value == 1


# --- refusals


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (torch.zeros(60, 1, 8, 9), r"samples of shape \(60, 1, 8, 9\) came, expected \(n, 1, 8, 8\) as in digits"),
        (torch.zeros(60, 64), r"samples of shape \(60, 64\)"),
        (torch.zeros(()), r"samples of shape \(\)"),
        (torch.zeros(49, 1, 8, 8), "49 samples came, expected at least 50"),
        (torch.full((60, 1, 8, 8), math.nan), "nan"),
        (torch.full((60, 1, 8, 8), math.inf), "nan or infinite"),
        (torch.full((60, 1, 8, 8), 17), "from 17 to 17 came, expected whole grey levels 0 … 16"),
        (torch.full((60, 1, 8, 8), -1), "from -1 to -1"),
        (torch.full((60, 1, 8, 8), 0.5), "whole grey levels"),
    ],
)
def test_what_is_no_set_of_samples_is_refused_in_one_line(digits, network, samples, says):
    with pytest.raises(UserError, match=says) as caught:
        judge_samples(samples, digits, features=network)
    assert "\n" not in str(caught.value)


def test_what_is_nothing_to_compare_with_is_refused(digits):
    samples = digits.test.images
    with pytest.raises(UserError, match="holds texts"):
        judge_samples(samples, load_data("sea-log"))
    with pytest.raises(UserError, match="split 'tests' came"):
        judge_samples(samples, digits, split="tests")
    with pytest.raises(UserError, match="num = 10 came"):
        judge_samples(samples, digits, num=10)
    with pytest.raises(UserError, match="holds 10 images, at least 50"):
        reference(load_data("sprites:100"))
    with pytest.raises(UserError, match="compared with themselves"):
        reference(digits, split="train")
    small = replace(digits, train=replace(digits.train, storage=digits.train.images[:20]))
    with pytest.raises(UserError, match="20 samples came"):
        reference(small)
