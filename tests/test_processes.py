"""Several processes train as one: the same step, the same weights, one run directory."""

import json
import os
import shutil
import subprocess
import sys

import in_processes as shared
import pyro
import pytest
import torch
from helpers import Result, check_refusal, ok, records
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import probgen.commands.recorder as recorder
import probgen.commands.train as train_command
from probgen.errors import UserError
from probgen.inference.adam import FusedAdam
from probgen.inference.batches import BatchOrder, share
from probgen.inference.objective import StepTerms
from probgen.inference.processes import ALONE, AgreedError, Exchange, Group, Processes
from probgen.inference.randomness import seed_of

VAE = (
    "vae", "--data", "digits", "--batch-size", 301, "--steps", 14, "--binarize", "dynamic", "--ema", 0.9,
    "--patience", 9, "--set", "latent_dim=2", "--set", "hidden=16",
)  # fmt: skip
GAN = ("gan", "--data", "ring:300", "--batch-size", 31, "--steps", 14, "--ema", 0.9, "--set", "hidden=8")
PACKED = ("gan", "--data", "ring:300", "--batch-size", 30, "--set", "packing=2")
DCGAN = ("gan", "--data", "sprites:40", "--batch-size", 3, "--set", "network=dcgan", "--set", "hidden=4")
LAWS = ("gradient_of_a_vae", "gradient_of_a_pixelcnn", "steps_without_noise", "running_statistics")
LAWS += ("one_process_diverges", "one_process_wants_to_stop", "steps_in_another_layout", "gradients_of_two_players")
LAWS += ("gradients_of_normalized_players", "steps_of_two_players", "recorded_steps_of_two_players")
LAWS += ("a_player_diverges_in_one_process",)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """All that needs two processes, done once."""
    place = tmp_path_factory.mktemp("processes")
    resume = ["train", "--out", str(place / "killed"), "--resume", "--json"]
    jobs = [{"name": name, "function": name} for name in LAWS]
    jobs += [
        {"name": "whole", "args": ["train", *map(str, VAE), "--out", str(place / "whole"), "--json"]},
        {"name": "killed", "args": ["train", *map(str, VAE), "--out", str(place / "killed")], "die_at": 6},
        {"copy": [str(place / "killed"), str(place / "alone")]},
        {"name": "resumed", "args": resume},
        {"name": "nan", "args": ["train", *map(str, VAE), "--lr", "1e30", "--out", str(place / "nan")]},
        {"name": "raises 0", "args": ["train", *map(str, VAE), "--out", str(place / "raises 0")], "raise_in": 0},
        {"name": "raises 1", "args": ["train", *map(str, VAE), "--out", str(place / "raises 1")], "raise_in": 1},
        {"name": "gan whole", "args": ["train", *map(str, GAN), "--out", str(place / "gan whole"), "--json"]},
        {"name": "gan killed", "args": ["train", *map(str, GAN), "--out", str(place / "gan killed")], "die_at": 6},
        {"name": "gan resumed", "args": ["train", "--out", str(place / "gan killed"), "--resume", "--json"]},
        {"name": "wrong", "args": ["train", *map(str, VAE), "--devices", "3", "--out", str(place / "wrong")]},
    ]
    (place / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-W", "ignore", shared.__file__, place / "jobs.json", place]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return place


def found(place, name):
    """What each process gave."""
    return [torch.load(place / f"{name}-{rank}.pt") for rank in range(shared.WORLD)]


def said(place, name):
    return [Result(**json.loads((place / f"{name}-{rank}.json").read_text())) for rank in range(shared.WORLD)]


def close(one, other, tolerance=1e-6):
    """The same tensors, up to the rounding of a float32 sum taken in another order."""
    return all(torch.allclose(a, b, rtol=10 * tolerance, atol=tolerance) for a, b in zip(one, other, strict=True))


# --- one step of two processes is one step


def test_without_noise_two_processes_have_the_gradient_of_one(place):
    first, second = found(place, "gradient_of_a_pixelcnn")
    alone = shared.gradient_of_a_pixelcnn(ALONE)
    assert close(first["gradient"], alone["gradient"])
    assert first["loss"] == pytest.approx(alone["loss"].item(), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(first["gradient"], second["gradient"], strict=True))


def test_two_processes_take_the_steps_of_one(place):
    first, second = found(place, "steps_without_noise")
    alone = shared.steps_without_noise(ALONE)
    assert close(first["weights"].values(), alone["weights"].values(), 1e-10)
    assert close(first["average"], alone["average"], 1e-10)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])


