"""Images with labels: p(x) = Σ_y p(y) p(x | y), summed, drawn from, learned, and refused where it makes no sense."""

import math
import re

import pyro
import pytest
import torch
from image_networks import BINARY, CONTEXTS, density
from laws import check_chain_rule, check_equal, check_mass_is_one, check_sampler
from oracles import all_images
from pyro import poutine
from pyro.distributions import Categorical

from probgen.distributions import FactoredImage, LabelledImage
from probgen.errors import UserError
from probgen.inference import fit
from probgen.inference.batches import TensorImages
from probgen.inference.trainer import TrainConfig, Trainer
from probgen.models import PixelCNN
from probgen.models.registry import find_class

FAMILY = ["pixelcnn", "gated-pixelcnn", "row-lstm", "diagonal-bilstm", "raster-lstm"]
LABELS = torch.tensor([0.2, 1.5, -1.0], dtype=torch.float64)
SHAPE = (1, 2, 2)
family = pytest.mark.parametrize("name", FAMILY)


def pair(name, shape=SHAPE, levels=2, condition="label"):
    """A small model with weights so large that pixels depend on each other and on the label."""
    options = {} if name == "raster-lstm" else {"first_kernel": 3}
    options |= {"blocks": 2} if "cnn" in name else {"layers": 1}
    made = find_class(name)(shape, levels, 3, condition=condition, features=4, **options).double().eval()
    for parameter in made.parameters():
        parameter.data = torch.randn_like(parameter) if parameter.dim() == 1 else 3 * parameter.data
    if condition == "label":
        made.label_logits.data = LABELS.clone()
    return made


def number_of(images, levels=2):
    """Each image's place among all of them."""
    digits = images.flatten(-3).long()
    return digits @ levels ** torch.arange(digits.shape[-1]).flip(0)


def masses(distribution, levels=2, shape=SHAPE):
    return distribution.log_prob(all_images(levels, shape)).exp().detach()


# --- the sum over labels


@family
@pytest.mark.parametrize(("levels", "shape"), [(2, (1, 2, 2)), (3, (1, 1, 3)), (2, (2, 1, 2))], ids=str)
def test_the_evidence_is_the_sum_over_labels_and_sums_to_one_over_images(name, levels, shape):
    model = pair(name, shape, levels)
    each = torch.stack([masses(model.distribution(y), levels, shape) for y in range(3)])
    assert (each[0] - each[1]).abs().max() > 0.01  # labels matter
    came = masses(model.distribution(), levels, shape)
    check_equal(came, LABELS.softmax(0) @ each)
    check_equal(came.sum(), 1.0)
    check_equal(model.log_prob(all_images(levels, shape)).exp(), came)


@family
def test_under_each_label_the_masses_sum_to_one(name):
    check_mass_is_one(pair(name).distribution(torch.arange(3)))


def test_a_label_for_each_image_is_that_images_own():
    model, x = pair("pixelcnn"), all_images(2, SHAPE)[:6]
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    expected = [model.distribution(int(y)).log_prob(image) for y, image in zip(labels, x, strict=True)]
    check_equal(model.distribution(labels).log_prob(x), torch.stack(expected))


class WithoutPrior(LabelledImage):
    """Broken: forgets p(y)."""

    def log_prob(self, value):
        return self.component_distribution.log_prob(value[..., None, :, :, :]).logsumexp(-1)


def test_a_sum_without_the_prior_is_told_from_the_right_one():
    right = pair("pixelcnn").distribution()
    wrong = WithoutPrior(right.mixture_distribution, right.component_distribution)
    with pytest.raises(AssertionError):
        check_equal(masses(wrong).sum(), 1.0)


@family
@pytest.mark.parametrize(("levels", "shape"), [(2, (1, 2, 2)), (3, (1, 1, 3)), (2, (2, 1, 2))], ids=str)
def test_each_pixel_is_scored_given_those_before_it_whatever_the_label(name, levels, shape):
    distribution, x = pair(name, shape, levels).distribution(), all_images(levels, shape)
    distribution.conditional = distribution.component_distribution.conditional
    check_chain_rule(distribution)
    check_equal(distribution.log_prob_map(x).sum((1, 2, 3)), distribution.log_prob(x))
    larger = distribution.expand([3, 1]).log_prob_map(x[:4])
    check_equal(larger, distribution.log_prob_map(x[:4]).expand(3, -1, -1, -1, -1))


