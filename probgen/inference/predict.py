"""Images from a pair: drawn from p(x), reconstructed from q(z | x), decoded from a given z.

All three run the pair's own program with other things held fixed, so that they work for any pair.
"""

from collections.abc import Collection, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from pyro.distributions import Categorical, Independent
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from probgen.distributions.implicit import Implicit
from probgen.errors import UserError
from probgen.inference.traces import as_real, evaluating, sample_sites
from probgen.models.contracts import Kind, kind_of

DRAWS_FOR_A_MEAN = 100


class Temper(Messenger):
    """Scale the spread of every Gaussian prior by `temperature`: z ← E[z] + temperature · (z − E[z]).

    spared: sites that have no spread and are drawn as they are, such as labels.
    """

    def __init__(self, temperature: float, spared: Collection[str] = ()) -> None:
        super().__init__()
        self.temperature, self.spared = temperature, spared
        self.refused: dict[str, str] = {}  # site → distribution; told afterwards, since Pyro rewords what is raised
        self.tempered: set[str] = set()

    def _pyro_post_sample(self, message: Any) -> None:
        drawn_prior = not message["is_observed"] and "was_observed" not in message["infer"]
        if not drawn_prior or site_is_subsample(message) or message["infer"].get("_deterministic"):
            return
        fn = message["fn"]
        if isinstance(fn, Implicit) or message["name"] in self.spared:  # x = G(z) is tempered with its z
            return
        base = fn.base_dist if isinstance(fn, Independent) else fn
        if isinstance(base, Normal | MultivariateNormal):
            message["value"] = fn.mean + self.temperature * (message["value"] - fn.mean)
            self.tempered.add(message["name"])
        else:
            self.refused[message["name"]] = type(base).__name__

    def check(self) -> None:
        """Raise UserError for a prior that has no spread to scale."""
        for name, distribution in self.refused.items():
            if self.temperature != 1:
                raise UserError(
                    f"temperature={self.temperature:g} came, but the prior of {name!r} is a {distribution}, "
                    "not a Gaussian: leave the temperature at 1"
                )


@torch.no_grad()
def sample(
    pair: Any, num: int, image_shape: Sequence[int], *, temperature: float = 1.0, label: int | None = None
) -> Float[Tensor, "num *shape"]:
    """x ~ p(x): a pair's own `sample(num, temperature=…)` where it has one, else its program run unobserved.

    temperature: factor on the standard deviation of Gaussian priors. label: of a class-conditional model, to draw from
        p(x | label).

    Raises UserError for a pair that draws no images, or knows no labels.
    """
    own = getattr(pair, "sample", None)
    if kind_of(pair) is Kind.IMPLICIT:
        return sample_implicit(pair, num, temperature, label)
    options = {} if temperature == 1 else {"temperature": temperature}
    options |= {} if label is None else {"label": label}
    if callable(own):
        with evaluating(pair):
            return own(num, **options)
    if label is not None:
        raise UserError(f"label {label} came, but {type(pair).__name__} draws from no label")
    if no_prior := getattr(pair, "no_density", None):
        raise UserError(f"nothing to sample from: {no_prior}; it can reconstruct")
    with evaluating(pair), pyro.validation_enabled(False), Temper(temperature) as temper:
        trace = poutine.trace(poutine.uncondition(pair.model)).get_trace(blank(pair, num, image_shape))
    temper.check()
    return as_real(image_site(trace, num, image_shape)["value"].reshape(num, *image_shape))


def sample_implicit(pair: Any, num: int, temperature: float, label: int | None = None) -> Float[Tensor, "num *shape"]:
    """x = G(z), of images in whole grey levels: the generator itself makes numbers between them.

    Raises UserError for a label of a model that knows none, or one that it does not know; and for a temperature of a
    program that has no Gaussian site to scale.
    """
    classes = getattr(pair, "num_classes", None) if getattr(pair, "takes_labels", False) else None
    if label is not None and classes is None:
        raise UserError("a label came, but this model was trained without: train with condition=label")
    if label is not None and not 0 <= label < (classes or 0):
        raise UserError(f"label {label} came, expected a whole number, 0 to {(classes or 0) - 1}")
    y = None if label is None else torch.full((num,), label, device=next(pair.parameters()).device)
    spared = () if classes is None else ("y",)
    with evaluating(pair), pyro.validation_enabled(False), Temper(temperature, spared) as temper:
        made = pair.model(num) if y is None else pair.model(num, y)
    temper.check()
    if temperature != 1 and not temper.tempered:
        raise UserError(
            f"temperature={temperature:g} came, but the sampler's model has no Gaussian site to scale (z must be drawn "
            "with pyro.sample): leave the temperature at 1"
        )
    levels = getattr(pair, "levels", None)
    return made if levels is None else made.round().clamp(0, levels - 1)