def test_two_processes_take_the_steps_of_one_whatever_the_layout_in_memory(place):
    """Adam's fused kernel reads gradients as they lie: in another layout each weight would be moved by another's."""
    first, _ = found(place, "steps_in_another_layout")
    alone = shared.steps_in_another_layout(ALONE)
    assert close(first["weights"].values(), alone["weights"].values(), 1e-8)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-9)


def gradients_apart():
    """Each process's own gradient of a VAE, computed here one after the other; and how many images each has."""
    gradients, numbers = [], []
    for rank in range(shared.WORLD):
        trainer = shared.trainer_of("vae")
        trainer.processes = Someone(rank, shared.WORLD)
        pyro.set_rng_seed(100 + rank)
        batch = trainer.batch(0)
        gradients.append(trainer.gradients(*batch).gradients)
        numbers.append(len(batch[0]))
    return gradients, numbers


def averaged(gradients, weights):
    return [sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*gradients, strict=True)]


def test_the_gradient_of_a_vae_is_the_mean_over_all_images_each_with_its_own_noise(place):
    first, second = found(place, "gradient_of_a_vae")
    gradients, numbers = gradients_apart()
    assert numbers == [first["rows"], second["rows"]] == [17, 16]
    expected = averaged(gradients, [n / shared.BATCH for n in numbers])
    assert close(first["gradient"], expected)
    assert all(torch.equal(a, b) for a, b in zip(first["gradient"], second["gradient"], strict=True))
    assert not close(first["gradient"], averaged(gradients, [0.5, 0.5])), "shares of other sizes, weighted alike, pass"
    assert not close(*gradients), "both processes drew the same noise"


def test_running_statistics_are_the_same_in_all_processes(place):
    first, second = found(place, "running_statistics")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["encoder.2.running_mean"].any()


def test_a_loss_that_is_no_number_in_one_process_ends_all_with_its_words(place):
    first, second = found(place, "one_process_diverges")
    assert first == second
    assert "step 1: the loss is nan" in first


def test_one_process_that_wants_to_stop_stops_all_after_the_same_step(place):
    assert found(place, "one_process_wants_to_stop") == [[False, False, True, True]] * 2


# --- two players in two processes


def share_of_players(rank, options):
    """What process `rank` of two would find by itself, without an exchange."""
    trainer = shared.players_of(options=options)
    trainer.processes = Someone(rank, shared.WORLD)
    pyro.set_rng_seed(100 + rank)
    return shared.gradients_of(trainer)


PLAYERS = {"gradients_of_two_players": None, "gradients_of_normalized_players": shared.NORMALIZED}


@pytest.mark.parametrize("law", PLAYERS)
def test_a_players_gradient_is_the_mean_over_all_images_each_with_its_own_noise(law, place):
    first, second = found(place, law)
    apart = [share_of_players(rank, PLAYERS[law]) for rank in range(shared.WORLD)]
    weights = [share["rows"] / shared.BATCH for share in apart]
    assert [first["rows"], second["rows"]] == [share["rows"] for share in apart] == [17, 16]
    for name in ("discriminator", "generator"):
        gradients, norm = first["found"][name]
        parts = [share["found"][name][0] for share in apart]
        assert close(gradients, averaged(parts, weights), 1e-12)
        assert not close(gradients, averaged(parts, [0.5, 0.5]), 1e-12), "shares of other sizes, weighted alike, pass"
        assert norm.item() == pytest.approx(nn.utils.get_total_norm(gradients).item())
        assert all(torch.equal(a, b) for a, b in zip(gradients, second["found"][name][0], strict=True))
    for name in apart[0]["terms"].keys() - {"discriminator_gradient", "generator_gradient", "lr"}:
        expected = sum(w * share["terms"][name].item() for w, share in zip(weights, apart, strict=True))
        assert first["terms"][name].item() == second["terms"][name].item() == pytest.approx(expected, rel=1e-12)


