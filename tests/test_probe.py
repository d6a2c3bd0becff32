"""A linear probe: right where a line separates, by chance on noise, and never guided by a feature's unit."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probgen.errors import UserError
from probgen.inference.probe import linear_probe


def separated(num, num_classes=3):
    """Features around the corners of a simplex, too close to them to be mistaken."""
    labels = torch.arange(num) % num_classes
    return 4 * torch.eye(num_classes)[labels] + torch.rand(num, num_classes), labels


def check_all_right(probe):
    assert probe.accuracy == 1
    assert probe.stderr == 0


def check_chance(probe, num_errors=4):
    assert abs(probe.accuracy - probe.chance) < num_errors * (probe.chance * (1 - probe.chance) / probe.num_test) ** 0.5


def test_what_a_line_separates_is_all_right():
    probe = linear_probe(*separated(60), *separated(90))
    check_all_right(probe)
    assert (probe.num_features, probe.num_train, probe.num_test) == (3, 60, 90)
    assert probe.chance == pytest.approx(1 / 3)
    assert str(probe) == "100.0% ± 0.0%"
    assert probe.to_json()["accuracy"] == 1


def test_noise_is_chance_and_a_signal_is_not():
    labels, test_labels = torch.arange(400) % 2, torch.arange(1000) % 2
    train, test = torch.randn(400, 10), torch.randn(1000, 10)
    check_chance(linear_probe(train, labels, test, test_labels))
    train[:, 0] += labels
    test[:, 0] += test_labels
    with pytest.raises(AssertionError):
        check_chance(linear_probe(train, labels, test, test_labels))
    with pytest.raises(AssertionError):
        check_all_right(linear_probe(train, labels, test, test_labels))


def test_the_error_is_binomial():
    """6 of 8 right: √(¾ · ¼ / 8)."""
    train = torch.tensor([[-1.0], [1.0]] * 4)
    labels, test_labels = torch.tensor([0, 1] * 4), torch.tensor([0, 1, 0, 1, 0, 1, 1, 0])
    probe = linear_probe(train, labels, train, test_labels)
    assert probe.accuracy == 0.75
    assert probe.stderr == pytest.approx(0.1530931089239486)
    assert str(probe) == "75.0% ± 15.3%"


def hidden_signal(num):
    """One feature of tiny numbers with all that there is to know, another of large ones with nothing."""
    labels = torch.arange(num) % 2
    return torch.stack([2.0**-20 * (labels + 0.3 * torch.randn(num)), 2.0**10 * torch.randn(num)], 1), labels


def test_a_feature_counts_whatever_its_unit():
    train, labels = hidden_signal(400)
    test, test_labels = hidden_signal(600)
    probe = linear_probe(train, labels, test, test_labels)
    assert probe.accuracy > 0.9
    for scale in (2.0**20, -(2.0**-20)):
        assert linear_probe(scale * train + 0, labels, scale * test, test_labels) == probe
    moved = linear_probe(train.double() * 7 + 3, labels, test.double() * 7 + 3, test_labels)
    assert moved.accuracy == pytest.approx(probe.accuracy, abs=2 / 600)
    raw = LogisticRegression().fit(train.numpy(), labels.numpy()).predict(test.numpy())
    assert (raw == test_labels.numpy()).mean() < 0.6  # the broken twin: without standardization


def test_a_constant_feature_does_no_harm():
    (train, labels), (test, test_labels) = separated(60), separated(90)
    check_all_right(
        linear_probe(
            torch.cat([train, torch.ones(60, 1)], 1), labels, torch.cat([test, torch.ones(90, 1)], 1), test_labels
        )
    )


def test_the_same_numbers_give_the_same_probe_and_no_random_number_is_drawn():
    arguments = *hidden_signal(100), *hidden_signal(100)
    state = torch.get_rng_state()
    assert linear_probe(*arguments) == linear_probe(*arguments)
    assert torch.equal(torch.get_rng_state(), state)


def with_nan(features):
    features = features.clone()
    features[3, 1] = torch.nan
    return features


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: (a[0][:-1], *a[1:]), "29 train rows and 30 labels came"),
        (lambda a: (*a[:3], a[3][:-1]), "30 test rows and 29 labels came"),
        (lambda a: (*a[:2], a[2][:0], a[3][:0]), "0 test rows and 0 labels came"),
        (lambda a: (*a[:2], a[2][:, :2], a[3]), "2 test features came, expected 3"),
        (lambda a: (a[0][:, :0], a[1], a[2][:, :0], a[3]), "train rows of 0 features came"),
        (lambda a: (with_nan(a[0]), *a[1:]), "1 of 30 train rows have a feature that is nan or infinite"),
        (lambda a: (*a[:2], a[2] / 0, a[3]), "30 of 30 test rows"),
        (lambda a: (a[0], 0 * a[1], *a[2:]), "30 training labels of one class came"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, says):
    with pytest.raises(UserError) as refusal:
        linear_probe(*change((*separated(30), *separated(30))))
    assert says in str(refusal.value)
