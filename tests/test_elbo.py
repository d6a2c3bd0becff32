"""The ELBO's terms, image by image and site by site: exact, Pyro's, and refused where they would be wrong."""

import contextlib

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import check_coverage, check_equal, check_estimate, check_per_image
from oracles import ExactLinearGaussian, LinearGaussian
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from probgen.errors import UserError
from probgen.inference import bits_per_dim, elbo_terms
from probgen.inference.checks import check_pair
from probgen.inference.elbo import closed_form_kl, terms_of
from probgen.inference.estimates import Estimate
from probgen.inference.traces import trace_pair
from probgen.models import VAE


class Chain:
    """z2 ~ N(0, 1), z1 ~ N(a z2, s²), x ~ N(b z1, t²), and its posterior as guide, in either order of the latents."""

    a, s, b, t = 0.8, 0.7, 1.3, 0.6

    def __init__(self, first):
        self.first = first

    def model(self, x):
        with pyro.plate("images", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, self.s).to_event(1))
            pyro.sample("x", dist.Normal(self.b * z1, self.t).to_event(1), obs=x)

    def guide(self, x):
        second = "z1" if self.first == "z2" else "z2"
        with pyro.plate("images", len(x)):
            mean, std = self.conditional(self.first, {"x": x})
            drawn = pyro.sample(self.first, dist.Normal(mean, std).to_event(1))
            mean, std = self.conditional(second, {"x": x, self.first: drawn})
            pyro.sample(second, dist.Normal(mean, std).to_event(1))

    def covariance(self):
        """Of (z2, z1, x)."""
        v = self.a**2 + self.s**2
        rows = [[1, self.a, self.a * self.b], [self.a, v, self.b * v]]
        return np.array([*rows, [self.a * self.b, self.b * v, self.b**2 * v + self.t**2]])

    def conditional(self, name, given):
        """Mean and standard deviation of one variable given others, from the joint covariance."""
        names = ["z2", "z1", "x"]
        C, i, rest = self.covariance(), names.index(name), [names.index(n) for n in given]
        gain = np.linalg.solve(C[np.ix_(rest, rest)], C[rest, i])
        return sum(g * value for g, value in zip(gain, given.values(), strict=True)), np.sqrt(
            C[i, i] - gain @ C[rest, i]
        )

    def evidence(self, x):
        return oracles.gaussian_log_density(x, [0.0], self.covariance()[2:, 2:])


class Nested(nn.Module):
    """x_bp ~ N(z_b, 1) with the pixels p in a plate of their own, inside or outside that of the images."""

    def __init__(self, outermost="images", std=0.5):
        super().__init__()
        self.outermost, self.std = outermost, std

    def model(self, x):
        images_dim = -2 if self.outermost == "images" else -1
        images = pyro.plate("images", len(x), dim=images_dim)
        pixels = pyro.plate("pixels", x.shape[1], dim=-3 - images_dim)
        outer, inner = (images, pixels) if self.outermost == "images" else (pixels, images)
        with images:
            shape = (len(x), 1) if images_dim == -2 else (len(x),)
            z = pyro.sample("z", dist.Normal(torch.zeros(shape).double(), 1.0))
        with outer, inner:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x if images_dim == -2 else x.T)

    def guide(self, x):
        images_dim = -2 if self.outermost == "images" else -1
        shape = (len(x), 1) if images_dim == -2 else (len(x),)
        with pyro.plate("images", len(x), dim=images_dim):
            pyro.sample("z", dist.Normal(x.mean(1).reshape(shape), self.std))


def nested_terms(x, std):
    """The same as a linear-Gaussian model with W = 1."""
    ones = np.ones((x.shape[1], 1))
    return oracles.linear_gaussian_elbo(x, ones, np.zeros(len(ones)), 1.0, oracles.array(x).mean(1)[:, None], std)


def elbo_of(pair, num_particles=1, **options):
    return lambda x: elbo_terms(pair.model, pair.guide, x, num_particles, **options).elbo


