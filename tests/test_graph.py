"""The pair as a picture: the same arrows as the equation's."""

import re
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import ok, picture, refused, trained
from test_elbo import Chain, Nested

from probgen.errors import UserError
from probgen.inference import equation
from probgen.inference.graph import graph
from probgen.models import VAE, MultivariateGaussian

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz' program `dot`")


def arrows(pair, x):
    """(solid, dashed) arrows of the drawing."""
    source = graph(equation(pair.model, pair.guide, x)).source
    found = re.findall(r"^\s*(\w+) -> (\w+)( \[.*dashed.*\])?$", source, re.M)
    return {(a, b) for a, b, d in found if not d}, {(a, b) for a, b, d in found if d}


def test_a_vae_is_drawn_as_in_its_paper():
    vae = VAE((1, 2, 2), 2, latent_dim=2, hidden=(4,))
    assert arrows(vae, torch.zeros(2, 1, 2, 2)) == ({("z", "x")}, {("x", "z")})
    source = graph(equation(vae.model, vae.guide, torch.zeros(2, 1, 2, 2))).source
    assert "label=images" in source
    assert re.search(r"x \[.*fillcolor=gray", source)
    assert re.search(r"z \[.*fillcolor=white", source)
    assert "x ~ Bernoulli" in source


@pytest.mark.parametrize(
    ("first", "dashed"),
    [("z2", {("x", "z2"), ("x", "z1"), ("z2", "z1")}), ("z1", {("x", "z1"), ("x", "z2"), ("z1", "z2")})],
)
def test_a_chain_has_the_arrows_of_both_programs(first, dashed):
    assert arrows(Chain(first), torch.zeros(3, 1).double()) == ({("z2", "z1"), ("z1", "x")}, dashed)


def test_without_a_latent_there_is_no_arrow():
    assert arrows(MultivariateGaussian((3,)), torch.randn(4, 3)) == (set(), set())


def test_inner_plates_are_drawn_inside():
    pair = Nested()
    source = graph(equation(pair.model, pair.guide, torch.zeros(3, 4).double())).source
    assert source.index("cluster_images") < source.index("cluster_pixels")


class Overlapping:
    """Two plates, neither inside the other."""

    def model(self, x):
        a, b = pyro.plate("images", len(x), dim=-1), pyro.plate("other", 2, dim=-2)
        with a:
            pyro.sample("u", dist.Normal(0.0, 1.0))
        with b:
            pyro.sample("v", dist.Normal(0.0, 1.0))
        with a, b:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.T)

    def guide(self, x):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("other", 2, dim=-2):
            pyro.sample("v", dist.Normal(0.0, 1.0))


def test_plates_that_overlap_are_refused():
    pair = Overlapping()
    with pytest.raises(UserError, match="plates of the model overlap"):
        graph(equation(pair.model, pair.guide, torch.zeros(3, 2)))


def test_info_writes_the_graph_as_text(tmp_path):
    result = ok("info", trained("vae"), "--graph", tmp_path / "vae.gv")
    assert "z -> x" in (tmp_path / "vae.gv").read_text()
    assert f"wrote {tmp_path / 'vae.gv'}" in result.stderr


@needs_dot
def test_info_draws_the_graph(tmp_path):
    ok("info", trained("vae"), "--graph", tmp_path / "vae.png")
    assert picture(tmp_path / "vae.png").std() > 5
    ok("info", trained("vae"), "--graph", tmp_path / "vae.svg")
    assert "<svg" in (tmp_path / "vae.svg").read_text()


def test_a_graph_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    refused("info", trained("vae"), "--graph", tmp_path / "vae.txt", says="ends in .gv or .dot or .png")
    refused("info", trained("vae"), "--graph", tmp_path / "no" / "vae.gv", says="no directory")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("info", trained("vae"), "--graph", tmp_path / "vae.png", says=("Graphviz", ".gv"))
    assert list(tmp_path.iterdir()) == []
