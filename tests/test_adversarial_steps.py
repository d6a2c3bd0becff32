"""A step of two players is the one written out by hand in plain torch."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from laws import check_equal
from small_players import (
    LOSSES,
    REGULARIZERS,
    norms_at,
    points,
    same,
    small,
    state_of,
    trainer_of,
    weight,
)
from torch.nn.functional import softplus

# --- a step in plain torch, written out by hand

VALUES = {  # what each player lowers, from the papers' formulas: −log σ(l) = softplus(−l)
    "minimax": (
        lambda r, f, s: ((1 - s) * softplus(-r) + s * softplus(r)).mean() + softplus(f).mean(),
        lambda r, f: -softplus(f).mean(),
    ),
    "least-squares": (
        lambda r, f, s: 0.5 * ((r - 1 + s) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda r, f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "hinge": (
        lambda r, f, s: torch.clamp(1 - r, min=0).mean() + torch.clamp(1 + f, min=0).mean(),
        lambda r, f: -f.mean(),
    ),
    "wasserstein": (lambda r, f, s: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "relativistic": (lambda r, f, s: softplus(f - r).mean(), lambda r, f: softplus(r - f).mean()),
}
VALUES["non-saturating"] = (VALUES["minimax"][0], lambda r, f: softplus(-f).mean())


class ByHand:
    """The algorithm, with nothing of the package's but the two networks; images of `levels` grey levels, or points."""

    def __init__(self, pair, play, lr, clip_norm=None, steps=20, levels=None):
        self.g, self.d, self.play, self.levels = pair.generator, pair.discriminator, play, levels
        self.lr, self.clip_norm, self.steps, self.latent = lr, clip_norm, steps, pair.latent_dim
        self.moments = {id(p): [torch.zeros_like(p), torch.zeros_like(p), 0] for p in pair.parameters()}
        self.done, self.norms = 0, []

    def draws(self, num, *y):
        z = torch.normal(torch.zeros(num, self.latent).double(), torch.ones(num, self.latent).double())
        return self.blurred(self.g(z, *y))

    def real(self, x):
        return self.blurred(x if self.levels is None else 2 * x.double() / (self.levels - 1) - 1)

    def blurred(self, x):
        sigma = self.play.instance_noise * (self.steps - self.done) / self.steps
        return x + sigma * torch.randn(x.shape, dtype=torch.float64) if sigma else x

    def penalty(self, real, fake, *y):
        name, packing, d = self.play.regularizer, self.play.packing, self.d
        total = 0.0
        if "r1" in name:
            total += 0.5 * norms_at(d, real, packing, *y).mean()
        if "r2" in name:
            total += 0.5 * norms_at(d, fake, packing, *y).mean()
        if name == "gradient-penalty":
            share = torch.rand(len(real) // packing, dtype=torch.float64).repeat_interleave(packing)
            share = share.reshape(-1, *[1] * (real.dim() - 1))
            total += ((norms_at(d, share * real + (1 - share) * fake, packing, *y).sqrt() - 1) ** 2).mean()
        return self.play.gamma * total

    def adam(self, parameters, loss, factor=1.0):
        parameters = list(parameters)
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        self.norms.append(norm)
        shrunk = min(1.0, self.clip_norm / (norm + 1e-6)) if self.clip_norm else 1.0
        b1, b2 = self.play.beta1, self.play.beta2
        for p, g in zip(parameters, gradients, strict=True):
            m, v, t = self.moments[id(p)]
            m, v, t = b1 * m + (1 - b1) * shrunk * g, b2 * v + (1 - b2) * (shrunk * g) ** 2, t + 1
            self.moments[id(p)] = [m, v, t]
            p.data -= self.lr * factor * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)

    def step(self, batches):
        """batches: for each discriminator's update (x, *y), and last the generator's."""
        lower_d, lower_g = VALUES[self.play.loss]
        for x, *y in batches[:-1]:
            before = buffers_of(self.g)
            fake, real = self.draws(len(x), *y).detach(), self.real(x)
            on_real, after_real = self.d(real, *y), buffers_of(self.d)
            loss = lower_d(on_real, self.d(fake, *y), self.play.label_smoothing)
            self.adam(self.d.parameters(), loss + self.penalty(real, fake, *y), self.play.discriminator_lr)
            put(self.d, after_real)
            put(self.g, before)
        (x, *y), before = batches[-1], buffers_of(self.d)
        on_fake = self.d(self.draws(len(x), *y), *y)
        on_real = self.d(self.real(x), *y).detach() if self.play.loss == "relativistic" else None
        self.adam(self.g.parameters(), lower_g(on_real, on_fake))
        put(self.d, before)
        self.done += 1


def buffers_of(network):
    return [buffer.clone() for buffer in network.buffers()]


def put(network, buffers):
    for buffer, value in zip(network.buffers(), buffers, strict=True):
        buffer.data.copy_(value)


