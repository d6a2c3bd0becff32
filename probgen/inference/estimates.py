"""A number about log p(x), and what it is."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

EstimateKind = Literal["exact", "lower bound", "upper bound", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """The mean over images of a number in nats per image, with the standard error of that mean.

    value, stderr: the mean and its standard error over images; the Monte Carlo noise of each image's own
        number is part of that error. For a single image it is that noise alone, nan where not known.
    kind: how the number relates to log p(x).
    particles: draws of z per image, 0 where nothing was drawn.
    per_image: the numbers themselves, shape b; `estimate[i]` is that of image i alone.
    noise: Monte Carlo standard error of each image's number, shape b; nan where not known (one particle), None
        where there is none (an exact number).
    pareto_k: for importance sampling, the shape of the tail of each image's weights, shape b (see
        `probgen.inference.arviz_bridge.pareto_k`); None where there is none.
    """

    value: float
    stderr: float
    kind: EstimateKind
    unit: str
    particles: int
    per_image: Tensor = field(repr=False, compare=False)
    pareto_k: Tensor | None = field(default=None, repr=False, compare=False)
    noise: Tensor | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        per_image: Float[Tensor, " b"],
        kind: EstimateKind,
        particles: int = 0,
        noise: Float[Tensor, " b"] | None = None,
    ) -> "Estimate":
        """Average `per_image` in float64."""
        per_image, noise = per_image.detach().cpu(), None if noise is None else noise.detach().cpu()
        numbers = per_image.double()
        if len(numbers) > 1:
            stderr = float(numbers.std() / math.sqrt(len(numbers)))
        else:
            stderr = math.nan if noise is None else float(noise)
        return cls(float(numbers.mean()), stderr, kind, "nats per image", particles, per_image=per_image, noise=noise)

    def __getitem__(self, image: int) -> "Estimate":
        """The estimate of one image, its error that of the draws."""
        image = range(len(self))[image]  # negative places; IndexError beyond the last
        place = slice(image, image + 1)
        noise, tails = (None if t is None else t[place] for t in (self.noise, self.pareto_k))
        return replace(Estimate.of(self.per_image[place], self.kind, self.particles, noise), pareto_k=tails)

    def __len__(self) -> int:
        return len(self.per_image)

    @property
    def untrusted(self) -> float | None:
        """Share of images whose weights have a tail too heavy for this many particles; None where not known.

        For those the bound still holds on average, but it is loose, and its standard error cannot be trusted.
        """
        if self.pareto_k is None:
            return None
        threshold = min(1 - 1 / math.log10(self.particles), 0.7)
        return float((self.pareto_k > threshold).double().mean())

    def to_json(self) -> dict[str, Any]:
        """The fields for machines, without those of single images; an unknown error is None."""
        record = {key: getattr(self, key) for key in ("value", "stderr", "kind", "unit", "particles")}
        return record | {"stderr": None if math.isnan(self.stderr) else self.stderr}

    def __str__(self) -> str:
        """`−88.71 ± 0.24 nats per image (lower bound, 5000 particles)`."""
        particles = f", {self.particles} particles" if self.particles else ""
        return f"{self.value:.2f} ± {self.stderr:.2f} {self.unit} ({self.kind}{particles})"


def bits_per_dim(nats: float, num_dims: int) -> float:
    """−nats / (num_dims · ln 2): code length per pixel and channel, lower is better."""
    return -nats / (num_dims * math.log(2))