@torch.no_grad()
def sample_means(
    pair: Any, num: int, image_shape: Sequence[int], *, temperature: float = 1.0
) -> Float[Tensor, "num *shape"]:
    """E[x | z] for z from the pair's own prior: smoother than a draw of x, and no sample of p(x).

    Raises UserError for a pair without a prior, or without latent sites.
    """
    if no_prior := getattr(pair, "no_density", None):
        raise UserError(f"nothing to sample from: {no_prior}; it can reconstruct")
    if kind_of(pair) is Kind.IMPLICIT:
        raise UserError("x = G(z) is the same for each draw of one z, so that E[x | z] is x itself: draw samples")
    with evaluating(pair), pyro.validation_enabled(False), Temper(temperature) as temper:
        trace = poutine.trace(poutine.uncondition(pair.model)).get_trace(blank(pair, num, image_shape))
    temper.check()
    if all("was_observed" in node["infer"] for node in sample_sites(trace).values()):
        raise UserError(f"{type(pair).__name__} has no latent site: E[x | z] is the same image for every z")
    node = image_site(trace, num, image_shape)
    return as_real(mean_of(node["fn"], node["value"]).reshape(num, *image_shape))


@torch.no_grad()
def reconstruct(pair: Any, x: Shaped[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """E[x̂ | z] with z = E_q[z | x] (the most probable value of a discrete z), in grey levels: what the code keeps."""
    x = as_real(x)
    with evaluating(pair), pyro.validation_enabled(False):
        guide_nodes = sample_sites(poutine.trace(pair.guide).get_trace(x))
    if not guide_nodes:
        raise UserError(f"{type(pair).__name__} has no latent code: there is nothing to reconstruct from")
    codes = {name: code_of(node["fn"], node["value"]) for name, node in guide_nodes.items()}
    return decode(pair, codes, len(x), x.shape[1:])


@torch.no_grad()
def decode(pair: Any, codes: dict[str, Tensor], num: int, image_shape: Sequence[int]) -> Float[Tensor, "num *shape"]:
    """E[x | z] for given values of latent sites, in grey levels."""
    with evaluating(pair), pyro.validation_enabled(False):
        conditioned = poutine.condition(poutine.uncondition(pair.model), data=codes)
        trace = poutine.trace(conditioned).get_trace(blank(pair, num, image_shape))
    node = image_site(trace, num, image_shape)
    return mean_of(node["fn"], node["value"]).reshape(num, *image_shape)


def blank(pair: Any, num: int, image_shape: Sequence[int]) -> Tensor:
    """Empty images that tell a program how many to make."""
    parameter = next(iter(pair.parameters()), torch.empty(0)) if hasattr(pair, "parameters") else torch.empty(0)
    return torch.zeros(num, *image_shape, dtype=parameter.dtype, device=parameter.device)


def image_site(trace: poutine.Trace, num: int, image_shape: Sequence[int]) -> dict[str, Any]:
    """The site that holds the images: `x` if there is one, else the last that has an image's size.

    Raises UserError when there is none.
    """
    size = num * torch.Size(image_shape).numel()
    fitting = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and isinstance(node["value"], Tensor) and node["value"].numel() == size
        if "was_observed" in node["infer"] or node["infer"].get("_deterministic")
    }
    if not fitting:
        raise UserError(f"the model has no observed site of {num} images of shape {tuple(image_shape)}: name it 'x'")
    return fitting.get("x", list(fitting.values())[-1])


def code_of(fn: Any, value: Tensor) -> Tensor:
    """The centre of a latent site: its mean, or of a discrete one the most probable value (a draw if it knows none)."""
    if not fn.support.is_discrete:
        return mean_of(fn, value)
    try:
        return fn.mode.to(value.dtype).expand(value.shape)
    except NotImplementedError:
        return value


def mean_of(fn: Any, value: Tensor) -> Tensor:
    """The mean of a site's distribution; of one that knows no formula, such as a flow, the average of draws."""
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Categorical):
        return (base.probs * torch.arange(base.probs.shape[-1]).to(base.probs)).sum(-1)
    try:
        return fn.mean.expand(value.shape)
    except (NotImplementedError, AttributeError):
        draws = getattr(fn, "draws_for_a_mean", DRAWS_FOR_A_MEAN)
        return fn.sample(torch.Size([draws])).mean(0).expand(value.shape)
