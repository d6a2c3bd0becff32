"""PixelRNN: the conditionals from recurrent networks, which carry what they have seen along in their state.

    p(x) = Π_i p(x_i | h_i; θ),    h_i = f(h of earlier pixels, x_{i−1}, …)

van den Oord, Kalchbrenner and Kavukcuoglu 2016: Row LSTM (section 3.1), Diagonal BiLSTM (3.2); and the plain LSTM
over the pixels one after the other, which is the chain rule as it stands.

student_forcing: a share of the pixels that the network is shown in training are its own draws instead of the data's
(see `probgen.distributions.forcing`). That is no longer maximum likelihood; likelihoods are reported as ever.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from probgen.distributions.conditionals import ConditionalName
from probgen.layers import DiagonalBiLSTMNetwork, RasterLSTMNetwork, RowLSTMNetwork
from probgen.models.autoregressive import Autoregressive, Condition
from probgen.models.pixelcnn import Count, FirstKernel, Kernel

Share = Annotated[float, Field(ge=0, le=1)]
Layers = Annotated[int, Field(ge=1, le=100)]


class PixelRNN(Autoregressive):
    """What the recurrent models share: some of their training may be on their own draws.

    forcing_warmup: training steps over which the share rises linearly to `student_forcing`.
    """

    def __init__(self, *data: Any, student_forcing: float, forcing_warmup: int, **options: Any) -> None:
        super().__init__(*data, **options)
        self.largest_share, self.forcing_warmup, self.training_step = student_forcing, forcing_warmup, 0

    @property
    def student_forcing(self) -> float:
        """The share of pixels that are drawn by the model in this training step."""
        if not self.largest_share:
            return 0.0  # whatever the step: so the step can be recorded for all
        return self.largest_share * min(1.0, (self.training_step + 1) / max(1, self.forcing_warmup))


class RowLSTM(PixelRNN):
    """p(x) = Π_i p(x_i | x_<i), from LSTMs that go down the image, all pixels of a row at once.

    Fast, but each state sees only a triangle of the rows above it.

    image_shape: (c, h, w). levels: number of grey levels. num_classes: labels, where the data have them.
    features: width of the state, for each channel of the image; twice that between layers.
    layers: LSTM layers. first_kernel: side of the first convolution (mask A). kernel: width of the LSTM's.
    conditional, mixtures, condition: as for `PixelCNN`.
    student_forcing: largest share of pixels that are the model's own draws in training.
    forcing_warmup: steps over which it rises to that.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        features: Count = 32,
        layers: Layers = 2,
        first_kernel: FirstKernel = 7,
        kernel: Kernel = 3,
        conditional: ConditionalName | None = None,
        mixtures: Count = 10,
        condition: Condition = "none",
        student_forcing: Share = 0.0,
        forcing_warmup: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            image_shape, levels, num_classes,
            partial(RowLSTMNetwork, features=features, layers=layers, first_kernel=first_kernel, kernel=kernel),
            conditional=conditional, mixtures=mixtures, condition=condition,
            student_forcing=student_forcing, forcing_warmup=forcing_warmup,
        )  # fmt: skip


class DiagonalBiLSTM(PixelRNN):
    """p(x) = Π_i p(x_i | x_<i), from LSTMs that go along the diagonals, from both sides: all earlier pixels are seen.

    Options as for `RowLSTM`; its kernel is always the pixel beside and the one above.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        features: Count = 32,
        layers: Layers = 2,
        first_kernel: FirstKernel = 7,
        conditional: ConditionalName | None = None,
        mixtures: Count = 10,
        condition: Condition = "none",
        student_forcing: Share = 0.0,
        forcing_warmup: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            image_shape, levels, num_classes,
            partial(DiagonalBiLSTMNetwork, features=features, layers=layers, first_kernel=first_kernel),
            conditional=conditional, mixtures=mixtures, condition=condition,
            student_forcing=student_forcing, forcing_warmup=forcing_warmup,
        )  # fmt: skip


class RasterLSTM(PixelRNN):
    """p(x) = Π_i p(x_i | h_i), h_i = LSTM(h_{i−1}, x_{i−1}): one LSTM over the pixels, one after the other.

    The plainest of all, for teaching: as many steps as the image has numbers. Options as for `RowLSTM`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None = None,
        num_classes: int | None = None,
        *,
        features: Count = 64,
        layers: Layers = 1,
        conditional: ConditionalName | None = None,
        mixtures: Count = 10,
        condition: Condition = "none",
        student_forcing: Share = 0.0,
        forcing_warmup: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            image_shape, levels, num_classes, partial(RasterLSTMNetwork, features=features, layers=layers),
            conditional=conditional, mixtures=mixtures, condition=condition,
            student_forcing=student_forcing, forcing_warmup=forcing_warmup,
        )  # fmt: skip
