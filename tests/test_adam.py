"""Our Adam is torch's, bit for bit: weights, state, and what a checkpoint holds."""

import copy

import pytest
import torch
from torch import nn

from probgen.inference.adam import FusedAdam, clipped, laid_out


def weights():
    torch.manual_seed(0)
    shapes = [(4, 3), (7,), (2, 3, 2, 2), ()]
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def train(kind, *, missing=(), steps=6, reload_at=None, lr=0.1):
    """Weights and state after some steps; `missing`: the step and place of gradients that are none."""
    parameters = weights()
    adam = kind(parameters)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        if step == reload_at:
            state = adam.state_dict()
            adam = kind(parameters)
            adam.load_state_dict(state)
        gradients = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        gradients = [None if (step, place) in missing else gradient for place, gradient in enumerate(gradients)]
        adam.param_groups[0]["lr"] = lr / (step + 1)
        if isinstance(adam, FusedAdam):
            adam.move(gradients)
            continue
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    return parameters, adam.state_dict()


def torchs(parameters):
    return torch.optim.Adam(parameters, betas=(0.5, 0.9), fused=True)


def ours(parameters):
    return FusedAdam(parameters, betas=(0.5, 0.9))


def same(one, other):
    weights_agree = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    states = one[1]["state"], other[1]["state"]
    agree = states[0].keys() == states[1].keys()
    return (
        weights_agree
        and agree
        and all(torch.equal(state[name], states[1][key][name]) for key, state in states[0].items() for name in state)
    )


@pytest.mark.parametrize("missing", [(), ((0, 1),), ((3, 0), (4, 0), (4, 3)), tuple((s, 2) for s in range(6))])
@pytest.mark.parametrize("reload_at", [None, 3])
def test_it_is_torchs(missing, reload_at):
    assert same(train(ours, missing=missing, reload_at=reload_at), train(torchs, missing=missing, reload_at=reload_at))


def gone_on_from_another_layout():
    """A kernel that torch has trained as it lies in memory by default, and the same gone on with in `channels_last`."""
    plain = nn.Parameter(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    adam, steps = torchs([plain]), [torch.arange(48.0).view_as(plain) - 20, torch.ones_like(plain)]
    plain.grad = steps[0]
    adam.step()
    other = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    gone_on = ours([other])
    gone_on.load_state_dict(copy.deepcopy(adam.state_dict()))
    plain.grad = steps[1]
    adam.step()
    gone_on.move([laid_out(steps[1], other)])
    return plain, other


def test_moments_lie_in_memory_as_their_parameters_do():
    assert torch.equal(*gone_on_from_another_layout())


def test_moments_that_lie_otherwise_move_the_wrong_weights(monkeypatch):
    monkeypatch.setattr("probgen.inference.adam.laid_out", lambda moment, _: moment)
    assert not torch.equal(*gone_on_from_another_layout())


def test_another_rate_is_seen():
    assert not same(train(ours, lr=0.2), train(torchs))


def test_a_latched_step_does_not_move():
    parameters = weights()
    adam = ours(parameters)
    before = [p.detach().clone() for p in parameters]
    adam.found_inf = torch.ones(())
    ones = [torch.ones_like(parameter) for parameter in parameters]
    adam.move(ones)
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    adam.found_inf.zero_()
    adam.move(ones)
    assert not any(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("most", [0.1, 100.0])
@pytest.mark.parametrize("known", [False, True])
def test_clipping_is_torchs_and_leaves_the_given_alone(most, known):
    parameters, gradients = weights(), [torch.randn((4, 3)), None, torch.randn((2, 3, 2, 2)), torch.randn(())]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = nn.utils.clip_grad_norm_(parameters, most)
    before = [None if gradient is None else gradient.clone() for gradient in gradients]
    found = clipped(gradients, most, norm if known else None)
    for ours, parameter, gradient, was in zip(found, parameters, gradients, before, strict=True):
        assert (ours is None) == (parameter.grad is None)
        assert ours is None or torch.equal(ours, parameter.grad)
        assert gradient is None or torch.equal(gradient, was)
    assert clipped([None], most) == [None]
