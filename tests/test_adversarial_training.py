"""One alternating step after the other: what each player does, what it leaves alone, and what stops the game."""

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace

import jaxtyping
import pytest
import torch
from laws import check_equal
from torch.nn.functional import softplus

import probgen.inference.adversarial.trainer as module
from probgen.errors import UserError
from probgen.inference import TrainConfig, TrainingError, fit
from probgen.inference.adversarial.trainer import AdversarialTrainer
from probgen.inference.batches import TensorImages
from probgen.inference.loop import Loop, Recorder
from probgen.inference.predict import sample
from probgen.models.gan import GAN

LOSSES = ("minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic")
REGULARIZERS = ("none", "r1", "r2", "r1+r2", "gradient-penalty")


def small(shape=(3,), levels=None, num_classes=None, *, seed=0, **options):
    """A small pair in float64."""
    torch.manual_seed(seed)
    options = {"latent_dim": 2, "hidden": (6, 5), "activation": "tanh", "regularizer": "none"} | options
    return GAN(shape, levels, num_classes, **options).double()


def points(num=12, dim=3):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(1)).double()


def trainer_of(pair, x, labels=None, kind=AdversarialTrainer, **config):
    config = {"steps": 20, "batch_size": 4, "lr": 0.05} | config
    return kind(pair, TensorImages(x, labels), TrainConfig(**config))


def state_of(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same(one, other, tolerance=0.0):
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one)


@pytest.fixture
def untyped(monkeypatch):
    """As users run it: annotations are checked in tests only."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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


def norms_at(d, x, packing, *y):
    """‖∇ logit‖ of each pack, differentiable in D."""
    x = x.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(d(x, *y).sum(), x, create_graph=True)
    return slope.reshape(len(x) // packing, -1).pow(2).sum(1)


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


def weight(options):
    """A penalty's weight, where there is a penalty."""
    return {"gamma": 0.7} | options if options.get("regularizer", "none") != "none" else options


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


# --- each player for itself


def check_apart(trainer):
    """In neither player's step do the other's parameters move, nor get a gradient; its own do."""
    pair, batch = trainer.pair, trainer.batch(0)
    for mover, other, move in (
        (pair.discriminator, pair.generator, trainer.discriminator_step),
        (pair.generator, pair.discriminator, trainer.generator_step),
    ):
        for parameter in pair.parameters():
            parameter.grad = None
        before = [[p.detach().clone() for p in player.parameters()] for player in (mover, other)]
        move(*batch)
        assert all(torch.equal(*both) for both in zip(other.parameters(), before[1], strict=True)), "the other moved"
        assert all(p.grad is None or not p.grad.any() for p in other.parameters()), "the other has a gradient"
        assert not all(torch.equal(*both) for both in zip(mover.parameters(), before[0], strict=True))
        assert all(p.requires_grad for p in pair.parameters())


class Leaky(AdversarialTrainer):
    """The twin: whatever has a gradient is moved."""

    def update(self, name, loss, *judged):
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return torch.zeros(())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"discriminator_norm": "spectral"}], ids=str)
def test_neither_player_moves_in_the_others_step(loss, options):
    options = dict(options)
    ema = options.pop("ema", None)
    pair = small(loss=loss, **{"regularizer": "r1+r2", "gamma": 0.5} | options)
    check_apart(trainer_of(pair, points(), ema=ema))


def test_a_step_that_moves_both_is_rejected(monkeypatch):
    monkeypatch.setattr(module, "frozen", lambda _: nullcontext())
    with pytest.raises(AssertionError, match="the other"):
        check_apart(trainer_of(small(loss="hinge"), points(), kind=Leaky))


def normalized(norm, loss):
    """A small pair with buffers, of the discriminator and, with batch norm, of the generator too."""
    torch.manual_seed(0)
    options = {"hidden": (3, 4), "latent_dim": 2, "network": "dcgan", "regularizer": "none"}
    return GAN((1, 28, 28), 5, loss=loss, discriminator_norm=norm, **options).double().train()


