"""A number about log p(x), and what it is."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

EstimateKind = Literal["exact", "lower bound", "upper bound", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """The mean over images of a number in nats per image, with the standard error of that mean.

    value, stderr: the mean and its standard error over images; the Monte Carlo noise of each image's own
        number is part of that error. For a single image the error is not known: nan.
    kind: how the number relates to log p(x).
    particles: draws of z per image, 0 where nothing was drawn.
    per_image: the numbers themselves, shape b.
    """

    value: float
    stderr: float
    kind: EstimateKind
    unit: str
    particles: int
    per_image: Tensor = field(repr=False, compare=False)

    @classmethod
    def of(cls, per_image: Float[Tensor, " b"], kind: EstimateKind, particles: int = 0) -> "Estimate":
        """Average `per_image` in float64."""
        per_image = per_image.detach().cpu()
        numbers = per_image.double()
        stderr = float(numbers.std() / math.sqrt(len(numbers))) if len(numbers) > 1 else math.nan
        return cls(float(numbers.mean()), stderr, kind, "nats per image", particles, per_image)

    def to_json(self) -> dict[str, Any]:
        """The fields for machines: all but `per_image`; an unknown error is None."""
        record = {key: value for key, value in asdict(self).items() if key != "per_image"}
        return record | {"stderr": None if math.isnan(self.stderr) else self.stderr}

    def __str__(self) -> str:
        """`−88.71 ± 0.24 nats per image (lower bound, 5000 particles)`."""
        particles = f", {self.particles} particles" if self.particles else ""
        return f"{self.value:.2f} ± {self.stderr:.2f} {self.unit} ({self.kind}{particles})"


def bits_per_dim(nats: float, num_dims: int) -> float:
    """−nats / (num_dims · ln 2): code length per pixel and channel, lower is better."""
    return -nats / (num_dims * math.log(2))
