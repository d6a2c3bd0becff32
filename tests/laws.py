"""What densities, bounds and estimates must obey: each law raises AssertionError, and each is seen to reject a twin."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from oracles import all_images, array
from scipy import stats
from torch import Tensor, nn

from probgen.distributions import FactoredImage


def check_sums_to_one(log_prob: Callable[[Tensor], Tensor], levels: int, tolerance: float = 1e-9) -> None:
    """Σ_x P(x) = 1 over the levels."""
    total = log_prob(torch.arange(levels, dtype=torch.float64)).exp().sum(0)
    assert (total - 1).abs().max() < tolerance, f"the masses sum to {total.tolist()}"


def check_sampler(draws: ArrayLike | Tensor, masses: ArrayLike, smallest_p: float = 1e-4) -> None:
    """The frequencies of whole-number draws fit the masses of 0, 1, 2, …, by the chi-square test."""
    draws, masses = array(draws).ravel().astype(int), array(masses)
    assert draws.min() >= 0, "a draw below the lowest level"
    assert draws.max() < len(masses), "a draw above the highest level"
    expected, counts = masses * len(draws), np.bincount(draws, minlength=len(masses))
    rare = expected < 5  # these are one class: the chi-square approximation wants 5 or more in each
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    if expected[-1] < 1e-6:
        assert counts[-1] == 0, "draws of levels that have no mass"
        expected, counts = expected[:-1], counts[:-1]
    p = stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue if len(counts) > 1 else 1.0
    assert p > smallest_p, f"frequencies {counts / len(draws)} came, masses {expected / len(draws)} expected, p = {p}"


def check_equal(came: ArrayLike | Tensor, expected: ArrayLike | Tensor, tolerance: float = 1e-9) -> None:
    """Two exact numbers are one, up to rounding, absolute and relative."""
    np.testing.assert_allclose(array(came), array(expected), rtol=tolerance, atol=tolerance)


def check_estimate(
    draws: ArrayLike | Tensor, exact: ArrayLike, *, largest_error: float, num_errors: float = 4.5
) -> None:
    """The mean of independent draws (first axis) lies within a few standard errors of the exact answer.

    largest_error: the standard error may not exceed it, or the test would pass for anything.
    """
    draws = array(draws)
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert np.max(error) <= largest_error, f"standard error {np.max(error):.2g}: no power, draw more"
    off = np.abs(draws.mean(0) - array(exact)) / np.maximum(error, 1e-12)
    assert np.max(off) < num_errors, f"{np.max(off):.1f} standard errors away: {draws.mean(0)} for {array(exact)}"


def check_rises(bounds: list[ArrayLike | Tensor], log_evidence: ArrayLike, num_errors: float = 4.5) -> None:
    """Of tighter and tighter bounds (draws on the first axis) each mean is above the last, none above the evidence.

    In between, a rise must show, by more than the error; over the evidence, nothing may by more than it.
    """
    means = [array(b).mean(0).mean() for b in bounds]
    errors = [array(b).mean(-1).std(ddof=1) / np.sqrt(len(array(b))) for b in bounds]
    for low, high, e, f in zip(means, means[1:], errors, errors[1:], strict=False):
        assert high - low > num_errors * np.hypot(e, f), f"a bound that should rise went from {low} to {high}"
    top = array(log_evidence).mean()
    assert means[-1] < top + num_errors * errors[-1], f"a lower bound of {means[-1]} on {top}"


def check_brackets(
    lower: ArrayLike | Tensor,
    log_evidence: ArrayLike,
    upper: ArrayLike | Tensor,
    *,
    largest_gap: float,
    num_errors: float = 4.5,
) -> None:
    """The bounds of many images, one number each, have the evidence between them on average, and lie close to it.

    largest_gap: neither mean is farther away, and each is known well enough to tell.
    """
    truth = array(log_evidence)
    for name, gaps in (("lower", truth - array(lower)), ("upper", array(upper) - truth)):
        mean, error = gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))
        assert num_errors * error < largest_gap, f"standard error {error:.2g}: no power, take more images"
        assert mean > -num_errors * error, f"the {name} bound is on the wrong side by {-mean:.2g} ± {error:.2g}"
        assert mean < largest_gap, f"the {name} bound is {mean:.2g} away"


def check_per_image(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """One number per image that depends on that image alone."""
    order = torch.arange(len(x)).flip(0)
    check_equal(function(x[order]), function(x)[order])
    check_equal(function(x[:2]), function(x)[:2])


def check_coverage(values: ArrayLike, errors: ArrayLike, truth: float) -> None:
    """About 95 of 100 intervals of 1.96 standard errors hold the truth."""
    share = float(np.mean(np.abs(array(values) - truth) < 1.96 * array(errors)))
    assert 0.90 <= share <= 0.98, f"{share:.1%} of the intervals cover"


def check_maximum(log_likelihood: Callable[[], float], parameters: list[Tensor], size: float = 1e-2) -> None:
    """Random steps away from the parameters lower the log-likelihood."""
    top = log_likelihood()
    for _ in range(20):
        steps = [size * torch.randn_like(p) for p in parameters]
        torch._foreach_add_([p.data for p in parameters], steps)
        assert log_likelihood() < top + 1e-12, "a step away from the maximum raised the likelihood"
        torch._foreach_sub_([p.data for p in parameters], steps)


def check_batch_order(rows: Callable[[int], Tensor], num_images: int, batch_size: int) -> None:
    """Full batches, each epoch all images once, and nothing remembered between calls."""
    steps = 4 * num_images
    batches = [rows(step) for step in range(steps)]
    assert all(len(batch) == batch_size for batch in batches), "a batch is not full"
    for epoch in torch.cat(batches).split(num_images)[: steps * batch_size // num_images]:
        assert sorted(epoch.tolist()) == list(range(num_images)), "an epoch misses an image"
    for step in (steps - 1, 0, steps // 2):
        assert rows(step).tolist() == batches[step].tolist(), "the rows of a step changed"


# --- densities of images


def check_mass_is_one(density: FactoredImage, tolerance: float = 1e-9) -> None:
    """Σ_x p(x) = 1 over every image that there is, for each entry of the batch."""
    total = log_prob_of_all(density).exp().sum(0)
    assert (total - 1).abs().max() < tolerance, f"the masses sum to {total.tolist()}"


def check_chain_rule(density: FactoredImage, tolerance: float = 1e-9) -> None:
    """`log_prob_map` is log p(x_i | x_<i), as the masses of whole images have it: Σ_{x_>i} p(x) / Σ_{x_≥i} p(x)."""
    levels, num = density.conditional.levels, density.event_shape.numel()
    masses = log_prob_of_all(density).exp().reshape(*[levels] * num)  # one axis for each pixel, in channel-major order
    order = torch.arange(num).reshape(density.event_shape).permute(1, 2, 0).flatten().tolist()
    masses = masses.permute(order)
    came = density.log_prob_map(all_images(levels, density.event_shape)).permute(0, 2, 3, 1)
    came = came.reshape(*[levels] * num, num).permute(*order, num)
    upto = masses  # and including place i
    for i in reversed(range(num)):
        before = upto.sum(i, keepdim=True)
        check_equal(came[..., i], (upto / before).log().expand_as(masses), tolerance)
        upto = before


def check_draws_fit(density: FactoredImage, draws: Tensor, log_prob: Tensor | None = None) -> None:
    """Frequencies of whole images fit their exact masses; `log_prob` of every image, where not the density's own."""
    levels = density.conditional.levels
    log_prob = log_prob_of_all(density) if log_prob is None else log_prob
    digits = draws.reshape(-1, density.event_shape.numel()).long()
    check_sampler(digits @ levels ** torch.arange(digits.shape[1]).flip(0), log_prob.exp())


