"""The units of the causal networks, each against another computation of the same equation."""

import doctest

import numpy as np
import pytest
import torch
from laws import check_equal
from oracles import array
from torch import nn

from probgen.layers import row_lstm
from probgen.layers.pixelcnn import gated
from probgen.layers.row_lstm import lstm


def test_a_gated_unit_is_the_tanh_of_one_half_times_the_sigmoid_of_the_other():
    both = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    a, b = array(both)[:, :3], array(both)[:, 3:]
    check_equal(gated(both), np.tanh(a) / (1 + np.exp(-b)))
    with pytest.raises(AssertionError):  # the halves changed about
        check_equal(gated(both.roll(3, 1)), np.tanh(a) / (1 + np.exp(-b)))


@pytest.mark.parametrize("order", ["ofig", "ifog", "ofgi"])
def test_a_step_of_the_lstm_is_that_of_torchs_cell(order):
    """Torch's gates are in the order i, f, g, o; ours in the order o, f, i, g, and in no other."""
    cell = nn.LSTMCell(5, 3).double()
    x, h, c = (torch.randn(4, size, dtype=torch.float64) for size in (5, 3, 3))
    of_input, of_state = x @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh
    of_torch = dict(zip("ifgo", (of_input + of_state).chunk(4, 1), strict=True))
    came = lstm(torch.cat([of_torch[gate] for gate in order], 1), c)
    if order != "ofig":
        with pytest.raises(AssertionError):
            check_equal(torch.cat(came), torch.cat(cell(x, (h, c))))
        return
    check_equal(torch.cat(came), torch.cat(cell(x, (h, c))))


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(row_lstm).failed == 0
    assert doctest.testmod(row_lstm).attempted >= 1