# --- the numbers


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_terms_add_to_the_elbo(kl, num_particles):
    for pair, x in ((LinearGaussian(), LinearGaussian().data(6)), (Chain("z2"), torch.randn(6, 1).double())):
        terms = elbo_terms(pair.model, pair.guide, x, num_particles, kl=kl)
        assert torch.equal(terms.elbo, terms.log_likelihood - terms.kl)
        assert torch.equal(terms.log_likelihood, sum(t.log_likelihood for t in terms.observed))
        check_equal(terms.kl, sum(t.kl for t in terms.latent), 1e-12)
        assert terms.num_particles == num_particles
        assert {t.method for t in terms.latent} == {kl}


def test_closed_form_kl_is_the_oracles_and_that_of_each_dimension_adds_to_it():
    pair = LinearGaussian()
    x = pair.data(6)
    (term,) = elbo_terms(pair.model, pair.guide, x, 3).latent
    _, kl = pair.terms(x)
    check_equal(term.kl, kl)
    mean, std = oracles.array(x @ pair.G.T + pair.g), np.exp(oracles.array(pair.log_s))
    check_equal(term.kl_per_dim, oracles.diagonal_gaussian_kl(mean, std, 0, 1))
    check_equal(term.guide_mean, mean)


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_terms_of_a_wrong_guide_are_the_closed_form(kl):
    """Each of 2000 copies of an image is one independent draw."""
    pair = LinearGaussian()
    images = pair.data(3)
    log_likelihood, exact_kl = pair.terms(images)
    terms = elbo_terms(pair.model, pair.guide, images.repeat(2000, 1), kl=kl)
    check_estimate(terms.log_likelihood.reshape(2000, 3), log_likelihood, largest_error=0.2)
    check_estimate(terms.elbo.reshape(2000, 3), log_likelihood - exact_kl, largest_error=0.2)
    check_estimate(terms.kl.reshape(2000, 3), exact_kl, largest_error=0.05)


def test_a_kl_of_the_wrong_sign_is_rejected():
    pair = LinearGaussian()
    images = pair.data(3)
    log_likelihood, exact_kl = pair.terms(images)
    terms = elbo_terms(pair.model, pair.guide, images.repeat(2000, 1), kl="sampled")
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate((terms.log_likelihood + terms.kl).reshape(2000, 3), log_likelihood - exact_kl, largest_error=0.2)


PAIRS = {
    "linear-gaussian": (LinearGaussian(), LinearGaussian().data(6)),
    "chain": (Chain("z2"), torch.linspace(-2, 2, 6).double()[:, None]),
    "reversed-chain": (Chain("z1"), torch.linspace(-2, 2, 6).double()[:, None]),
    "nested": (Nested(), LinearGaussian().data(6)),
    "vae": (VAE((1, 2, 2), 2, latent_dim=2, hidden=(8,)).double().eval(), torch.ones(6, 1, 2, 2).double()),
}


@pytest.mark.parametrize("name", PAIRS)
def test_sum_over_images_is_pyros_trace_elbo_draw_for_draw(name):
    pair, x = PAIRS[name]
    pyro.set_rng_seed(1)
    ours = elbo_of(pair, kl="sampled")(x).sum()
    pyro.set_rng_seed(1)
    check_equal(ours, -Trace_ELBO().loss(pair.model, pair.guide, x))


@pytest.mark.parametrize("name", ["linear-gaussian", "nested", "vae"])
def test_sum_over_images_is_pyros_mean_field_elbo_draw_for_draw(name):
    pair, x = PAIRS[name]
    pyro.set_rng_seed(1)
    ours = elbo_of(pair)(x).sum()
    pyro.set_rng_seed(1)
    check_equal(ours, -TraceMeanField_ELBO().loss(pair.model, pair.guide, x))


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_every_image_has_its_own_terms_whatever_is_beside_it(chunk_size):
    """The exact posterior takes the noise away, so that an image's number can be followed."""
    pair = ExactLinearGaussian()
    check_per_image(elbo_of(pair, 2, kl="sampled", chunk_size=chunk_size), pair.data(7))


