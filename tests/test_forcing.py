"""Teacher forcing and student forcing: what the network is conditioned on in training, and what that does to p(x)."""

import itertools

import numpy as np
import pyro
import pytest
import torch
from image_networks import BINARY, MIXTURE, THREE_LEVELS
from laws import check_equal, check_estimate, check_sampler
from oracles import all_images, array
from pyro import poutine
from torch import nn

import probgen.models.autoregressive as autoregressive
from probgen.distributions import FactoredImage
from probgen.distributions.forcing import GivenConditions, student_forced
from probgen.errors import UserError
from probgen.inference import elbo_terms, fit
from probgen.inference.batches import TensorImages
from probgen.inference.trainer import TrainConfig, Trainer
from probgen.models.pixelrnn import DiagonalBiLSTM, PixelRNN, RasterLSTM, RowLSTM

RECURRENT = [RowLSTM, DiagonalBiLSTM, RasterLSTM]
CONDITIONALS = {"bernoulli": BINARY, "categorical": THREE_LEVELS, "logistic-mixture": MIXTURE}


class Table(nn.Module):
    """Any density of images 1 1 w of 0 and 1: one logit for each pixel and each value of those before it."""

    def __init__(self, image_shape, outputs, context_shape=None):
        super().__init__()
        width = image_shape[-1]
        self.logits = nn.ParameterList(torch.zeros(2**i, dtype=torch.float64) for i in range(width))

    def forward(self, x, context=None):
        bits = (x[:, 0, 0] > 0).long()
        places = [bits[:, :i] @ 2 ** torch.arange(i).flip(0) for i in range(bits.shape[1])]
        numbers = [logits[place] for logits, place in zip(self.logits, places, strict=True)]
        return torch.stack(numbers, -1)[:, None, None, None]


def table(width, share, warmup=0):
    """The exact model of `width` binary pixels, trained with that share of its own draws."""
    options = {"conditional": None, "mixtures": 1, "condition": "none"}
    return PixelRNN((1, 1, width), 2, None, Table, student_forcing=share, forcing_warmup=warmup, **options).double()


# --- the factors side by side


@pytest.mark.parametrize("name", CONDITIONALS)
def test_given_conditions_add_up_the_factors(name):
    conditional = CONDITIONALS[name]
    numbers = torch.randn(5, conditional.size, 2, 2, 3, dtype=torch.float64)
    x = torch.randint(conditional.levels, (5, 2, 2, 3)).double()
    masses = array(conditional.probabilities(numbers))
    expected = [
        sum(np.log(masses[int(x[b, *place]), b, *place]) for place in itertools.product(range(2), range(2), range(3)))
        for b in range(5)
    ]
    check_equal(GivenConditions(numbers, conditional).log_prob(x), expected)


@pytest.mark.parametrize("name", CONDITIONALS)
def test_given_conditions_draw_each_place_by_itself(name):
    conditional = CONDITIONALS[name]
    numbers = torch.randn(1, conditional.size, 1, 1, 2, dtype=torch.float64).expand(4000, -1, -1, -1, -1)
    drawn = GivenConditions(numbers, conditional).sample().long()
    masses = array(conditional.probabilities(numbers[:1]))[:, 0, 0, 0]
    both = np.outer(masses[:, 0], masses[:, 1]).ravel()
    check_sampler(conditional.levels * drawn[..., 0] + drawn[..., 1], both)


