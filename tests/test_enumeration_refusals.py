"""Marks for enumeration that cannot be followed, and programs that do not carry the values on."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from discrete_pairs import PARALLEL, Guided, Mixture
from pyro import poutine
from pyro.infer import config_enumerate

from probgen.errors import UserError
from probgen.inference import elbo_terms, iwae
from probgen.inference.checks import check_pair
from probgen.inference.objective import step_objective

X = torch.tensor(np.random.default_rng(5).normal(size=(6, 2)))


def model_of(mark, fn=None, mean=lambda c: c[..., None] * torch.ones(2), scale=1.0):
    def model(x):
        with pyro.plate("images", len(x)):
            with poutine.scale(scale=scale):
                c = pyro.sample("c", fn or dist.Bernoulli(torch.tensor(0.5)), infer=mark)
            pyro.sample("x", dist.Normal(mean(c), 1.0).to_event(1), obs=x.float())

    return model


def outside(x):
    with pyro.plate("images", len(x), dim=-2):
        with pyro.plate("pixels", 2, dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer=PARALLEL)
        pyro.sample("x", dist.Normal(c.sum(-1, keepdim=True), 1.0), obs=x[:, :1])


def crossed(x):
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)
    with pyro.plate("images", len(x), dim=-3):
        with rows:
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)), infer=PARALLEL)
        with columns:
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5)), infer=PARALLEL)
        with rows, columns:
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x[..., None].expand(-1, 2, 2))


def no_plate(x):
    c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer=PARALLEL)
    with pyro.plate("images", len(x)):
        pyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


WRONG = {
    "sequential": (model_of({"enumerate": "sequential"}), r"'c' is marked for 'sequential' .*expected 'parallel': set"),
    "samples": (model_of({**PARALLEL, "num_samples": 3}), "'c' .*num_samples=3, expected all"),
    "no mark": (model_of({}), "no site 'c'.*, or sum it out .*parallel"),
    "continuous": (model_of(PARALLEL, dist.Normal(torch.tensor(0.0), 1.0)), "'c' is marked .* a Normal has no list"),
    "event": (
        model_of(PARALLEL, dist.Bernoulli(torch.full((2,), 0.5)).to_event(1), lambda c: c),
        "'c' .* a Bernoulli in an event has no list .*plate",
    ),
    "left": (model_of(PARALLEL, mean=lambda c: torch.stack([c, torch.zeros(6)], -1)), "enumerating 'c', .* fails"),
    "lost": (model_of(PARALLEL, mean=lambda c: torch.ones(6, 2)), "'c' is enumerated, but no other site carries"),
    "scaled": (model_of(PARALLEL, scale=0.5), "'c' has its log-probability scaled by 0.5"),
    "outside": (outside, "'x' depends on 'c', which is enumerated in plate 'pixels'"),
    "crossed": (crossed, "'a', 'b', 'x': enumerated sites in two plates that cross"),
    "no plate": (no_plate, "'c': .*one number for each of the 6 images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_summed_is_refused_in_one_line(name):
    model, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        elbo_terms(model, lambda x: None, X)
    assert "\n" not in str(error.value)


def test_the_cure_that_a_site_without_a_mark_is_told_is_one():
    assert elbo_terms(config_enumerate(model_of({})), lambda x: None, X).estimate.kind == "exact"


def test_a_mark_in_the_guide_is_refused_where_it_is_followed():
    pair = Guided()
    pair.guide = lambda x: poutine.infer_config(Guided.guide, lambda site: {"enumerate": "sequential"})(pair, x)
    with pytest.raises(UserError, match="'c' is marked for 'sequential'"):
        elbo_terms(pair.model, pair.guide, X)
    with pytest.raises(UserError, match="'c' is marked for 'sequential'"):
        check_pair(pair, X)
    assert iwae(pair.model, pair.guide, X, 2).per_image.isfinite().all()


def test_one_sum_has_one_scale_in_training():
    class Scaled(Mixture):
        model = staticmethod(model_of(PARALLEL, scale=0.5))

    with pytest.raises(UserError, match=r"'c', 'x' are summed over together but scaled by \[0.5, 1.0\]"):
        step_objective(Scaled())(X)