class PriorOnly(LabelledImage):
    """Broken: what earlier pixels say of the label is not heeded."""

    def log_prob_map(self, value):
        each = self.component_distribution.log_prob_map(value[..., None, :, :, :])
        return (each + self.mixture_distribution.logits[:, None, None, None]).logsumexp(-4)


def test_scores_without_the_posterior_of_the_label_are_told_from_the_right_ones():
    right = pair("pixelcnn").distribution()
    wrong = PriorOnly(right.mixture_distribution, right.component_distribution)
    wrong.conditional = right.component_distribution.conditional
    with pytest.raises(AssertionError):
        check_chain_rule(wrong)


def test_the_entropy_is_estimated_from_draws():
    distribution = pair("pixelcnn").distribution()
    p = masses(distribution)
    assert distribution.entropy(4000).item() == pytest.approx(-(p * p.log()).sum().item(), abs=0.1)
    assert distribution.expand([2]).entropy(3).shape == (2,)
    refused("num_samples=0 came, expected 1 or more", distribution.entropy, 0)


@pytest.mark.parametrize("wrong", [(1, 3, 2), (5, 1, 2, 3), (2, 2), (4,), ()], ids=str)
def test_images_of_another_shape_are_refused(wrong):
    distribution = pair("pixelcnn").distribution()
    says = re.escape(f"images of shape {wrong} came, expected (*batch, 1, 2, 2)")
    refused(says, distribution.check_shape, torch.zeros(wrong))
    if len(wrong) > 2:  # fewer axes are against the annotation
        refused(says, distribution.log_prob, torch.zeros(wrong))
        refused(says, distribution.log_prob_map, torch.zeros(wrong))
    larger, says = distribution.expand([3]), re.escape("images of shape (2, 1, 2, 2) came, expected (3, 1, 2, 2)")
    refused(says, larger.log_prob, torch.zeros(2, *SHAPE))


# --- draws


@family
def test_draws_fit_the_evidence_and_under_a_label_what_that_says(name):
    model, labels = pair(name), range(3)
    for distribution in (model.distribution(), *map(model.distribution, labels)):
        check_sampler(number_of(distribution.sample((2000,))), masses(distribution))


def test_draws_under_labels_of_the_wrong_frequency_are_found():
    model = pair("pixelcnn")
    drawn = model.distribution(torch.randint(3, (2000,))).sample()
    with pytest.raises(AssertionError):
        check_sampler(number_of(drawn), masses(model.distribution()))


@pytest.mark.parametrize("context", ["vector", "map"])
def test_contexts_of_any_shape_can_be_the_labels(context):
    each = density("pixelcnn", SHAPE, BINARY, CONTEXTS[context](3, SHAPE))
    distribution = LabelledImage(Categorical(logits=LABELS), each)
    check_equal(masses(distribution).sum(), 1.0)
    check_sampler(number_of(distribution.sample((2000,))), masses(distribution))


def test_the_naive_sampler_draws_the_same_images():
    drawn = []
    for cached in (True, False):
        torch.manual_seed(1)
        drawn.append(pair("gated-pixelcnn").distribution().sample((4, 5), cached=cached))
    assert drawn[0].shape == (4, 5, *SHAPE)
    assert len(drawn[0].flatten(0, 1).unique(dim=0)) > 3
    check_equal(*drawn)


# --- in a Pyro program


def program(distribution, obs=None):
    with pyro.plate("columns", 3, dim=-2), pyro.plate("rows", 4, dim=-1):
        return pyro.sample("x", distribution, obs=obs)


def test_in_plates_each_place_has_its_own_image_and_its_own_score():
    distribution = pair("pixelcnn").distribution()
    drawn = poutine.trace(program).get_trace(distribution)
    x = drawn.nodes["x"]["value"]
    assert x.shape == (3, 4, *SHAPE)
    assert len(x.flatten(0, 1).unique(dim=0)) > 1
    scored = poutine.trace(program).get_trace(distribution, x)
    scored.compute_log_prob()
    check_equal(scored.nodes["x"]["log_prob"], distribution.log_prob(x))
    check_equal(scored.nodes["x"]["log_prob"][1, 2], distribution.log_prob(x[1, 2]))


def test_each_place_of_a_larger_batch_has_the_same_distribution():
    distribution = pair("pixelcnn").distribution()
    larger = distribution.expand([2]).expand([3, 2])
    assert (larger.batch_shape, larger.event_shape) == ((3, 2), SHAPE)
    drawn = number_of(larger.sample((1500,)))
    for place in ((0, 0), (2, 1)):
        check_sampler(drawn[:, *place], masses(distribution))


# --- training