def test_a_batch_average_is_no_number_of_an_image():
    pair = ExactLinearGaussian()
    with pytest.raises(AssertionError):
        check_per_image(lambda x: elbo_of(pair, kl="sampled")(x).mean().expand(len(x)), pair.data(7))


# --- several latents


@pytest.mark.parametrize("first", ["z2", "z1"])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_chain_under_its_posterior_is_the_evidence_for_every_draw(first, num_particles):
    x = torch.linspace(-3, 3, 7).double()[:, None]
    chain = Chain(first)
    check_equal(elbo_of(chain, num_particles, kl="sampled")(x), chain.evidence(x))


def test_chain_in_the_models_order_takes_the_closed_form_and_in_another_samples():
    x = torch.linspace(-3, 3, 7).double()[:, None]
    for first, method in (("z2", "closed-form"), ("z1", "sampled")):
        chain = Chain(first)
        assert {t.method for t in elbo_terms(chain.model, chain.guide, x).latent} == {method}
        draws = elbo_of(chain)(x.repeat(4000, 1)).reshape(4000, 7)
        check_estimate(draws, chain.evidence(x), largest_error=0.05) if method == "closed-form" else check_equal(
            draws, np.tile(chain.evidence(x), (4000, 1))
        )


def test_the_closed_form_in_the_other_order_would_be_wrong():
    """The twin: KL(q(z2 | z1, x) ‖ p(z2)) + KL(q(z1 | x) ‖ p(z1 | z2)) at a z2 that was drawn after z1."""
    chain, x = Chain("z1"), torch.linspace(-3, 3, 7).double()[:, None]
    sites = trace_pair(chain.model, chain.guide, x.repeat(4000, 1))
    naive = sum(s.log_p.mean(0) if s.observed else -closed_form_kl(s) for s in sites)
    with pytest.raises(AssertionError, match="standard errors away"):
        check_estimate(naive.reshape(4000, 7), chain.evidence(x), largest_error=0.05)
    check_equal(terms_of(sites, "closed-form").elbo.reshape(4000, 7)[0], chain.evidence(x))


@pytest.mark.parametrize("outermost", ["images", "pixels"])
@pytest.mark.parametrize("num_images", [3, 4, 5])
@pytest.mark.parametrize("num_particles", [1, 2])
def test_a_plate_over_pixels_is_summed_and_not_mistaken_for_the_images(outermost, num_images, num_particles):
    """Four pixels; with four images the two plates have one size. A guide this narrow has no noise to speak of."""
    x, pair = LinearGaussian(4).data(num_images), Nested(outermost, std=1e-9)
    terms = elbo_terms(pair.model, pair.guide, x, num_particles)
    log_likelihood, kl = nested_terms(x, std=1e-9)
    check_equal(terms.log_likelihood, log_likelihood, 1e-6)
    check_equal(terms.kl, kl)


