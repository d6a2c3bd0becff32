"""What is drawn of a run's batches depends on the seed, the step and the process, and on nothing before it."""

import random

import numpy as np
import pytest
import torch

from probgen.data import load_data
from probgen.inference.batches import MOST_AT_ONCE, Batches, BatchOrder, TensorImages, stream
from probgen.inference.randomness import random_state, seed_of

CPU = torch.device("cpu")


class Jittered:
    """Images that draw from every generator."""

    def __init__(self, *shape):
        self.shape = shape

    def __len__(self):
        return 50

    def batch(self, rows):
        return torch.rand(len(rows), *self.shape) + random.random() + np.random.rand()


def batches_of(images, batch_size=40, seed=0, **options):
    return Batches(images, BatchOrder(len(images), batch_size, seed), CPU, **{"with_labels": False} | options)


def dynamic():
    return load_data("digits", binarize="dynamic").train


def check_pure(batches, again):
    """Each batch is the same in another order, after other draws; and the global generators do not move."""
    before = random_state()
    in_order = [batches(step)[0].clone() for step in range(30)]
    after = random_state()
    assert torch.equal(before["torch"], after["torch"]), "a global generator moved"
    assert torch.equal(before["numpy"][1], after["numpy"][1]), "a global generator moved"
    assert before["numpy"][2:] == after["numpy"][2:], "a global generator moved"  # types are checked by Python's
    for step in (29, 3, 4, 0, 17):
        torch.rand(3), random.random(), np.random.rand()
        assert torch.equal(again(step)[0], in_order[step]), "it depends on what came before"


@pytest.mark.parametrize("images", [dynamic(), Jittered(2, 2), Jittered(300, 400)], ids=["digits", "small", "large"])
def test_a_batch_is_a_pure_function_of_its_step(images):
    check_pure(batches_of(images), batches_of(images))


def test_batches_that_remember_or_take_from_the_global_stream_are_rejected():
    images, order = Jittered(2, 2), BatchOrder(50, 40, 0)
    with pytest.raises(AssertionError, match="a global generator moved"):
        check_pure(*2 * [lambda step: (images.batch(order.rows(step)),)])
    own = torch.Generator().manual_seed(0)
    with pytest.raises(AssertionError, match="it depends on what came before"):
        check_pure(*2 * [lambda _step: (torch.rand(3, generator=own),)])


def test_the_rows_are_those_of_the_order():
    images = TensorImages(torch.arange(50).view(50, 1), torch.arange(50) * 2)
    batches = batches_of(images, with_labels=True)
    for step in (0, 1, 400, 2):
        x, y = batches(step)
        assert x.flatten().tolist() == batches.order.rows(step).tolist()
        assert y.tolist() == (2 * x.flatten()).tolist()
        first, second = (batches(step, rank, 2) for rank in (0, 1))
        assert torch.equal(first[0], x[::2])
        assert torch.equal(second[1], y[1::2])


def test_bytes_come_as_floats_of_the_same_values():
    stored = torch.arange(250, dtype=torch.uint8).view(50, 5)
    batches = batches_of(TensorImages(stored))
    x, *_ = batches(3)
    assert x.dtype == torch.float32
    assert torch.equal(x, stored[batches.order.rows(3)].float())


def test_no_two_steps_seeds_or_processes_draw_the_same():
    images = Jittered(3)
    drawn = [
        batches_of(images, 10, seed)(step, rank, 2)[0] for seed in (0, 1) for step in (0, 1, 9000) for rank in (0, 1)
    ]
    assert len({tuple(part.flatten().tolist()) for part in drawn}) == 12
    seeds = {stream(seed, rank, block) for seed in range(8) for rank in range(8) for block in range(8)}
    noise = {seed_of(seed, rank, step) for seed in range(8) for rank in range(1, 8) for step in range(8)}
    assert len(seeds | noise) == 8**3 + 7 * 8**2


@pytest.mark.parametrize(("shape", "at_once"), [((2, 2), MOST_AT_ONCE), ((50, 20), 6), ((300, 400), 1)])
def test_small_images_are_fetched_for_several_steps_and_large_ones_for_each(shape, at_once, monkeypatch):
    batches, fetched = batches_of(Jittered(*shape)), []
    own = batches.images.batch
    monkeypatch.setattr(batches.images, "batch", lambda rows: fetched.append(len(rows)) or own(rows))
    for step in range(3):
        batches(step)
    assert fetched == [40 * at_once] * (1 if at_once > 1 else 3)
