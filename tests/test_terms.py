"""The ELBO's terms as an object: their errors, how they read, and what they convert to."""

import io

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_coverage, check_equal
from oracles import LinearGaussian
from PIL import Image
from rich.console import Console
from test_elbo import Chain
from torch import nn

from probgen import plots
from probgen.errors import UserError
from probgen.inference import elbo_terms, iwae
from probgen.inference.estimates import Estimate
from probgen.inference.evidence import log_weights
from probgen.inference.terms_view import as_html, rows


@pytest.fixture
def pair():
    return LinearGaussian()


def terms_of(pair, num_images=6, num_particles=4, **options):
    return elbo_terms(pair.model, pair.guide, LinearGaussian().data(num_images), num_particles, **options)


# --- errors


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_the_error_of_each_image_covers_the_mean_over_its_draws(pair, kl):
    """2,000 copies of one image, 50 particles each: 2,000 intervals for one number."""
    x = pair.data(1)
    log_likelihood, exact_kl = pair.terms(x)
    terms = elbo_terms(pair.model, pair.guide, x.repeat(2000, 1), 50, kl=kl)
    check_coverage(terms.elbo, terms.stderr, float((log_likelihood - exact_kl)[0]))
    (seen,) = terms.observed
    check_coverage(seen.log_likelihood, seen.stderr, float(log_likelihood[0]))
    (latent,) = terms.latent
    if kl == "sampled":
        check_coverage(latent.kl, latent.stderr, float(exact_kl[0]))
    else:
        assert (latent.stderr == 0).all()
    for wrong in (terms.stderr / 2, terms.stderr * 2):
        with pytest.raises(AssertionError, match="cover"):
            check_coverage(terms.elbo, wrong, float((log_likelihood - exact_kl)[0]))


def test_the_error_is_that_of_the_sum_and_not_the_sum_of_errors(pair):
    """log p(x | z) and log q(z | x) are drawn together: their errors add with their covariance."""
    terms = terms_of(pair, num_particles=2000, kl="sampled")
    added = torch.hypot(terms.observed[0].stderr, terms.latent[0].stderr)
    assert ((terms.stderr - added).abs() > 0.05 * added).any()


def test_one_particle_has_no_error_but_a_closed_form_has_none_to_have(pair):
    terms = terms_of(pair, num_particles=1)
    assert terms.stderr.isnan().all()
    assert (terms.latent[0].stderr == 0).all()
    chain = Chain("z2")
    second = elbo_terms(chain.model, chain.guide, torch.zeros(3, 1).double()).latent[1]
    assert second.stderr.isnan().all()  # its closed form depends on the z2 that was drawn


def test_a_single_image_has_the_error_of_its_draws(pair):
    terms = terms_of(pair, num_images=1, num_particles=100)
    assert terms.estimate.stderr == pytest.approx(float(terms.stderr))
    assert terms.to_json()["elbo"]["stderr"] == pytest.approx(float(terms.stderr))


def test_an_estimate_gives_that_of_each_image(pair):
    estimate = iwae(pair.model, pair.guide, pair.data(5), 100)
    assert len(estimate) == 5
    for i, one in zip((0, 4, -1), (estimate[0], estimate[4], estimate[-1]), strict=True):
        assert (one.value, one.stderr) == (pytest.approx(float(estimate.per_image[i])), float(estimate.noise[i]))
        assert (one.kind, one.particles, len(one)) == ("lower bound", 100, 1)
        assert one.pareto_k == estimate.pareto_k[i]
    assert [e.value for e in estimate] == pytest.approx(estimate.per_image.tolist())
    with pytest.raises(IndexError):
        estimate[5]
    assert np.isnan(Estimate.of(torch.zeros(1), "exact").stderr)


# --- how it reads