def test_without_a_latent_the_elbo_is_exact_and_says_so():
    class Plain:
        def model(self, x):
            with pyro.plate("images", len(x)):
                pyro.sample("x", dist.Normal(torch.zeros(3).double(), 2.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    x = LinearGaussian().data(6)
    terms = elbo_terms(Plain().model, Plain().guide, x)
    check_equal(terms.elbo, oracles.gaussian_log_density(x, np.zeros(3), 4 * np.eye(3)))
    assert terms.estimate.kind == "exact"
    assert terms.kl.tolist() == [0.0] * 6
    assert terms.active_units is None


def test_with_a_latent_the_elbo_is_a_lower_bound_and_says_so():
    pair = LinearGaussian()
    estimate = elbo_terms(pair.model, pair.guide, pair.data(6), 5).estimate
    assert (estimate.kind, estimate.particles) == ("lower bound", 5)


def test_active_units_are_the_dimensions_whose_mean_code_varies():
    pair = LinearGaussian()
    x = pair.data(50)
    assert elbo_terms(pair.model, pair.guide, x).active_units == 2
    pair.G.data[0] = 0
    assert elbo_terms(pair.model, pair.guide, x).active_units == 1
    assert elbo_terms(pair.model, pair.guide, x[:1]).active_units is None


# --- masks


def masked(pair, mask):
    def wrap(program):
        def run(x):
            with poutine.mask(mask=mask):
                program(x)

        return run

    return wrap(pair.model), wrap(pair.guide)


@pytest.mark.parametrize("kl", ["closed-form", "sampled"])
def test_masked_images_count_nothing_and_the_others_as_before(kl):
    pair, mask = LinearGaussian(), torch.tensor([True, False, True])
    x = pair.data(3)
    pyro.set_rng_seed(1)
    whole = elbo_terms(pair.model, pair.guide, x, kl=kl)
    pyro.set_rng_seed(1)
    part = elbo_terms(*masked(pair, mask), x, kl=kl)
    check_equal(part.elbo, whole.elbo * mask)
    check_equal(part.kl, whole.kl * mask)


def test_masked_kl_of_each_dimension_still_adds_to_the_kl():
    pair = LinearGaussian()
    (term,) = elbo_terms(*masked(pair, torch.tensor([True, False, True])), pair.data(3)).latent
    if term.kl_per_dim is not None:
        check_equal(term.kl_per_dim.sum(1), term.kl)


# --- what is refused


class Wrong:
    """A linear-Gaussian pair with one mistake."""

    def __init__(self, mistake):
        self.mistake = mistake

    def model(self, x):
        subsample = {"subsample_size": 2} if self.mistake == "subsampling plate" else {}
        plate = contextlib.nullcontext(range(len(x))) if self.mistake == "no plate" else None
        scale = poutine.scale(scale=0.5) if self.mistake == "scaled" else contextlib.nullcontext()
        with plate or pyro.plate("images", len(x), **subsample) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = torch.cat([z, z], -1).expand(len(rows), 4)
            with scale:
                events = 0 if self.mistake == "no to_event" else 1
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(events), obs=x[torch.as_tensor(list(rows))])

    def guide(self, x):
        if self.mistake == "guide lacks z":
            return
        subsample = {"subsample_size": 2} if self.mistake == "subsampling plate" else {}
        shape = (2,) if self.mistake == "no plate" else (len(x) if not subsample else 2, 2)
        plate = contextlib.nullcontext() if self.mistake == "no plate" else pyro.plate("images", len(x), **subsample)
        with plate:
            pyro.sample("z", dist.Normal(torch.zeros(shape), 1.0).to_event(1))
            if self.mistake == "guide invents y":
                pyro.sample("y", dist.Normal(torch.zeros(shape), 1.0).to_event(1))


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("guide lacks z", "guide has no site 'z'"),
        ("guide invents y", "samples 'y', which is no latent site"),
        ("no plate", "'z'.*one number for each of the 4 images: .*plate"),
        ("scaled", r"site 'x' has its log-probability scaled by 0.5"),
        ("subsampling plate", "site 'z' has its log-probability scaled by"),
    ],
)
def test_a_pair_whose_terms_would_be_wrong_is_refused_by_the_name_of_its_site(mistake, message, num_particles):
    pair = Wrong(mistake)
    with pyro.validation_enabled(False), pytest.raises(UserError, match=message) as error:
        elbo_terms(pair.model, pair.guide, torch.zeros(4, 4), num_particles)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_images", [2, 4, 5])
def test_a_site_without_to_event_is_refused_by_its_name_and_the_check_tells_the_cure(num_images):
    """Whether or not there are as many images (4) as pixels."""
    pair = Wrong("no to_event")
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=r"site '?x"):
        elbo_terms(pair.model, pair.guide, torch.zeros(num_images, 4))
    with pytest.raises(UserError, match=r"site 'x'.*\.to_event"):
        check_pair(pair, torch.zeros(num_images, 4))