def check_same_draws(density: FactoredImage, num: int = 20, **options: object) -> None:
    """The cached sampler and the naive one give the same images from the same seed, which are not all alike."""
    drawn = []
    for cached in (True, False):
        torch.manual_seed(1)
        drawn.append(density.sample(torch.Size([num]), cached=cached, **options))
    assert len(drawn[1].unique(dim=0)) > 1, "all draws are alike: no power"
    off = (drawn[0] != drawn[1]).flatten(0, -4).any(0)
    assert not off.any(), f"cached and naive draws differ at (channel, row, column) {off.nonzero().tolist()}"


def log_prob_of_all(density: FactoredImage) -> Tensor:
    """log p(x) of every image, `images *batch`."""
    images = all_images(density.conditional.levels, density.event_shape)
    return density.log_prob(images.reshape(len(images), *[1] * len(density.batch_shape), *density.event_shape)).detach()


# --- causal networks


def reach(network: nn.Module, image_shape: Sequence[int], context: Tensor | None = None) -> Tensor:
    """Which places (columns) the numbers of each place (rows) depend on, in raster order, by gradients at 5 images."""
    size = torch.Size(image_shape).numel()
    seen = torch.zeros(size, size, dtype=torch.bool)
    for image in torch.rand(5, *image_shape, dtype=torch.float64):
        x = (2 * image - 1).repeat(size, 1, 1, 1).requires_grad_()
        numbers = network(x, None if context is None else context.expand(size, *context.shape[1:]))
        numbers = (numbers * torch.randn_like(numbers[:1])).sum(1).permute(0, 2, 3, 1).flatten(1)
        (gradient,) = torch.autograd.grad(numbers.diagonal().sum(), x)
        seen |= gradient.permute(0, 2, 3, 1).flatten(1) != 0
    return seen


def check_causal_gradients(network: nn.Module, image_shape: Sequence[int], context: Tensor | None = None) -> None:
    """No conditional has a gradient with respect to its own place or a later one."""
    leaks = reach(network, image_shape, context).triu().nonzero().tolist()
    assert not leaks, f"{[named(i, image_shape) for i in leaks[0]]}: the first depends on the second"


def check_reach(network: nn.Module, image_shape: Sequence[int], expected: Tensor) -> None:
    """Each conditional depends on the places expected, `places places`, and on no other."""
    came = reach(network, image_shape)
    for wrong, what in ((expected & ~came, "misses"), (came & ~expected, "sees")):
        pairs = [[named(i, image_shape) for i in pair] for pair in wrong.nonzero().tolist()]
        assert not pairs, f"{pairs[0]}: the first {what} the second"


def check_reaches_all(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Each conditional depends on every earlier place: no blind spot."""
    size = torch.Size(image_shape).numel()
    check_reach(network, image_shape, torch.ones(size, size).tril(-1).bool())


def named(place: int, image_shape: Sequence[int]) -> tuple[int, ...]:
    """(row, column, channel) of a place in raster order."""
    channels, height, width = image_shape
    return list(itertools.product(range(height), range(width), range(channels)))[place]