class NotReparameterized(nn.Module):
    def model(self, x):
        with pyro.plate("images", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(c[:, None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("c", dist.Bernoulli(0.5 + 0 * x[:, 0]))


def test_it_reads_as_its_equation_and_a_table(pair):
    text = str(terms_of(pair))
    assert "p(x, z) = p(z) · p(x | z)" in text
    assert "log p(x) = " in text
    assert "KL(q(z | x) ‖ p(z | x))" in text
    assert "unknown, ≥ 0" in text
    for number in terms_of(pair).to_json()["kl"]["z"]["log_prior"].values():
        assert number is not None
    assert "closed form" in text
    assert "sampled, 4 particles" in text
    assert "KL by dimension: z[" in text


def test_the_rows_add_up_to_the_last():
    record = elbo_terms(Chain("z2").model, Chain("z2").guide, torch.randn(6, 1).double(), 3).to_json()
    summed = [row for row in rows(record) if not row.term.startswith(" ")]
    numbers = [float(row.value.split(" ±")[0].replace("−", "-")) for row in summed]
    assert [row.term for row in summed] == ["E_q[log p(x | z1)]", "− KL(z2)", "− KL(z1)", "ELBO"]
    assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.02)


def test_a_formula_too_wide_for_a_terminal_is_set_over_several_lines(pair):
    narrow, wide = str(terms_of(pair)), str(elbo_terms(Chain("z1").model, Chain("z1").guide, torch.ones(2, 1).double()))
    assert "log p(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z)) + KL(q(z | x) ‖ p(z | x))" in narrow
    assert "           + KL(q(z2, z1 | x) ‖ p(z2, z1 | x))   unknown, ≥ 0" in wide
    assert "E_q[log q(z2 | z1, x)]" in wide
    assert max(map(len, wide.splitlines())) < 80


def test_a_terminal_and_a_notebook_show_the_same_numbers(pair):
    terms = terms_of(pair)
    with (console := Console(file=io.StringIO(), width=160)).capture() as capture:
        console.print(terms)
    page = terms._repr_html_()
    for row in rows(terms.to_json()):
        assert row.value in capture.get()
        assert row.value in page
    assert "\\mathbb{E}_q" in page


def test_names_of_sites_cannot_break_the_page(pair):
    record = terms_of(pair).to_json()
    record["kl"]["<b>"] = record["kl"].pop("z")
    record["equation"] = ["p(<i>)"]
    page = as_html(record, None)
    assert "<b>" not in page.replace("<b>ELBO", "")
    assert "p(&lt;i&gt;)" in page


def test_a_program_that_cannot_be_read_says_so_in_place_of_the_equation(monkeypatch, pair):
    def fails(*args):
        raise TypeError("no tracing\nthrough this")

    monkeypatch.setattr("probgen.inference.elbo.equation", fails)
    text = str(terms_of(pair))
    assert "could not be read off the program: no tracing)" in text
    assert "E_q[log p(x | …)]" in text
    assert "<pre>" in terms_of(pair)._repr_html_()


def test_a_site_without_reparameterized_draws_says_which_gradient_it_gets():
    own = NotReparameterized()
    terms = elbo_terms(own.model, own.guide, torch.randn(4, 2))
    assert terms.latent[0].gradient == "score-function"
    assert "c: not reparameterized: in training it gets the score-function gradient" in str(terms)
    assert "score-function" not in str(terms_of(LinearGaussian()))


def test_without_a_latent_it_reads_as_exact():
    class Plain:
        def model(self, x):
            with pyro.plate("images", len(x)):
                pyro.sample("x", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    terms = elbo_terms(Plain().model, Plain().guide, LinearGaussian().data(4), keep_draws=True)
    assert "log p(x) " in str(terms)
    assert "exact" in str(terms)
    assert "unknown" not in str(terms)
    assert (terms.stderr == 0).all()
    assert terms.to_xarray().kl.values.tolist() == [0.0] * 4
    assert pixels(terms).std() > 5


# --- what it converts to


def test_xarray_holds_the_terms_by_name(pair):
    terms = terms_of(pair)
    data = terms.to_xarray()
    check_equal(data.elbo.values, terms.elbo)
    check_equal((data.log_likelihood_x - data.kl_z).values, terms.elbo)
    check_equal(data.kl_per_dim_z.sum("z_dim").values, data.kl_z.values)
    assert data.kl_per_dim_z.dims == ("image", "z_dim")
    assert data.kl_z.attrs == {"unit": "nats", "method": "closed-form"}
    assert data.attrs == {"unit": "nats per image", "kind": "lower bound", "num_particles": 4}


@pytest.mark.parametrize("chunk_size", [1, 8, 1024])
@pytest.mark.parametrize("broadcasts", [True, False])
def test_arviz_holds_the_draws(pair, chunk_size, broadcasts):
    pair.broadcasts = broadcasts
    terms = terms_of(pair, chunk_size=chunk_size, keep_draws=True)
    data = terms.to_arviz()
    z = data["posterior"]["z"]
    assert z.dims[:3] == ("chain", "draw", "image")
    assert z.shape == (1, 4, 6, 2)
    x, drawn = LinearGaussian().data(6), torch.tensor(z.values[0])
    expected = dist.Normal(drawn @ pair.W.T + pair.mu, pair.sigma).log_prob(x).sum(-1)
    check_equal(data["log_likelihood"]["x"].values[0], expected)
    stats = data["sample_stats"]
    check_equal(stats["log_prior_z"].values[0], dist.Normal(0.0, 1.0).log_prob(drawn).sum(-1))
    check_equal((data["log_likelihood"]["x"] + stats["log_prior_z"] - stats["log_guide_z"]).values, stats["log_weight"])
    check_equal(data["log_likelihood"]["x"].mean("draw").values[0], terms.log_likelihood)


def test_log_weights_are_those_of_the_importance_weighted_bound(pair):
    pyro.set_rng_seed(3)
    stats = terms_of(pair, keep_draws=True).to_arviz()["sample_stats"]
    pyro.set_rng_seed(3)
    check_equal(stats["log_weight"].values[0], log_weights(pair.model, pair.guide, pair.data(6), 4))


def test_draws_that_were_not_kept_are_not_made_up(pair):
    with pytest.raises(UserError, match="keep_draws=True"):
        terms_of(pair).to_arviz()


# --- the picture


def pixels(terms):
    with Image.open(io.BytesIO(plots.figure_png(terms.plot()))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("num_images", "kl", "panels"), [(30, "closed-form", 3), (30, "sampled", 2), (1, "sampled", 1)]
)
def test_the_terms_are_drawn(pair, num_images, kl, panels):
    terms = terms_of(pair, num_images=num_images, kl=kl)
    figure = terms.plot()
    assert len(figure.axes) == panels
    assert pixels(terms).std() > 5


def test_bars_reach_as_high_as_the_numbers(pair):
    terms = terms_of(pair)
    bars = terms.plot().axes[0].containers
    for bar, numbers in zip(bars, (-terms.log_likelihood, terms.kl), strict=True):
        check_equal([patch.get_height() for patch in bar], numbers)
    check_equal([p.get_y() + p.get_height() for p in bars[1]], -terms.elbo)