IMAGES = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).reshape(3, *SHAPE)
COUNTS = torch.tensor([50, 30, 20])


def test_training_learns_what_each_label_looks_like_and_how_frequent_it_is():
    """The label determines the image, so that the best log p(x, y) is −H(y)."""
    labels = torch.arange(3).repeat_interleave(COUNTS)
    model = PixelCNN(SHAPE, 2, 3, condition="label", features=4, blocks=1, first_kernel=3)
    history = fit(model, IMAGES[labels], labels=labels, steps=200, batch_size=100, lr=0.05, progress=False)
    frequencies = COUNTS / COUNTS.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    assert history[0]["joint"] < -3 < history[-1]["joint"]
    assert history[-1]["joint"] == pytest.approx(-float(entropy), abs=0.02)
    check_equal(model.label_logits.softmax(0), frequencies, 0.02)
    assert (model.distribution(torch.arange(3)).log_prob(IMAGES).exp() > 0.98).all()
    check_equal(model.log_prob(IMAGES).exp(), frequencies, 0.03)


def test_the_loss_of_a_step_is_that_of_both_images_and_labels():
    model, labels = pair("pixelcnn"), torch.tensor([0, 2, 1, 1])
    x = all_images(2, SHAPE)[[3, 5, 6, 9]]
    expected = model.distribution(labels).log_prob(x) + LABELS.log_softmax(0)[labels]
    trainer = Trainer(model, TensorImages(x, labels), TrainConfig(steps=1, batch_size=4))
    assert trainer.step()["loss"].item() == pytest.approx(-expected.mean().item())


# --- refused


def refused(says, make, *args, **options):
    with pytest.raises(UserError, match=says) as error:
        make(*args, **options)
    assert len(str(error.value)) < 150
    assert "\n" not in str(error.value)


def test_a_label_for_a_model_without_is_refused():
    model = pair("pixelcnn", condition="none")
    refused("a label came, but this model was trained without", model.distribution, 1)
    refused("a label came", model.sample, 2, label=1)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (3, "label 3 came, expected a whole number, 0 to 2"),
        (-1, "label -1 came"),
        (0.5, "label 0.5 came"),
        ("7", "label '7' came"),
        (torch.full((500,), 99), "label 99 came"),
        (torch.tensor([0, 1, 4, 9]), "label 4 came"),
        (torch.tensor([0.0, math.nan]), "label nan came"),
    ],
)
def test_a_label_that_there_is_not_is_refused_and_named(label, says):
    make = getattr(PixelCNN.distribution, "__wrapped__", PixelCNN.distribution)  # text is against the annotation
    refused(says, make, pair("pixelcnn"), label)


def test_a_completion_without_a_label_is_refused_and_with_one_it_is_drawn():
    model, mask = pair("pixelcnn"), torch.tensor([[True, True], [False, False]])
    given = all_images(2, SHAPE)[12]
    for options in ({"given": given, "mask": mask}, {"given": given}, {"mask": mask}):
        refused("a completion came without a label", model.distribution().sample, (2,), **options)
    refused("a completion came without a label", model.distribution().sample, (2,), given, mask)
    drawn = model.distribution(1).sample((200,), given, mask)
    assert (drawn[:, 0, 0] == given[0, 0]).all()
    assert len(drawn.unique(dim=0)) == 4


def test_data_without_labels_are_refused():
    for name in FAMILY:
        refused("condition=label came with data that have no labels", find_class(name), SHAPE, 2, condition="label")


def test_training_images_without_labels_are_refused():
    model, x = pair("pixelcnn"), all_images(2, SHAPE)
    refused("takes labels, but the training images came without", fit, model, x, steps=1, progress=False)
    refused("takes labels, but", Trainer, model, TensorImages(x), TrainConfig(steps=1))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.arange(3), r"labels of shape \(3,\) came, expected \(16,\)"),
        (torch.zeros(16, 3, dtype=torch.int64), r"labels of shape \(16, 3\) came"),
        (torch.arange(16), "label 3 came|label .* came, expected a whole number, 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_the_images_or_the_model_are_refused(labels, says):
    model = pair("pixelcnn")
    refused(says, fit, model, all_images(2, SHAPE), labels=labels, steps=1, batch_size=16, progress=False)


def test_a_network_that_would_not_hear_of_the_label_is_refused():
    refused("blocks=0, but labels enter in the blocks", PixelCNN, SHAPE, 2, 3, condition="label", blocks=0)
    assert isinstance(PixelCNN(SHAPE, 2, 3, blocks=0).distribution(), FactoredImage)