def test_the_same_pair_without_a_mistake_is_taken():
    pair = Wrong(None)
    assert elbo_terms(pair.model, pair.guide, torch.zeros(4, 4)).elbo.shape == (4,)


def test_no_particles_is_refused():
    pair = LinearGaussian()
    with pytest.raises(UserError, match="num_particles=0"):
        elbo_terms(pair.model, pair.guide, pair.data(3), 0)


# --- what is left behind


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_they_were_and_dropout_is_off_inside(training):
    pair = LinearGaussian()
    pair.net = nn.Sequential(nn.Dropout(0.5), nn.Identity().eval())
    pair.net[0].train(training)
    pair.train(training)
    pair.net[1].eval()
    modes = [m.training for m in pair.modules()]
    pair.guide = lambda x: seen.append(pair.net[0].training) or LinearGaussian.guide(pair, x)
    seen = []
    elbo_terms(pair.model, pair.guide, pair.data(3))
    assert set(seen) == {False}
    assert [m.training for m in pair.modules()] == modes


def test_modes_are_restored_after_an_error():
    pair = LinearGaussian()
    with pytest.raises(UserError):
        elbo_terms(pair.model, lambda x: None, pair.data(3))
    assert pair.training


def test_modules_of_a_plain_object_are_evaluated_without_dropout():
    class Plain:
        def __init__(self):
            self.net = nn.Dropout(0.5)

        def model(self, x):
            with pyro.plate("images", len(x)):
                pyro.sample("x", dist.Normal(self.net(torch.ones_like(x)), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    pair, x = Plain(), LinearGaussian().data(6)
    check_equal(elbo_of(pair)(x), oracles.gaussian_log_density(x, np.ones(3), np.eye(3)))
    assert pair.net.training


def test_no_gradient_and_no_parameter_is_left():
    pair = LinearGaussian()
    terms = elbo_terms(pair.model, pair.guide, pair.data(3))
    assert not terms.elbo.requires_grad
    assert all(p.grad is None for p in pair.parameters())
    assert not pyro.get_param_store().keys()


# --- the estimate


def repeated_estimates():
    """200 times the bound of 60 fresh images under fresh draws."""
    per_image = elbo_of(LinearGaussian())(LinearGaussian().data(200 * 60))
    return [Estimate.of(part, "lower bound", 1) for part in per_image.split(60)]


def expected_elbo():
    """E_x[ELBO(x)] for x ~ p(x), by the closed form on a great many images."""
    log_likelihood, kl = LinearGaussian().terms(LinearGaussian().data(200_000, seed=99))
    return float((log_likelihood - kl).mean())


def test_standard_errors_cover_the_mean_over_images_and_draws():
    values, errors = np.array([(e.value, e.stderr) for e in repeated_estimates()]).T
    truth = expected_elbo()
    check_coverage(values, errors, truth)
    for wrong in (errors / 2, errors * 2):
        with pytest.raises(AssertionError, match="cover"):
            check_coverage(values, wrong, truth)


def test_estimate_reads_as_a_sentence_and_as_json():
    estimate = Estimate.of(torch.tensor([-1.0, -2.0, -3.0]), "lower bound", 5)
    assert str(estimate) == "-2.00 ± 0.58 nats per image (lower bound, 5 particles)"
    assert estimate.to_json() == {
        "value": -2.0,
        "stderr": 1 / 3**0.5,
        "kind": "lower bound",
        "unit": "nats per image",
        "particles": 5,
    }
    assert str(Estimate.of(torch.tensor([-1.0, -1.0]), "exact")) == "-1.00 ± 0.00 nats per image (exact)"
    assert Estimate.of(torch.tensor([-1.0]), "exact").to_json()["stderr"] is None


def test_bits_per_dim_of_a_fair_coin_is_one():
    assert bits_per_dim(-10 * float(np.log(2)), 10) == pytest.approx(1.0)