def check_the_other_rests(pair):
    """In neither player's step does anything of the other's state move, buffers included; its own does."""
    trainer = trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28), generator=torch.Generator().manual_seed(1)))
    for mover, other, move in (
        (pair.discriminator, pair.generator, trainer.discriminator_step),
        (pair.generator, pair.discriminator, trainer.generator_step),
    ):
        own, before = state_of(mover), state_of(other)
        move(*trainer.batch(0))
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items()), "the other moved"
        buffers = [name for name, _ in mover.named_buffers()]
        assert buffers
        assert not any(torch.equal(own[name], mover.state_dict()[name]) for name in buffers if name.endswith("mean"))


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_no_buffer_moves_in_the_others_step(norm, loss, monkeypatch):
    check_the_other_rests(normalized(norm, loss))
    monkeypatch.setattr(module, "buffers_kept", lambda _: nullcontext())
    with pytest.raises(AssertionError, match="the other moved"):
        check_the_other_rests(normalized(norm, loss))


def check_statistics_of_real_images():
    """running ← 0.9 · running + 0.1 · the real batch's mean and variance, of what comes before the batch norm."""
    pair = small(loss="hinge", discriminator_norm="batch").train()
    trainer = trainer_of(pair, points())
    (x,) = trainer.batch(0)
    at = next(i for i, layer in enumerate(pair.discriminator.body) if isinstance(layer, torch.nn.BatchNorm1d))
    layer = pair.discriminator.body[at]
    with torch.no_grad():
        h = pair.discriminator.body[:at](x)
    trainer.discriminator_step(x)
    check_equal(layer.running_mean, 0.1 * h.mean(0), 1e-12)
    check_equal(layer.running_var, 0.9 + 0.1 * h.var(0), 1e-12)
    assert int(layer.num_batches_tracked) == 1


def test_the_discriminators_statistics_are_those_of_real_images(monkeypatch):
    check_statistics_of_real_images()
    monkeypatch.setattr(module, "buffers_kept", lambda _: nullcontext())
    with pytest.raises(AssertionError):
        check_statistics_of_real_images()


def test_buffers_are_kept_where_a_step_fails_and_where_they_are_put_anew():
    layer = torch.nn.BatchNorm1d(2)

    def fail():
        with module.buffers_kept(layer):
            layer(torch.randn(5, 2))
            layer.running_var = torch.full((2,), 7.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(state_of(layer), state_of(torch.nn.BatchNorm1d(2)))


class Counting(AdversarialTrainer):
    """Notes the images that the discriminator sees of each split of the data, and each optimizer's steps."""

    def __init__(self, *args):
        super().__init__(*args)
        self.updates, self.shown = [], []

    def update(self, name, loss, *judged):
        self.updates.append(name)
        return super().update(name, loss, *judged)

    def discriminator_step(self, x, *y):
        self.shown += x[:, 0].tolist()
        return super().discriminator_step(x, *y)

    def generator_step(self, x, *y):
        if self.loss.needs_real:
            self.shown += x[:, 0].tolist()
        return super().generator_step(x, *y)


class Repeating(Counting):
    """The twin: all updates of a step see the same images."""

    def batch(self, number):
        return super().batch(number // self.batches_per_step)


def check_next_images(trainer, num_images):
    """Each epoch of what was shown is all images once."""
    for _ in range(12):
        trainer.step()
    shown = torch.tensor(trainer.shown)
    for epoch in shown[: len(shown) // num_images * num_images].split(num_images):
        assert sorted(epoch.tolist()) == list(range(num_images)), "images come twice in an epoch"


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_discriminator_is_updated_so_many_times_on_the_next_images(loss, steps):
    x = torch.stack([torch.arange(10.0), torch.zeros(10)], 1).double()
    trainer = trainer_of(small((2,), loss=loss, discriminator_steps=steps), x, kind=Counting)
    check_next_images(trainer, 10)
    assert trainer.updates == (["discriminator"] * steps + ["generator"]) * 12
    assert len(trainer.shown) == 12 * 4 * trainer.batches_per_step
    assert trainer.batches_per_step == steps + (loss == "relativistic")
    for name, each in (("discriminator", steps), ("generator", 1)):
        assert {int(moment["step"]) for moment in trainer.optimizers[name].state.values()} == {12 * each}


def test_an_order_that_repeats_images_is_rejected():
    x = torch.stack([torch.arange(10.0), torch.zeros(10)], 1).double()
    with pytest.raises(AssertionError, match="come twice"):
        check_next_images(trainer_of(small((2,), loss="hinge", discriminator_steps=3), x, kind=Repeating), 10)


class Listening(AdversarialTrainer):
    """Keeps the logits of the last discriminator's step."""

    def scores(self, on_real, on_fake):
        self.heard = on_real.clone()
        return super().scores(on_real, on_fake)


class Mixing(Listening):
    """The twin: one pass for both."""

    def discriminator_step(self, x, *y):
        with torch.no_grad():
            both = torch.cat([self.pair.seen(x), self.pair.seen(self.pair.model(len(x)))])
        return self.scores(*self.pair.judge(both).detach().chunk(2))


def check_not_mixed(kind):
    """With batch norm, the logits at real images are the same whatever is generated."""
    heard = []
    for shift in (0.0, 5.0):
        trainer = trainer_of(small(loss="hinge", discriminator_norm="batch"), points(), kind=kind)
        trainer.pair.train()
        with torch.no_grad():
            trainer.pair.generator.body[-2].bias += shift
        trainer.discriminator_step(*trainer.batch(0))
        heard.append(trainer.heard)
    assert torch.equal(*heard), "what is generated changes how real images are judged"


def test_real_and_generated_images_share_no_statistics():
    check_not_mixed(Listening)


def test_a_pass_of_both_together_is_rejected():
    with pytest.raises(AssertionError, match="what is generated changes"):
        check_not_mixed(Mixing)


# --- the average of the generator's weights


def convolutional():
    torch.manual_seed(0)
    return GAN((1, 28, 28), 5, latent_dim=2, hidden=(2,), network="dcgan", loss="hinge").double()


def check_average(average_of, found):
    """The generator's numbers are the hand-computed average, the discriminator's are the last.

    average_of: what to compute the average of. found: the weights that `trainer` gives, after 4 steps.
    """
    pair = convolutional()
    trainer = trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28)), ema=0.5, lr=0.01)
    expected = {name: value.double() for name, value in state_of(pair).items()}
    for step in range(4):
        trainer.step()
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in state_of(pair).items():
            moving = average_of(name) and value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if moving else value.double()
    weights = found(trainer)
    assert same({name: value.double() for name, value in weights.items()}, expected, 1e-12), "not the average"
    return trainer, weights


