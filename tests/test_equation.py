"""Formulas derived from programs, against formulas written by hand."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen.inference import equation
from probgen.models import VAE, Autoencoder, MultivariateGaussian


def normal(name, loc, obs=None):
    return pyro.sample(name, dist.Normal(loc, 1.0), obs=obs)


class Chain:
    def model(self, x):
        with pyro.plate("images", len(x)):
            z_2 = normal("z_2", torch.zeros(len(x)))
            z_1 = normal("z_1", z_2)
            normal("x", z_1, obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            z_1 = normal("z_1", x[:, 0])
            normal("z_2", z_1)


class Tree:
    def model(self, x):
        with pyro.plate("images", len(x)):
            z = normal("z", torch.zeros(len(x)))
            a, b = normal("a", z), normal("b", z)
            normal("x", a * b, obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            for name in ("z", "a", "b"):
                normal(name, x[:, 0])


class TwoObserved:
    def model(self, x):
        with pyro.plate("images", len(x)):
            z = normal("z", torch.zeros(len(x)))
            x_1 = normal("x", z, obs=x[:, 0])
            normal("y", z + x_1, obs=x[:, 1])

    def guide(self, x):
        with pyro.plate("images", len(x)):
            normal("z", x.sum(1))


class Autoregressive:
    def model(self, x):
        with pyro.plate("images", len(x)):
            total = torch.zeros(len(x))
            for i in range(3):
                total = total + normal(f"x_{i + 1}", total, obs=x[:, i])

    def guide(self, x):
        pass


class Implicit:
    def model(self, x):
        with pyro.plate("images", len(x)):
            z = normal("z", torch.zeros(len(x)))
            pyro.deterministic("x", z**2)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            normal("z", torch.zeros(len(x)))


ELBO = "log p(x) = E_q[log p(x | {0})] − KL(q({1} | x) ‖ p({1})) + KL(q({1} | x) ‖ p({1} | x))"

ZOO = [
    (VAE((1, 2, 2), 3), (1, 2, 2), ["p(x, z) = p(z) · p(x | z)", "q(z | x)", ELBO.format("z", "z")]),
    (MultivariateGaussian((1, 2, 2), 3), (1, 2, 2), ["p(x) = p(x)", "log p(x) = log p(x)"]),
    (
        Chain(),
        (1,),
        [
            "p(x, z_2, z_1) = p(z_2) · p(z_1 | z_2) · p(x | z_1)",
            "q(z_2, z_1 | x) = q(z_1 | x) · q(z_2 | z_1)",
            ELBO.format("z_1", "z_2, z_1"),
        ],
    ),
    (
        Tree(),
        (1,),
        [
            "p(x, z, a, b) = p(z) · p(a | z) · p(b | z) · p(x | a, b)",
            "q(z, a, b | x) = q(z | x) · q(a | x) · q(b | x)",
            ELBO.format("a, b", "z, a, b"),
        ],
    ),
    (
        TwoObserved(),
        (2,),
        [
            "p(x, y, z) = p(z) · p(x | z) · p(y | z, x)",
            "q(z | x, y)",
            "log p(x, y) = E_q[log p(x | z) + log p(y | z, x)] "
            "− KL(q(z | x, y) ‖ p(z)) + KL(q(z | x, y) ‖ p(z | x, y))",
        ],
    ),
    (
        Autoregressive(),
        (3,),
        [
            "p(x_1, x_2, x_3) = p(x_1) · p(x_2 | x_1) · p(x_3 | x_1, x_2)",
            "log p(x_1, x_2, x_3) = log p(x_1) + log p(x_2 | x_1) + log p(x_3 | x_1, x_2)",
        ],
    ),
    (Implicit(), (1,), ["p(z) = p(z)", "q(z)", "x = f(z)"]),
    (Autoencoder((1, 2, 2), 3), (1, 2, 2), ["x = f(z)"]),
]


@pytest.mark.parametrize(("pair", "shape", "lines"), ZOO, ids=lambda value: type(value).__name__)
def test_the_program_gives_the_formula_written_by_hand(pair, shape, lines):
    assert str(equation(pair.model, pair.guide, torch.zeros(3, *shape))).splitlines() == lines


def test_a_guide_that_ignores_the_images_is_written_so():
    class Blind(Chain):
        def guide(self, x):
            with pyro.plate("images", len(x)):
                normal("z_1", torch.zeros(len(x)))
                normal("z_2", torch.zeros(len(x)))

    pair = Blind()
    derived = equation(pair.model, pair.guide, torch.zeros(3, 1))
    assert [factor.parents for factor in derived.guide] == [(), ()]


def test_factors_tell_distribution_shape_and_plates():
    vae = VAE((1, 2, 2), 3, latent_dim=5)
    z, x = equation(vae.model, vae.guide, torch.zeros(3, 1, 2, 2)).model
    assert (z.distribution, z.shape, z.plates) == ("Normal", (5,), ("images",))
    assert (x.distribution, x.shape, x.role) == ("DiscretizedLogistic", (1, 2, 2), "observed")


def test_latex_has_indices_and_one_row_a_line():
    pair = Chain()
    latex = equation(pair.model, pair.guide, torch.zeros(3, 1)).latex
    assert r"p(x, z_{2}, z_{1}) &= p(z_{2})\, p(z_{1} \mid z_{2})\, p(x \mid z_{1})" in latex
    assert latex.count(r"\\" + "\n") == 2


def test_deriving_draws_nothing_from_the_users_random_stream():
    pair, state = Chain(), torch.get_rng_state()
    equation(pair.model, pair.guide, torch.zeros(3, 1))
    assert torch.equal(state, torch.get_rng_state())
