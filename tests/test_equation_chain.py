"""Formulas of densities that are a product over pixels."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from image_networks import BINARY, build

from probgen.distributions import FactoredImage
from probgen.inference import equation
from probgen.models import VAE, GatedPixelCNN, PixelCNN
from probgen.models.pixelrnn import RowLSTM

SHAPE = (1, 2, 2)


def derived(pair):
    return equation(pair.model, pair.guide, torch.zeros(3, *SHAPE))


def latex(pair):
    return derived(pair).latex.splitlines()[1:-1]


@pytest.mark.parametrize("model", [PixelCNN, GatedPixelCNN, RowLSTM])
def test_a_product_over_pixels_has_a_logarithm_that_is_a_sum(model):
    pair = model(SHAPE, 3, features=2)
    found = derived(pair)
    assert str(found).splitlines() == ["p(x) = Π_i p(x_i | x_<i)", "log p(x) = Σ_i log p(x_i | x_<i)"]
    assert latex(pair) == [
        r"p(x) &= \prod_i p(x_i \mid x_{<i}) \\",
        r"\log p(x) &= \sum_i \log p(x_i \mid x_{<i})",
    ]
    (x,) = found.model
    assert (x.distribution, x.shape, x.plates, x.chain) == ("FactoredImage", SHAPE, ("images",), True)
    assert found.guide == ()


@pytest.mark.parametrize("model", [PixelCNN, GatedPixelCNN, RowLSTM])
def test_with_labels_it_is_summed_over_them(model):
    pair = model(SHAPE, 2, 4, features=2, condition="label")
    assert str(derived(pair)).splitlines() == [
        "p(x) = Σ_y p(y) Π_i p(x_i | x_<i, y)",
        "log p(x) = log Σ_y p(y) Π_i p(x_i | x_<i, y)",
    ]
    assert latex(pair) == [
        r"p(x) &= \sum_{y} p(y) \prod_i p(x_i \mid x_{<i}, y) \\",
        r"\log p(x) &= \log \sum_{y} p(y) \prod_i p(x_i \mid x_{<i}, y)",
    ]


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_inside_a_vae_pixels_depend_on_the_code_too(network):
    pair = VAE(SHAPE, 3, latent_dim=2, network=network, hidden=(4,), likelihood="pixelcnn")
    kls = "− KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))"
    assert str(derived(pair)).splitlines() == [
        "p(x, z) = p(z) · Π_i p(x_i | x_<i, z)",
        "q(z | x)",
        f"log p(x) = E_q[Σ_i log p(x_i | x_<i, z)] {kls}",
    ]
    joint, _, bound = latex(pair)
    assert joint == r"p(x, z) &= p(z)\, \prod_i p(x_i \mid x_{<i}, z) \\"
    assert bound.startswith(r"\log p(x) &= \mathbb{E}_q\left[\sum_i \log p(x_i \mid x_{<i}, z)\right] - ")
    assert not derived(VAE(SHAPE, 3)).model[1].chain


def test_while_student_forcing_trains_the_formula_is_that_of_the_density():
    pair = RowLSTM(SHAPE, 2, features=2, student_forcing=1.0).train()
    assert "Π_i p(x_i | x_<i)" in str(derived(pair))
    assert pair.training


class OwnNetwork(torch.nn.Module):
    """A user's pair: the density looks at its network when it is made, also while the formula is read."""

    def __init__(self):
        super().__init__()
        self.network = build("pixelcnn", SHAPE, context_shape=(2,))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", FactoredImage(self.network, BINARY, SHAPE, z), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


def test_a_users_density_that_checks_its_network_can_be_read():
    assert "p(x, z) = p(z) · Π_i p(x_i | x_<i, z)" in str(derived(OwnNetwork()))


class TwoImages(torch.nn.Module):
    """The second image's code is the first: two chains, one of them with a parent."""

    def __init__(self):
        super().__init__()
        self.first, self.second = PixelCNN(SHAPE, 2, features=2), PixelCNN(SHAPE, 2, 2, features=2, condition="label")

    def model(self, x):
        with pyro.plate("images", len(x)):
            above = pyro.sample("x_1", self.first.distribution(), obs=x)
            pyro.sample("x_2", self.second.distribution((above.sum((1, 2, 3)) > 2).long()), obs=x)

    def guide(self, x):
        pass


def test_two_chains_keep_their_indices_apart():
    """A second subscript on a symbol that has one is no LaTeX."""
    assert str(derived(TwoImages())).splitlines()[0] == (
        "p(x_1, x_2) = Π_i p(x_1_i | x_1_<i) · Π_i p(x_2_i | x_2_<i, x_1)"
    )
    assert latex(TwoImages())[0] == (
        r"p(x_{1}, x_{2}) &= \prod_i p(x_{1,i} \mid x_{1,<i})\, \prod_i p(x_{2,i} \mid x_{2,<i}, x_{1}) \\"
    )
    assert latex(TwoImages())[1] == (
        r"\log p(x_{1}, x_{2}) &= \sum_i \log p(x_{1,i} \mid x_{1,<i}) + "
        r"\sum_i \log p(x_{2,i} \mid x_{2,<i}, x_{1})"
    )