def test_what_batch_norm_keeps_is_the_mean_of_what_each_process_would_keep(place):
    first, second = found(place, "gradients_of_normalized_players")
    apart = [share_of_players(rank, shared.NORMALIZED) for rank in range(shared.WORLD)]
    weights = [share["rows"] / shared.BATCH for share in apart]
    each = [[share["statistics"][name] for name in first["statistics"]] for share in apart]
    assert each[0]
    assert close(first["statistics"].values(), averaged(each, weights), 1e-12)
    assert not close(first["statistics"].values(), each[0], 1e-12), "the first process's own pass"
    assert all(map(torch.equal, first["statistics"].values(), second["statistics"].values()))


@pytest.mark.parametrize("steps", ["steps_of_two_players", "recorded_steps_of_two_players"])
def test_two_players_are_the_same_in_all_processes(steps, place):
    first, second = found(place, steps)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert [t["value"].item() for t in first["terms"]] == [t["value"].item() for t in second["terms"]]
    assert len(first["average"]) > 4
    assert all(map(torch.equal, first["average"], second["average"]))


def test_two_players_take_the_same_steps_recorded_or_not(place):
    eager, _ = found(place, "steps_of_two_players")
    recorded, _ = found(place, "recorded_steps_of_two_players")
    assert close(eager["weights"].values(), recorded["weights"].values(), 1e-9)
    assert close(eager["average"], recorded["average"], 1e-9)
    for one, other in zip(eager["terms"], recorded["terms"], strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-9)


def test_a_player_that_diverges_in_one_process_ends_all_with_its_words(place):
    first, second = found(place, "a_player_diverges_in_one_process")
    assert first == second
    assert first[0].startswith("step 1: the generator's images are not finite numbers")
    assert first[1], "somebody moved"


# --- the exchange, without processes


class Someone(Processes):
    """One of several processes, the others' numbers known."""

    def __init__(self, rank, world, others=()):
        self.rank, self.world, self.others = rank, world, others

    def total(self, numbers):
        self.sent = numbers.clone()
        for other in self.others:
            numbers += other


def exchanged(ours, theirs, weights=(0.5, 0.5), **flags):
    """What the first of two processes has after an exchange; lists of gradients, None for none."""
    rows = []
    for gradients, weight in ((theirs, weights[1]), (ours, weights[0])):
        parameters = [nn.Parameter(torch.zeros(2)) for _ in gradients]
        own = [None if gradient is None else torch.full((2,), gradient) for gradient in gradients]
        processes, mine = Someone(0, 2, rows), StepTerms(torch.ones(()), {"kl_weight": 0.3}, gradients=own)
        step, failed = Exchange(processes, parameters)(mine, weight, **flags)
        rows.append(processes.sent)
    return [None if gradient is None else gradient.tolist() for gradient in step.gradients], step, failed


def test_a_missing_gradient_counts_as_zeros_where_another_process_has_one():
    gradients, step, failed = exchanged([1.0, None, None], [3.0, 2.0, None])
    assert gradients == [[2.0, 2.0], [1.0, 1.0], None]
    assert (step.loss.item(), step.terms, failed) == (1.0, {"kl_weight": 0.3}, False)
    assert exchanged([1.0], [1.0], failed=True)[2]


