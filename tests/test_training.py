"""One gradient step after the other: what each does, which images it sees, and what stops it."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_batch_order, check_equal
from oracles import LinearGaussian
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from probgen.inference import TrainConfig, Trainer, TrainingError, fit
from probgen.inference.batches import BatchOrder, TensorImages
from probgen.inference.loop import Loop
from probgen.models import VAE
from probgen.models.contracts import Objective


def trainer_of(pair, x, **config):
    return Trainer(pair, TensorImages(x), TrainConfig(**({"steps": 20, "batch_size": 4, "lr": 0.05} | config)))


def weights(pair):
    return {name: p.detach().clone() for name, p in pair.named_parameters()}


def same(a, b, tolerance=0.0):
    return all(torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance) for name in a)


class Located(nn.Module):
    """x ~ N(μ, 1) and nothing latent: the loss is a parabola in μ."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


# --- steps


def svi_steps(pair, elbo, trainer, num_steps, lr):
    """Pyro's own loop over the same batches, on the loss per image."""

    def model(x):
        pyro.module("pair", pair)
        pair.model(x)

    def loss(model, guide, x):
        return elbo.differentiable_loss(model, guide, x) / len(x)

    svi = SVI(model, pair.guide, pyro.optim.Adam({"lr": lr}), loss)
    return [svi.step(*trainer.batch(step)) for step in range(num_steps)]


@pytest.mark.parametrize(("kl", "elbo"), [("sampled", Trace_ELBO), ("closed-form", TraceMeanField_ELBO)])
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_steps_are_those_of_pyros_svi(kl, elbo, num_particles, broadcasts):
    ours, theirs = LinearGaussian(), LinearGaussian()
    ours.objective, ours.broadcasts = Objective("elbo", kl, num_particles), broadcasts
    x = ours.data(10)
    vectorize = broadcasts and num_particles > 1
    reference = elbo(
        num_particles=num_particles,
        vectorize_particles=vectorize,
        max_plate_nesting=1 if vectorize else math.inf,
    )
    trainer = trainer_of(ours, x)
    pyro.set_rng_seed(7)
    losses = [float(trainer.step()["loss"]) for _ in range(12)]
    pyro.set_rng_seed(7)
    check_equal(losses, svi_steps(theirs, reference, trainer, 12, 0.05))
    assert same(weights(ours), weights(theirs), 1e-9)
    assert not same(weights(ours), weights(LinearGaussian()), 0.1)


def test_another_seed_takes_other_steps():
    """The twin of the test above: the comparison is not blind to the noise."""
    ours, theirs = LinearGaussian(), LinearGaussian()
    trainer = trainer_of(ours, ours.data(10))
    pyro.set_rng_seed(7)
    for _ in range(12):
        trainer.step()
    pyro.set_rng_seed(8)
    svi_steps(theirs, Trace_ELBO(), trainer, 12, 0.05)
    assert not same(weights(ours), weights(theirs), 1e-3)


def test_vae_steps_are_those_of_pyros_svi():
    pair_of = [VAE((1, 2, 2), 2, latent_dim=2, hidden=(4,)).double() for _ in range(2)]
    pair_of[1].load_state_dict(pair_of[0].state_dict())
    x = torch.randint(0, 2, (10, 1, 2, 2), dtype=torch.uint8)
    trainer = trainer_of(pair_of[0], x)
    pyro.set_rng_seed(7)
    for _ in range(10):
        trainer.step()
    pyro.set_rng_seed(7)
    svi_steps(pair_of[1], TraceMeanField_ELBO(), trainer, 10, 0.05)
    assert same(weights(pair_of[0]), weights(pair_of[1]), 1e-9)


def test_gradient_is_clipped_to_its_norm_over_all_parameters():
    norms = []
    for clip_norm in (None, 0.25):
        pair = LinearGaussian()
        trainer = trainer_of(pair, pair.data(10), clip_norm=clip_norm)
        pyro.set_rng_seed(3)
        trainer.step()
        moved = trainer.optimizer.moments[0]  # the first mean of Adam: a tenth of the gradient
        norms.append(10 * math.sqrt(sum(float(mean.square().sum()) for mean in moved)))
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.usefixtures("untyped")
def test_an_unknown_schedule_is_no_other_one():
    with pytest.raises(KeyError, match="exponential"):
        TrainConfig(steps=4, schedule="exponential").lr_at(1)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 3, [0.25, 0.5, 0.75, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0, [1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2)]),
        ("linear", 1, [0.5, 1, 2 / 3, 1 / 3]),
    ],
)
def test_learning_rate_follows_the_schedule(schedule, warmup, expected):
    config = TrainConfig(steps=4, lr=0.2, schedule=schedule, lr_warmup=warmup)
    check_equal([config.lr_at(step) for step in range(4)], 0.2 * np.array(expected))


