"""What a run that trains on its own draws says of its progress: nothing that it is not."""

import json

import pytest
import torch
from helpers import ok, trained

from probgen.errors import UserError
from probgen.inference import fit
from probgen.inference.objective import step_objective
from probgen.models import Objective, PixelCNN, RasterLSTM

BITS = torch.randint(2, (20, 1, 2, 2), generator=torch.Generator().manual_seed(0))


def keys(history, split):
    return {key for record in history if record["split"] == split for key in record}


def test_a_mixed_objective_is_not_called_a_bound():
    model = RasterLSTM((1, 2, 2), 2, features=4, student_forcing=0.5)
    history = fit(model, BITS, steps=3, batch_size=10, valid=BITS, progress=False)
    assert keys(history, "train") == {"step", "epoch", "split", "loss", "student_forced", "lr"}
    assert {"elbo", "log_likelihood", "kl"} <= keys(history, "valid")  # validation is by teacher forcing, and exact


def test_teacher_forcing_is():
    history = fit(RasterLSTM((1, 2, 2), 2, features=4), BITS, steps=3, batch_size=10, progress=False)
    assert "elbo" in keys(history, "train")
    assert "student_forced" not in keys(history, "train")


def test_the_command_tells_of_an_exact_model_in_one_number(tmp_path):
    told = ok("train", "pixelcnn", "--data", "digits", "--steps", 2, "--set", "features=2", "--out", tmp_path / "run")
    line = next(line for line in told.stderr.splitlines() if line.startswith("trained"))
    assert "on validation images: log p(x) -" in line
    assert "elbo" not in line


def test_the_command_tells_of_a_bound_with_its_terms():
    last = json.loads((trained("vae") / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kl"] != 0


def test_labels_and_importance_weights_do_not_go_together():
    model = PixelCNN((1, 2, 2), 2, 2, features=2, blocks=1, condition="label")
    model.objective = Objective("iwae")
    with pytest.raises(UserError, match="objective=iwae came with a pair that takes labels"):
        step_objective(model)
