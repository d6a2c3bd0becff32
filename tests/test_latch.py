"""What must not grow with a run, and what must not wait at each of its steps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_processes import trainer_of

from probgen.inference.finite import Latch
from probgen.inference.loop import Loop
from probgen.inference.means import STEPS_HELD, Means
from probgen.inference.trainer import TrainingError


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200), st.integers(0, 200))
def test_means_are_those_of_all_steps_wherever_they_were_saved(numbers, saved_at):
    whole, before, after = Means(), Means(), Means()
    for step, number in enumerate(numbers):
        whole.add({"loss": torch.tensor(number), "lr": 0.5})
        if step < saved_at:
            before.add({"loss": torch.tensor(number), "lr": 0.5})
    after.load_state_dict(before.state_dict())
    for number in numbers[saved_at:]:
        after.add({"loss": torch.tensor(number), "lr": 0.5})
    means = whole.taken()
    assert after.taken() == means  # bit for bit
    assert means["loss"] == pytest.approx(sum(numbers) / len(numbers), rel=1e-9, abs=1e-6)
    assert means["lr"] == 0.5
    whole.add({"loss": 1.0})
    assert whole.taken() == {"loss": 1.0}


def test_the_memory_of_means_does_not_grow():
    means = Means()
    for _ in range(1000):
        means.add({"loss": torch.zeros(())})
        assert len(means.held) < STEPS_HELD


def test_sums_of_large_numbers_lose_nothing():
    """The broken twin: in float32 the mean of 20,000 numbers near 4,000 is off in the fourth digit after the point."""
    numbers = 4000 + torch.rand(20_000)
    means = Means()
    for number in numbers:
        means.add({"loss": number})
    exact = float(numbers.double().mean())
    assert means.taken()["loss"] == pytest.approx(exact, abs=1e-9)
    assert float(sum(numbers) / len(numbers)) != pytest.approx(exact, abs=1e-4)


def latched(bad_from):
    """A trainer on the CPU that looks at losses as it would on a GPU; the loss is nan from a step on."""
    trainer = trainer_of("vae")
    trainer.latch = Latch(trainer.optimizer, "cpu")
    trainer.pair.encoder.register_forward_hook(
        lambda _module, _x, y: y * torch.nan if trainer.steps_done + 1 >= bad_from else y
    )
    return trainer


def test_a_latched_trainer_does_not_move_after_the_first_loss_that_is_no_number():
    trainer = latched(bad_from=3)
    trainer.step(), trainer.step()
    before = trainer.weights()
    moments = [{k: v.clone() for k, v in state.items()} for state in trainer.optimizer.state.values()]
    trainer.look()
    trainer.step()
    trainer.pair.encoder._forward_hooks.clear()  # numbers again: too late
    trainer.step()
    assert all(torch.equal(v, before[k]) for k, v in trainer.weights().items())
    now = list(trainer.optimizer.state.values())
    assert all(torch.equal(was[k], is_[k]) for was, is_ in zip(moments, now, strict=True) for k in was)
    with pytest.raises(TrainingError, match="step 3: the loss is not a finite number"):
        trainer.look()


def test_without_trouble_a_latch_changes_nothing():
    plain, other = trainer_of("vae"), latched(bad_from=99)
    for trainer in (plain, other):
        torch.manual_seed(1)
        for _ in range(3):
            trainer.step()
        trainer.look()
    assert all(torch.equal(v, other.weights()[k]) for k, v in plain.weights().items())


@pytest.mark.parametrize("stop_after", [None, 2])
def test_the_loop_looks_when_it_writes_a_record_and_when_it_ends(stop_after, monkeypatch):
    monkeypatch.setattr("probgen.inference.loop.NUM_RECORDS", 1)
    loop = Loop(latched(bad_from=2), quiet=True)
    if stop_after:
        monkeypatch.setattr(loop.recorder, "stop_requested", lambda: loop.trainer.steps_done == stop_after)
    with pytest.raises(TrainingError, match="step 2"):
        loop.run()
    assert loop.trainer.steps_done == (stop_after or loop.config.steps)
    assert loop.history == []