def test_the_optimizer_is_given_the_rate_of_the_step():
    """Adam moves by lr · sign(gradient) at first, and by about as much where the gradient keeps its size."""
    pair = Located()
    trainer = trainer_of(pair, torch.full((4, 1), 1e6).double(), lr=0.1, schedule="linear", steps=4)
    moves = []
    for _ in range(4):
        before = pair.mu.item()
        record = trainer.step()
        moves.append(pair.mu.item() - before)
        assert record["lr"] == pytest.approx(trainer.config.lr_at(trainer.steps_done - 1))
    check_equal(moves, [0.1, 0.075, 0.05, 0.025], 1e-5)


def test_average_of_the_weights_is_the_hand_computed_one_and_is_what_fit_leaves():
    pair = LinearGaussian()
    x = pair.data(10)
    trainer = trainer_of(pair, x, ema=0.5, lr=0.3)
    expected = pair.W.detach().clone()
    for step in range(12):
        trainer.step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * pair.W.detach()
    check_equal(trainer.average[0], expected)
    last = pair.W.detach().clone()
    trainer.swap_average()
    check_equal(pair.W, expected)
    trainer.swap_average()
    assert torch.equal(pair.W, last)

    fitted, plain = LinearGaussian(), LinearGaussian()
    fit(fitted, x, steps=12, batch_size=4, lr=0.3, ema=0.5, progress=False)
    fit(plain, x, steps=12, batch_size=4, lr=0.3, progress=False)
    loop = Loop(trainer_of(LinearGaussian(), x, ema=0.5, lr=0.3, steps=12), quiet=True)
    pyro.set_rng_seed(0)
    loop.run()
    check_equal(fitted.W, loop.trainer.average[0])
    assert not same(weights(fitted), weights(plain), 1e-3)


# --- batches


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (12, 4), (7, 5), (5, 5), (3, 1)])
def test_every_epoch_visits_every_image_once_in_full_batches(num_images, batch_size):
    check_batch_order(BatchOrder(num_images, batch_size, seed=3).rows, num_images, batch_size)


def test_orders_that_drop_repeat_or_remember_are_rejected():
    count = iter(range(10**6))
    twins = {
        "not full": lambda step: torch.arange(10)[step * 4 % 10 :][:4],
        "misses": lambda step: torch.randint(0, 10, (4,), generator=torch.Generator().manual_seed(step)),
        "changed": lambda step: (torch.arange(4) + 4 * next(count)) % 10,
    }
    for message, rows in twins.items():
        with pytest.raises(AssertionError, match=message):
            check_batch_order(rows, 10, 4)


def test_order_depends_on_the_seed_and_changes_with_the_epoch():
    orders = [BatchOrder(50, 50, seed).rows(step).tolist() for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_batch_is_no_larger_than_the_data_and_epochs_become_steps():
    assert BatchOrder(5, 100, 0).batch_size == 5
    assert [BatchOrder(100, 32, 0).steps_for(epochs) for epochs in (1, 0.5, 3)] == [4, 2, 10]


# --- what stops it


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_a_weight_moves(bad):
    pair = LinearGaussian()
    x = pair.data(12)
    x[5] = bad
    trainer = trainer_of(pair, x)
    fatal = next(step for step in range(3) if 5 in trainer.order.rows(step))
    for _ in range(fatal):
        trainer.step()
    before = weights(pair)
    with pytest.raises(TrainingError, match=rf"step {fatal + 1}: the loss is .*site '[xz]'"):
        trainer.step()
    assert same(weights(pair), before)
    assert trainer.steps_done == fatal


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_the_site_at_fault_is_named():
    pair = LinearGaussian()
    x = pair.data(12)
    pair.mu.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="log-probability of site 'x' of the model; lower the learning rate"):
        trainer_of(pair, x).step()


def test_patience_stops_and_leaves_the_best_weights():
    """The training mean is 10, the validation's 3: on its way from 0 to 10, μ is best in passing."""
    pair = Located()
    train, valid = torch.full((6, 1), 10.0).double(), torch.full((6, 1), 3.0).double()
    history = fit(pair, train, steps=50, lr=0.4, patience=3, valid=valid, progress=False)
    losses = [record["loss"] for record in history if record["split"] == "valid"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    assert 0 < best < 20
    check_equal(0.5 * (3 - pair.mu.item()) ** 2 + 0.5 * math.log(2 * math.pi), losses[best])
    assert abs(pair.mu.item() - 3) < 0.4
    other = Located()
    fit(other, train, steps=len(losses), lr=0.4, progress=False)
    assert other.mu.item() > 3.5  # without patience it has gone past


def test_validation_takes_nothing_from_the_noise_of_training():
    runs = []
    for valid in (None, LinearGaussian().data(5)):
        pair = LinearGaussian()
        fit(pair, pair.data(10), steps=10, batch_size=4, valid=valid, progress=False)
        runs.append(weights(pair))
    assert same(*runs)