def kept(trainer):
    return Loop(trainer, quiet=True).final_weights()


def test_what_is_kept_is_the_average_of_the_generator_and_its_statistics_alone():
    trainer, weights = check_average(lambda name: name.startswith("generator"), kept)
    assert sum("generator" in name and "running" in name for name in weights) == 4
    after = state_of(trainer.pair)
    assert not torch.equal(weights["generator.body.2.running_mean"], after["generator.body.2.running_mean"])
    other = convolutional()
    other.load_state_dict(weights)
    trainer.swap_average()  # as where a run draws its pictures
    drawn = []
    for pair in (trainer.pair, other):
        torch.manual_seed(3)
        drawn.append(sample(pair, 3, (1, 28, 28)))
    assert torch.equal(*drawn)
    trainer.swap_average()
    assert same(after, state_of(trainer.pair))


@pytest.mark.parametrize("wrong", ["no statistics", "both players", "the last"])
def test_other_averages_are_rejected(wrong):
    averaged = {
        "no statistics": lambda name: name.startswith("generator") and "running" not in name,
        "both players": lambda name: True,
        "the last": lambda name: name.startswith("generator"),
    }[wrong]
    with pytest.raises(AssertionError, match="not the average"):
        check_average(averaged, (lambda trainer: trainer.weights()) if wrong == "the last" else kept)


def test_what_is_validated_is_the_average():
    """The one that the same run has without any validation."""

    class Noting(Recorder):
        def validated(self, loop):
            seen.append(state_of(loop.trainer.pair.generator))

    seen, runs = [], []
    for valid in (None, points(5)):
        torch.manual_seed(3)
        trainer = trainer_of(small(loss="hinge"), points(), ema=0.9, steps=6)
        torch.manual_seed(4)
        Loop(trainer, valid=valid, recorder=Noting(), quiet=True).run()
        runs.append(trainer)
    assert len(seen) > 1
    average, last = runs[0].average, runs[0].pair.generator.state_dict().values()
    assert all(torch.equal(*both) for both in zip(seen[-1].values(), average, strict=True))
    assert not any(torch.equal(*both) for both in zip(seen[-1].values(), last, strict=True))
    assert same(runs[0].weights(), runs[1].weights())


