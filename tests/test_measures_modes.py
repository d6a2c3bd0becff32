"""Modes that samples reach: mixtures with known gaps, and stacked digits whose classifier is never wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from stacked_digits import load_fake
from torch import Tensor

from probgen.data import Modes, load_data
from probgen.errors import UserError
from probgen.measures import DigitClassifier, count_modes, count_stacked_modes
from probgen.measures.modes import digit_law, histogram_kl, is_stacked

MODES = Modes(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]), 0.5)


def near(*counts: int, distance: float = 1.0) -> Tensor:
    """So many points beside each centre, at a distance in sigmas."""
    offset = torch.tensor([0.0, distance * MODES.sigma])
    return torch.cat([(center + offset).expand(n, 2) for center, n in zip(MODES.centers, counts, strict=True)])


def test_modes_by_hand():
    """Three samples at one mode, one at another: KL = ¾ log(¾·4) + ¼ log(¼·4) = ¾ log 3."""
    report = count_modes(near(3, 1, 0, 0), MODES)
    assert (report.covered, report.total, report.share_within, report.num_samples) == (2, 4, 1.0, 4)
    assert report.kl == pytest.approx(0.75 * math.log(3))
    assert report.share_stderr == pytest.approx(math.sqrt(6 / 8 * 2 / 8 / 8))  # 4 of 4, and 2 of 4 added


def test_within_ends_at_three_sigmas():
    inside, outside = near(1, 0, 0, 0, distance=2.999), near(0, 3, 0, 0, distance=3.001)
    report = count_modes(torch.cat([inside, outside]), MODES)
    assert (report.covered, report.share_within) == (1, 0.25)
    assert report.share_stderr == pytest.approx(math.sqrt(3 / 8 * 5 / 8 / 8))
    assert report.kl == pytest.approx(0.25 * math.log(1) + 0.75 * math.log(3))  # the nearest mode, however far


@pytest.mark.parametrize(("name", "count"), [("ring", 8), ("grid", 25)])
def test_the_data_cover_their_own_modes(name, count):
    """P(|x - c| ≤ 3σ) = 1 - exp(-9/2); 2n·KL is nearly χ² with count - 1 degrees of freedom."""
    data = load_data(name)
    report = count_modes(data.train.images, data.modes)
    assert (report.covered, report.total) == (count, count)
    assert abs(report.share_within - (1 - math.exp(-4.5))) < 4 * report.share_stderr
    assert abs(2 * 10_000 * report.kl - (count - 1)) < 4 * math.sqrt(2 * (count - 1))
    # The broken twin reaches to two sigmas.
    twin = count_modes(data.train.images, Modes(data.modes.centers, data.modes.sigma * 2 / 3))
    assert abs(twin.share_within - (1 - math.exp(-4.5))) > 4 * twin.share_stderr


def test_a_missing_mode_is_missed():
    data = load_data("ring")
    kept = data.train.images[data.train.labels != 5]
    report = count_modes(kept, data.modes)
    assert (report.covered, report.total, report.num_samples) == (7, 8, len(kept))
    assert report.kl == pytest.approx(math.log(8 / 7), abs=0.002)
    assert count_modes(torch.cat([kept, data.modes.centers[5:6]]), data.modes).covered == 8  # one sample is enough


def test_modes_of_many_samples_are_those_of_their_parts(monkeypatch):
    data = load_data("grid:500")
    whole = count_modes(data.train.images, data.modes)
    monkeypatch.setattr("probgen.measures.modes._CHUNK_POINTS", 7)
    assert count_modes(data.train.images, data.modes) == whole


@pytest.mark.parametrize("samples", [torch.zeros(0, 2), torch.full((3, 2), math.nan)])
def test_no_samples_and_no_numbers_are_refused(samples):
    with pytest.raises(UserError, match="samples came"):
        count_modes(samples, MODES)


def test_the_protocol_tells_the_rule_and_the_number():
    protocol = count_modes(near(3, 1, 0, 0), MODES).protocol
    for text in ("4 modes", "within 3σ", "Srivastava et al. 2017", "uniform", "4 samples"):
        assert text in protocol


# --- stacked digits


class Exact:
    """Reads the digit from the first pixel."""

    name = "classifier that is never wrong"

    def logits(self, images: Tensor) -> Tensor:
        return F.one_hot(images[:, 0, 0, 0].long(), 10).float()


def stacked(numbers: Tensor) -> Tensor:
    """Images whose channels are filled with the digits of a number."""
    digits = torch.stack([numbers // 100, numbers // 10 % 10, numbers % 10], dim=1)
    return digits.to(torch.uint8).view(-1, 3, 1, 1).expand(-1, 3, 28, 28)


def test_stacked_modes_by_hand():
    everything = torch.arange(1000)
    report = count_stacked_modes(stacked(everything), Exact())
    assert (report.covered, report.total, report.share_within) == (1000, 1000, None)
    assert report.kl == pytest.approx(0, abs=1e-12)
    missing = count_stacked_modes(stacked(everything[everything != 123]), Exact())
    assert (missing.covered, missing.num_samples) == (999, 999)
    assert missing.kl == pytest.approx(math.log(1000 / 999))
    collapsed = count_stacked_modes(stacked(torch.full((50,), 321)), Exact())
    assert (collapsed.covered, collapsed.kl) == (1, pytest.approx(math.log(1000)))


def test_stacked_modes_are_ordered_triples():
    """A twin that takes the channels as a set would find one mode in 012, 021, 102, …."""
    numbers = torch.tensor([12, 21, 102, 120, 201, 210])
    assert count_stacked_modes(stacked(numbers), Exact()).covered == 6


def test_stacked_modes_against_a_law():
    law = torch.full((1000,), 0.5 / 999, dtype=torch.float64)
    law[7] = 0.5
    report = count_stacked_modes(stacked(torch.tensor([7, 7, 7, 8])), Exact(), law)
    assert report.kl == pytest.approx(0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 * 999 / 0.5))
    assert "the law of the training labels" in report.protocol
    assert "to uniform" in count_stacked_modes(stacked(torch.tensor([7])), Exact()).protocol


def test_the_stacked_protocol_names_classifier_threshold_and_number():
    protocol = count_stacked_modes(stacked(torch.arange(60)), Exact()).protocol
    published = "Srivastava et al. 2017 and Lin et al. 2018, draws 26000"
    for text in ("classifier that is never wrong", "without a threshold", "60 samples", published):
        assert text in protocol
    assert isinstance(Exact(), DigitClassifier)


def test_no_images_are_refused():
    with pytest.raises(UserError, match="0 images came"):
        count_stacked_modes(torch.zeros(0, 3, 28, 28, dtype=torch.uint8), Exact())


def test_the_divergence_of_histograms():
    assert histogram_kl(torch.tensor([5, 5])) == pytest.approx(0)
    assert histogram_kl(torch.tensor([5, 0])) == pytest.approx(math.log(2))
    assert histogram_kl(torch.tensor([1, 3]), torch.tensor([0.25, 0.75], dtype=torch.float64)) == pytest.approx(0)


def test_the_law_of_the_digits_sums_to_one(monkeypatch):
    data = load_fake("stacked-mnist:3000", monkeypatch)
    law = digit_law(data)
    assert float(law.sum()) == pytest.approx(1)
    digits = torch.cat([data.train.factors[f"digit{k}"] for k in (1, 2, 3)])
    share = (digits.bincount(minlength=10).double() + 1) / (len(digits) + 10)
    assert float(law[407]) == pytest.approx(float(share[4] * share[0] * share[7]))
    assert is_stacked(data)
    assert not is_stacked(load_data("digits"))