def both_ways(pair, twin, x, labels=None, play=None, num_steps=3, **config):
    """The trainer's steps on `pair`, and those by hand on `twin`, from the same seed; the norms of both."""
    trainer = trainer_of(pair, x, labels, **config)
    hand = ByHand(twin, play or pair.objective, 0.05, config.get("clip_norm"), levels=pair.levels)
    pair.train()
    twin.train()
    torch.manual_seed(7)
    ours = []
    for _ in range(num_steps):
        record = trainer.step()
        ours += [float(record["discriminator_gradient"]), float(record["generator_gradient"])]
    torch.manual_seed(7)
    number, each = 0, trainer.play.discriminator_steps
    for _ in range(num_steps):
        rows = [*range(number, number + each), number + each - (trainer.play.loss != "relativistic")]
        hand.step([trainer.batch(row) for row in rows])
        number = rows[-1] + 1
    return ours, hand.norms


PLAYS = [{"loss": loss, "regularizer": name} for loss, name in itertools.product(LOSSES, REGULARIZERS)]
PLAYS += [{"loss": loss, "label_smoothing": 0.2} for loss in LOSSES[:3]]
PLAYS += [{"loss": loss, "instance_noise": 0.5} for loss in ("hinge", "relativistic")]
PLAYS += [{"regularizer": name, "gamma": 3.0, "packing": 2} for name in REGULARIZERS[1:]]
PLAYS += [{"loss": loss, "discriminator_lr": 4.0, "discriminator_steps": 3} for loss in ("hinge", "relativistic")]
PLAYS += [{"loss": "hinge", "clip_norm": 0.03, "beta1": 0.9, "beta2": 0.5}]
TOGETHER = {"label_smoothing": 0.1, "instance_noise": 0.3, "packing": 2, "clip_norm": 0.1, "discriminator_lr": 3.0}
PLAYS += [{"loss": "non-saturating", "regularizer": "r1+r2", "discriminator_steps": 2, **TOGETHER}]


def split_options(options):
    """What is the model's, and what the training's."""
    config = {key: value for key, value in options.items() if key == "clip_norm"}
    return {key: value for key, value in options.items() if key not in config}, config


@pytest.mark.parametrize("options", PLAYS, ids=lambda o: " ".join(str(value) for value in o.values()))
def test_steps_are_those_written_by_hand(options):
    options, config = split_options(weight(options))
    options = {"loss": "hinge", "beta1": 0.5, "beta2": 0.9} | options
    pair, twin, fresh = (small(**options) for _ in range(3))
    ours, theirs = both_ways(pair, twin, points(), **config)
    check_equal(ours[1::2], theirs[pair.objective.discriminator_steps :: pair.objective.discriminator_steps + 1], 1e-10)
    assert same(state_of(pair), state_of(twin), 1e-10)
    assert not same(state_of(pair), state_of(fresh), 1e-3)


CHANGES = [
    {"loss": "minimax"},
    {"gamma": 0.0},
    {"regularizer": "r2"},
    {"regularizer": "gradient-penalty"},
    {"label_smoothing": 0.0},
    {"instance_noise": 0.0},
    {"discriminator_lr": 1.0},
    {"beta1": 0.0},
    {"beta2": 0.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_other_steps_are_told_apart(change):
    """The twin of the test above: a step that forgets one of the settings ends elsewhere."""
    options = {"loss": "non-saturating", "regularizer": "r1", "gamma": 0.7, "label_smoothing": 0.2}
    options |= {"instance_noise": 0.5, "discriminator_lr": 4.0, "beta1": 0.5, "beta2": 0.9}
    pair, twin = small(**options), small(**options)
    both_ways(pair, twin, points(), play=replace(pair.objective, **change))
    assert not same(state_of(pair), state_of(twin), 1e-6)


def test_steps_on_images_with_labels_are_those_written_by_hand():
    x, labels = torch.randint(0, 5, (12, 1, 2, 2), dtype=torch.uint8), torch.arange(12) % 3
    options = {"condition": "label", "loss": "relativistic", "regularizer": "r1", "gamma": 0.7}
    pair, twin, other = (small((1, 2, 2), 5, 3, **options) for _ in range(3))
    both_ways(pair, twin, x, labels)
    assert same(state_of(pair), state_of(twin), 1e-10)
    both_ways(other, small((1, 2, 2), 5, 3, **options), x, labels.flip(0))
    assert not same(state_of(pair), state_of(other), 1e-6)  # other labels, other steps


def test_steps_through_batch_norm_are_those_written_by_hand():
    """Buffers included: each player's move in its own step, and the discriminator's on real images alone."""
    for options in ({"discriminator_norm": "batch"}, {"discriminator_norm": "spectral"}):
        options |= {"loss": "non-saturating", "discriminator_steps": 2}
        pair, twin = small(**options), small(**options)
        both_ways(pair, twin, points())
        assert same(state_of(pair), state_of(twin), 1e-10)
        assert any("running_mean" in name or name.endswith("._u") for name in state_of(pair))