def moved_by_exchanged_gradients():
    """A weight in `channels_last` and one in torch's own layout, after a step of Adam on the same gradient."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    plain = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    for moved in (weight, plain):
        mine = StepTerms(torch.ones(()), {}, gradients=[torch.arange(48.0).view_as(moved) - 24])
        step, _ = Exchange(Someone(0, 2), [moved])(mine, 1.0)
        FusedAdam([moved], lr=0.1).move(step.gradients)
    return weight, plain


def test_gradients_lie_in_memory_as_their_parameters_do():
    assert torch.equal(*moved_by_exchanged_gradients())


def test_gradients_that_lie_otherwise_move_the_wrong_weights(monkeypatch):
    """The twin: as they come out of the exchange."""
    monkeypatch.setattr("probgen.inference.processes.all_laid_out", lambda gradients, _: gradients)
    assert not torch.equal(*moved_by_exchanged_gradients())


def test_trouble_of_one_process_is_raised_in_all():
    class Troubled(Processes):
        def gather(self, thing):
            return [thing, "process 1: no data here"]

    with pytest.raises(AgreedError, match="process 1: no data here"):
        Troubled().agree(None)
    ALONE.agree(None)


# --- whose images, whose noise


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 30), st.integers(1, 9))
def test_the_shares_of_all_processes_are_the_batch(num_images, batch_size, step, world):
    order = BatchOrder(num_images, batch_size, seed=3)
    rows = order.rows(step)
    shares = [share(rows, rank, world) for rank in range(world)]
    assert sorted(torch.cat(shares).tolist()) == sorted(rows.tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_rank_and_step_has_a_seed_of_its_own():
    seeds = {seed_of(seed, rank, step) for seed in range(8) for rank in range(1, 9) for step in range(8)}
    assert len(seeds) == 8 * 8 * 8
    assert seed_of(0, 1, 0) == seed_of(0, 1, 0)


def test_a_batch_too_small_for_all_processes_is_refused():
    trainer = shared.trainer_of("vae")
    with pytest.raises(UserError, match="a batch of 33 came with 34 processes"):
        trainer.join(Someone(0, 34))


# --- one run directory


def without_times(run):
    return [{k: v for k, v in record.items() if k not in ("time", "seconds")} for record in records(run)]


def test_one_process_writes_and_tells(place):
    first, second = said(place, "whole")
    assert (first.code, first.json["steps"]) == (0, 14)
    assert second == Result(0, "", "")
    told = [(r["step"], r["split"]) for r in records(place / "whole")]
    assert len(told) == len(set(told))
    assert [step for step, split in told if split == "train"] == list(range(1, 15))
    assert json.loads((place / "whole" / "config.json").read_text())["devices"] == 2


@pytest.mark.parametrize("kind", ["", "gan "])
def test_killed_and_resumed_by_as_many_processes_it_is_the_same_run(kind, place):
    assert not (place / f"{kind}killed-0.json").exists()
    assert said(place, f"{kind}resumed")[0].json["finished"]
    whole, resumed = place / f"{kind}whole", place / f"{kind}killed"
    assert (whole / "weights.safetensors").read_bytes() == (resumed / "weights.safetensors").read_bytes()
    assert without_times(whole) == without_times(resumed)


@pytest.fixture
def _no_pictures(monkeypatch):
    for module in (recorder, train_command):
        monkeypatch.setattr(module, "draw_progress", lambda *_: None)


@pytest.mark.usefixtures("_no_pictures")
def test_another_number_of_processes_can_go_on(place, tmp_path):
    run = shutil.copytree(place / "alone", tmp_path / "run")
    before = without_times(run)
    done = ok("train", "--out", run, "--resume", "--devices", 1, "--compile", "off", "--json").json
    assert (done["steps"], done["finished"]) == (14, True)
    assert without_times(run)[: len(before)] == before
    config = json.loads((run / "config.json").read_text())
    assert (config["devices"], config["compile"]) == (1, "off")
    assert torch.load(run / "checkpoint.pt", weights_only=True)["noise_of_others"] == []


def test_what_stops_all_is_told_once_by_the_first(place):
    first, second = said(place, "nan")
    assert "the checkpoint of step 1 is kept" in check_refusal(first, "step 2: the loss is")
    assert second == Result(0, "", "")
    first, second = said(place, "wrong")
    check_refusal(first, ("--devices 3", "one of --devices 2"))
    assert second == Result(2, "", "")
    assert not (place / "wrong").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_process_is_told_in_one_line_by_the_first(rank, place):
    first, second = said(place, f"raises {rank}")
    line = check_refusal(first, (f"process {rank}: ValueError: a program's own (", "in_processes.py line "))
    assert "is kept in" in line
    assert second == Result(0, "", "")


def test_an_error_of_one_process_alone_is_not_touched():
    with pytest.raises(ValueError, match="own"), ALONE.errors_in_one_line():
        raise ValueError("own")


def test_on_gpus_where_the_first_would_wait_long_a_process_tells_its_own_error(monkeypatch, capsys):
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    group = object.__new__(Group)
    group.rank, group.world = 1, 2
    with pytest.raises(SystemExit) as end, group.errors_in_one_line():
        raise ValueError("own")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("probgen: process 1: ValueError: own (")