def test_steps_are_taken_in_training_mode():
    """Whatever mode the pair was left in: batch norm learns its statistics."""
    pair = convolutional().eval()
    before = state_of(pair)
    trainer_of(pair, torch.randint(0, 5, (12, 1, 28, 28))).step()
    assert pair.training
    moved = [
        name for name, value in state_of(pair).items() if "running" in name and not torch.equal(value, before[name])
    ]
    assert any(name.startswith("generator") for name in moved)
    assert any(name.startswith("discriminator") for name in moved)


# --- what stops it


def nan_after(number):
    """A function that gives its argument, and nan from the call of that number on."""
    calls = itertools.count(1)
    return lambda value: value * math.nan if next(calls) >= number else value


@pytest.mark.parametrize(
    ("what", "player", "scale"),
    [
        ("loss", "discriminator", math.nan),
        ("loss", "generator", math.nan),
        ("loss", "generator", math.inf),
        ("gradient", "discriminator", math.inf),
        ("gradient", "generator", math.nan),
        ("gradient", "generator", math.inf),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_diverged_player_is_named_and_has_not_moved(what, player, scale, clip_norm):
    trainer = trainer_of(small(loss="non-saturating"), points(), clip_norm=clip_norm, ema=0.9)
    for _ in range(2):
        trainer.step()
    moving = getattr(trainer.pair, player)
    if what == "gradient":
        next(moving.parameters()).register_hook(lambda gradient: gradient * scale)
    else:
        real = getattr(trainer.loss, player)
        broken = type(trainer.loss)()
        object.__setattr__(broken, player, lambda *logits: real(*logits) * scale)
        trainer.loss = broken
    before, average = state_of(moving), [a.clone() for a in trainer.average]
    with pytest.raises(TrainingError, match=rf"^step 3: the {player}'s {what} is not a finite number.*\(0.05\)"):
        trainer.step()
    assert same(before, state_of(moving))
    assert all(torch.equal(*both) for both in zip(average, trainer.average, strict=True))
    assert trainer.steps_done == 2


def spoilt(player, value):
    """A trainer one of whose players has weights of that value, after a step."""
    trainer = trainer_of(small(loss="hinge", discriminator_lr=3.0), points())
    trainer.step()
    with torch.no_grad():
        for parameter in trainer.pair.get_submodule(player).parameters():
            parameter.fill_(value)
    return trainer


@pytest.mark.parametrize(
    ("broken", "value", "turn", "says"),
    [
        ("discriminator", 1e308, "generator", r"discriminator's logits are not .* lr × discriminator_lr \(0.15\)"),
        ("discriminator", math.nan, "generator", r"discriminator's weights are not .* discriminator_lr \(0.15\)"),
        ("discriminator.last", 1e200, "generator", r"discriminator's gradient in the images is not .*\(0.15\)"),
        ("generator", math.nan, "discriminator", r"generator's images are not .*the learning rate \(0.05\)"),
        ("generator", math.nan, "generator", r"generator's images are not .*the learning rate \(0.05\)"),
    ],
)
def test_the_player_at_fault_is_named_in_the_others_step(broken, value, turn, says):
    trainer = spoilt(broken, value)
    with pytest.raises(TrainingError, match=f"^step 2: the {says}"):
        getattr(trainer, f"{turn}_step")(*trainer.batch(1))


@pytest.mark.parametrize(
    ("options", "clip_norm", "end"),
    [
        ({}, None, ", or set a regularizer or clip_norm"),
        ({"regularizer": "r1", "gamma": 0.1}, None, ", or set clip_norm"),
        ({}, 1.0, ", or set a regularizer"),
        ({"regularizer": "r1", "gamma": 0.1}, 1.0, ""),
    ],
)
def test_what_is_set_already_is_not_suggested(options, clip_norm, end):
    trainer = trainer_of(small(loss="hinge", **options), points() * math.nan, clip_norm=clip_norm)
    with pytest.raises(TrainingError) as caught:
        trainer.step()
    assert str(caught.value).endswith("lower the learning rate (0.05)" + end)


def test_images_that_are_no_numbers_are_the_discriminators_to_meet():
    x = points()
    x[5] = math.nan
    trainer = trainer_of(small(loss="hinge"), x)
    fatal = next(step for step in range(3) if 5 in trainer.order.rows(step))
    for _ in range(fatal):
        trainer.step()
    with pytest.raises(TrainingError, match=f"step {fatal + 1}: the discriminator's loss"):
        trainer.step()


@pytest.mark.parametrize(
    ("options", "config", "says"),
    [
        ({"packing": 3}, {}, "batches of 4 images came with packing=3"),
        ({"discriminator_norm": "batch"}, {"batch_size": 1}, "batches of one image"),
        ({"discriminator_norm": "batch", "packing": 2}, {"batch_size": 2}, "batches of one image"),
        ({}, {"patience": 3}, "patience came"),
        ({"label_smoothing": 0.1}, {}, "label_smoothing=0.1 came with the loss 'hinge'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_a_step(options, config, says):
    with pytest.raises(UserError, match=says):
        trainer_of(small(loss="hinge", **options), points(), **config)


def test_a_sampler_with_classes_wants_labels_before_a_step():
    with pytest.raises(UserError, match="takes labels, but the training images came without"):
        trainer_of(small(num_classes=3, condition="label"), points())


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_player_without_parameters_is_refused(player):
    pair = small()
    getattr(pair, player).requires_grad_(False)
    with pytest.raises(UserError, match=f"the {player} of GAN has no parameters to train"):
        trainer_of(pair, points())


# --- fit, and its history


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_trains_both_and_its_history_tells_of_both(loss):
    pair, fresh = small(loss=loss), small(loss=loss)
    history = fit(pair, points(), valid=points(5), steps=6, batch_size=4, progress=False)
    for name, weight in state_of(pair).items():
        assert name == "discriminator.last.bias" or not torch.equal(weight, fresh.state_dict()[name]), name
    assert not pair.training
    probability = loss in ("minimax", "non-saturating")
    scores = {"value", *(("d_real", "d_fake") if probability else ("critic_real", "critic_fake"))}
    both = {f"{player}_{what}" for player in ("discriminator", "generator") for what in ("loss", "gradient")}
    known = {"step", "epoch", "split"}
    assert {record["split"] for record in history} == {"train", "valid"}
    for record in history:
        assert set(record) == known | scores | (both | {"lr"} if record["split"] == "train" else set())
        assert all(math.isfinite(value) for value in record.values() if not isinstance(value, str))
        assert not probability or (0 < record["d_real"] < 1 and record["value"] < 0)


def test_a_record_is_what_the_step_saw():
    """The scores are of the discriminator before its update; the penalty is told beside the loss."""
    pair = small(loss="non-saturating", regularizer="r1", gamma=0.5)
    trainer = trainer_of(pair, points())
    (x,) = trainer.batch(0)
    torch.manual_seed(3)
    with torch.no_grad():
        fake = pair.model(len(x))
        on_real, on_fake = pair.judge(x), pair.judge(fake)
    expected = 0.25 * norms_at(pair.discriminator, x, 1).mean().item()
    torch.manual_seed(3)
    record = trainer.step()
    check_equal(record["d_real"], on_real.sigmoid().mean())
    check_equal(record["d_fake"], on_fake.sigmoid().mean())
    check_equal(record["value"], -softplus(-on_real).mean() - softplus(on_fake).mean())
    check_equal(record["discriminator_loss"], -record["value"])
    check_equal(record["penalty"], expected)


def test_validation_is_in_eval_mode_and_changes_nothing():
    pair = convolutional()
    x = torch.randint(0, 5, (9, 1, 28, 28), dtype=torch.uint8)
    trainer = trainer_of(pair, x)
    pair.train()
    before = state_of(pair)
    torch.manual_seed(3)
    found = trainer.validation_terms(x)
    assert same(before, state_of(pair))
    assert all(layer.training for layer in pair.modules())
    pair.eval()
    torch.manual_seed(3)
    with torch.no_grad():
        check_equal(found["critic_real"], pair.judge(pair.seen(x.double())).mean())
        check_equal(found["critic_fake"], pair.judge(pair.seen(pair.model(9))).mean())
        pair.train()
        assert abs(found["critic_real"] - pair.judge(pair.seen(x.double())).mean()) > 1e-6  # the twin: training mode


def test_validation_takes_whole_packs_in_parts_and_only_images_with_labels(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 5)
    trainer = trainer_of(small(loss="hinge", packing=2), points())
    found = trainer.validation_terms(points(11))
    check_equal(found["critic_real"], trainer.pair.judge(points(11)[:10]).mean().detach())
    assert trainer.validation_terms(points(1)) == {}
    labels = torch.arange(12) % 3
    trainer = trainer_of(small(num_classes=3, condition="label"), points(), labels)
    assert trainer.validation_terms(points(4)) == {}
    given = torch.tensor([0, 2, 1, 0])
    found = trainer.validation_terms(points(4), given)
    check_equal(found["critic_real"], trainer.pair.judge(points(4), given).mean().detach())


def test_fit_validates_a_sampler_with_classes_on_labelled_images():
    def run(**valid):
        pair = small(loss="hinge", num_classes=3, condition="label")
        labels = torch.arange(12) % 3
        return pair, fit(pair, points(), labels=labels, steps=3, batch_size=4, progress=False, **valid)

    given = torch.tensor([0, 2, 1, 0])
    pair, history = run(valid=points(4), valid_labels=given)
    assert history[-1]["split"] == "valid"
    check_equal(history[-1]["critic_real"], pair.judge(points(4), given).mean().detach())
    for valid, says in (
        ({"valid": points(4)}, "GAN takes labels, but the valid images came without: give valid_labels"),
        ({"valid": points(4), "valid_labels": given[:3]}, r"labels of shape \(3,\) came, expected \(4,\)"),
        ({"valid": points(4), "valid_labels": given + 1}, "labels from 1 to 3 came, expected a whole number, 0 to 2"),
        ({"valid_labels": given}, "valid_labels came without valid images"),
    ):
        with pytest.raises(UserError, match=says):
            run(**valid)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.arange(12), "labels from 0 to 11 came, expected a whole number, 0 to 2, for each image"),
        (torch.arange(12) % 3 - 1, "labels from -1 to 1 came, expected a whole number, 0 to 2"),
        (torch.zeros(12), "labels of dtype torch.float32 came, expected a tensor of torch.int64"),
        (torch.zeros(11, dtype=torch.int64), r"labels of shape \(11,\) came, expected \(12,\)"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_fit_refuses_labels_that_are_none(labels, says):
    with pytest.raises(UserError, match=says) as caught:
        fit(small(num_classes=3, condition="label"), points(), labels=labels, steps=1, progress=False)
    assert len(str(caught.value).splitlines()) == 1


def test_validation_takes_nothing_from_the_noise_of_training():
    runs = []
    for valid in (None, points(5)):
        pair = small(loss="relativistic", instance_noise=0.3)
        fit(pair, points(), steps=6, batch_size=4, valid=valid, progress=False)
        runs.append(state_of(pair))
    assert same(*runs)
    other = small(loss="relativistic", instance_noise=0.3)
    fit(other, points(), steps=6, batch_size=4, seed=1, progress=False)
    assert not same(runs[0], state_of(other), 1e-6)


def test_a_state_is_taken_up_bit_for_bit_or_refused():
    def trainer(**options):
        return trainer_of(small(loss="relativistic", instance_noise=0.3, **options), points(), ema=0.9)

    torch.manual_seed(5)
    whole, first = trainer(), trainer()
    torch.manual_seed(5)
    for _ in range(5):
        whole.step()
    torch.manual_seed(5)
    for _ in range(2):
        first.step()
    state = first.state_dict()
    torch.manual_seed(99)
    second = trainer()
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    assert same(whole.weights(), second.weights())
    assert all(torch.equal(*both) for both in zip(whole.average, second.average, strict=True))
    for broken in (
        state | {"steps_done": 21},
        state | {"average": state["average"][1:]},
        state
        | {
            "optimizers": dict(zip(("discriminator", "generator"), reversed(state["optimizers"].values()), strict=True))
        },
    ):
        with pytest.raises(ValueError, match=r"steps_done|average|optimizer"):
            trainer().load_state_dict(broken)


# --- does it learn

MEAN, COVARIANCE = torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.8]])


def check_near(pair):
    """Mean and covariance of draws are near those of the data."""
    drawn = sample(pair, 4000, (2,))
    assert (drawn.mean(0) - MEAN).abs().max() < 0.3, f"a mean of {drawn.mean(0)}"
    assert (drawn.T.cov() - COVARIANCE).abs().max() < 0.4, f"a covariance of {drawn.T.cov()}"


def test_a_gaussian_is_learned():
    data = torch.distributions.MultivariateNormal(MEAN, COVARIANCE).sample((2000,))
    torch.manual_seed(0)
    pair = GAN((2,), hidden=(32, 32))
    with pytest.raises(AssertionError, match="a mean of"):
        check_near(pair)
    fit(pair, data, steps=400, batch_size=64, lr=3e-3, ema=0.99, progress=False)
    check_near(pair)