@pytest.mark.parametrize("name", CONDITIONALS)
@pytest.mark.parametrize("wrong", [-1.0, 0.5, 99.0, float("nan")])
def test_given_conditions_refuse_values_that_are_no_levels(name, wrong):
    conditional = CONDITIONALS[name]
    numbers, x = torch.zeros(2, conditional.size, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    x[1, 0, 1, 1] = wrong
    with pytest.raises(UserError, match=f"a pixel of value {wrong:g} came, expected whole numbers 0 to"):
        GivenConditions(numbers, conditional).log_prob(x)


# --- a share of 0, and one that is not


@pytest.mark.parametrize("model", RECURRENT)
@pytest.mark.parametrize("condition", ["none", "label"])
def test_without_a_share_student_forcing_is_teacher_forcing(model, condition):
    pair = model((1, 3, 3), 3, 2, features=4, condition=condition).double()
    x, y = torch.randint(3, (4, 1, 3, 3)).double(), torch.tensor([0, 1, 1, 0]) if condition == "label" else None
    density = pair.distribution(y)
    values = density.log_prob(x), student_forced(density.numbers, pair.conditional, x, 0.0).log_prob(x)
    assert torch.equal(*values)
    gradients = [torch.autograd.grad(value.sum(), pair.network.parameters()) for value in values]
    assert all(map(torch.equal, *gradients))
    pair.train()
    assert isinstance(pair.training_distribution(x, y), FactoredImage)


def by_hand(logits, x, share):
    """Σ_r Π_j q(r_j | x_≤j) Σ_i log p(x_i | r_<i) of one image, over every r that training may show."""

    def log_p(value, i, before):
        logit = float(logits[i][sum(int(bit) << k for k, bit in enumerate(reversed(before)))])
        return -np.logaddexp(0, -logit if value else logit)

    total = 0.0
    for r in itertools.product([0, 1], repeat=len(x)):
        chance = np.prod([(1 - share) * (r[j] == x[j]) + share * np.exp(log_p(r[j], j, x[:j])) for j in range(len(x))])
        total += chance * sum(log_p(x[i], i, r[:i]) for i in range(len(x)))
    return total


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_objective_is_the_expectation_over_what_training_may_show(share):
    pair, images = table(3, share).train(), all_images(2, (1, 1, 3))
    for logits in pair.network.logits:
        nn.init.normal_(logits, std=1.5)
    logits = [array(row) for row in pair.network.logits]
    expected = [by_hand(logits, x, share) for x in images.flatten(1).int().tolist()]
    teacher = array(pair.log_prob(images))
    draws = pair.training_distribution(images.repeat(4000, 1, 1, 1), None).log_prob(images.repeat(4000, 1, 1, 1))
    check_estimate(draws.reshape(4000, 8), expected, largest_error=0.05)
    with pytest.raises(AssertionError):  # the likelihood itself is something else
        check_estimate(draws.reshape(4000, 8), teacher, largest_error=0.05)


# --- what it does to the likelihood (Huszár 2015)

JOINT = np.array([[0.5, 0.1], [0.1, 0.3]])  # p(x_1, x_2)
FIRST, SECOND = JOINT.sum(1), JOINT.sum(0)
ENTROPY = -(JOINT * np.log(JOINT)).sum()
INFORMATION = (JOINT * np.log(JOINT / np.outer(FIRST, SECOND))).sum()


def fitted(share):
    """The exact model of two pixels, trained on images of which exactly these shares are there."""
    counts = torch.tensor(JOINT.ravel() * 1000).round().long()
    images = all_images(2, (1, 1, 2)).repeat_interleave(counts, 0)
    pair = table(2, share)
    fit(pair, images, steps=400, batch_size=1000, lr=0.05, schedule="cosine", ema=0.99, progress=False)
    return pair


@pytest.mark.parametrize(("share", "lost"), [(0.0, 0.0), (1.0, INFORMATION)])
def test_trained_on_its_own_draws_alone_a_model_forgets_what_pixels_say_of_each_other(share, lost):
    """Its best p(x_2 | x_1) is p(x_2), which costs the mutual information; teacher forcing reaches −H(x)."""
    pair = fitted(share)
    after = array(pair.network.logits[1].sigmoid())  # p(x_2 = 1 | x_1 = 0), p(x_2 = 1 | x_1 = 1)
    expected = [SECOND[1], SECOND[1]] if share else JOINT[:, 1] / FIRST
    check_equal(pair.network.logits[0].sigmoid(), [FIRST[1]], 0.02)
    check_equal(after, expected, 0.03)
    log_likelihood = JOINT.ravel() @ array(pair.log_prob(all_images(2, (1, 1, 2))))
    assert INFORMATION > 0.1
    assert log_likelihood == pytest.approx(-ENTROPY - lost, abs=0.01)


# --- when it is done


@pytest.mark.parametrize("model", RECURRENT)
def test_evaluation_never_mixes(model):
    pair, x = model((1, 3, 3), 2, features=4, student_forcing=1.0).double(), all_images(2, (1, 3, 3))[:200:7]
    pair.eval()
    exact = pair.log_prob(x)
    check_equal(elbo_terms(pair.model, pair.guide, x).elbo, exact)
    assert isinstance(pair.training_distribution(x, None), FactoredImage)
    pair.train()
    check_equal(pair.log_prob(x), exact)
    check_equal(elbo_terms(pair.model, pair.guide, x).elbo, exact)  # as validation during training does
    assert pair.training
    trace = poutine.trace(pair.model).get_trace(x)
    assert isinstance(trace.nodes["x"]["fn"], GivenConditions)
    assert (trace.nodes["x"]["fn"].log_prob(x) - exact).abs().max() > 1e-3


def test_the_share_rises_linearly_over_the_warmup(monkeypatch):
    pair, shares = table(2, 0.8, warmup=4), []
    real = autoregressive.student_forced
    monkeypatch.setattr(autoregressive, "student_forced", lambda *args: shares.append(args[3]) or real(*args))
    trainer = Trainer(pair, TensorImages(all_images(2, (1, 1, 2))), TrainConfig(steps=6, batch_size=4))
    shares.clear()
    for _ in range(6):
        trainer.step()
    check_equal(shares, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_own_draws_are_no_way_for_gradients():
    """The draws are constants: the gradient is that of the factors at what was shown."""
    pair, x = table(2, 1.0).train(), all_images(2, (1, 1, 2))
    pyro.set_rng_seed(3)
    (came,) = torch.autograd.grad(pair.training_distribution(x, None).log_prob(x).sum(), [pair.network.logits[0]])
    expected = (x[:, 0, 0, 0] - pair.network.logits[0].sigmoid()).sum()
    check_equal(came, expected[None])
