"""What a run's curve shows of trainings that maximize something else than log p(x)."""

import io

import numpy as np
import pytest
from helpers import ok, picture, trained
from PIL import Image

from probgen.inference.receptive_field import field_of
from probgen.models import GatedPixelCNN, RasterLSTM
from probgen.plots import curve

VALID = [{"step": step, "split": "valid", "loss": 9.0, "elbo": -9.0 - step, "kl": 0.0} for step in (1, 2, 3)]


def drawn(records, each="image"):
    with Image.open(io.BytesIO(curve(records, each))) as image:
        return np.asarray(image.convert("RGB"))


def trained_on(term):
    return [{"step": step, "split": "train", "loss": 9.0, term: -8.0 - step} for step in (1, 2, 3)]


@pytest.mark.parametrize("term", ["student_forced", "joint"])
def test_what_was_trained_on_is_drawn_beside_the_exact_number(term):
    within, without = drawn(trained_on(term) + VALID), drawn(trained_on("something-else") + VALID)
    assert max(within.shape[1], without.shape[1]) < 700, "more than one panel"
    assert not np.array_equal(within, without)


def test_a_single_point_is_seen():
    orange = np.array([255, 127, 14])
    assert (np.abs(drawn(VALID[:1]).astype(int) - orange).sum(-1) < 30).sum() > 80


def test_a_run_with_labels_calls_its_training_number_joint():
    lines = (trained("pixelcnn-label") / "metrics.jsonl").read_text()
    assert '"joint"' in lines
    picture(trained("pixelcnn-label") / "pictures" / "curve.png")


def test_sentences_are_told_as_sentences(tmp_path):
    told = ok("train", "language", "--data", "sea-log", "--steps", 2, "--set", "features=4", "--out", tmp_path / "run")
    assert "on validation sentences: log p(x) -" in told.stderr
    assert told.stderr.count("image") == 0


def test_a_long_memory_is_seen_to_its_end():
    assert field_of(RasterLSTM((1, 12, 28), 2, features=8)).num_seen == 11 * 28 + 14


def test_a_network_within_its_reach_sees_all():
    field = field_of(GatedPixelCNN((1, 28, 28), 2, features=2, blocks=2))
    assert field.num_seen < field.num_earlier, "a reach of 8 rows"
    assert field_of(GatedPixelCNN((1, 8, 8), 2, features=4, blocks=5)).num_seen == 60
