"""A recurrent network that reads symbols from the left and says what comes next."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class LanguageLSTM(nn.Module):
    """Embedding → LSTM (Hochreiter and Schmidhuber 1997) → logits of the next symbol.

    What place i sees is the symbols before it: the input is moved by one place, and begins with a symbol of its own,
    number `num_symbols`.

    num_symbols: how many there are. features: width of the embedding and of each layer. layers: on top of each other.
    dropout: share of the features between layers that training switches off (Zaremba et al. 2014), in `forward` only:
        `step`, which is for sampling, never does. context_shape: (d,) of a condition that every place sees, None for
        none.
    """

    def __init__(
        self,
        num_symbols: int,
        features: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        *,
        context_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.num_symbols, self.context_shape = num_symbols, tuple(context_shape) if context_shape else None
        self.embedding = nn.Embedding(num_symbols + 1, features)
        width = features + sum(self.context_shape or ())
        self.lstm = nn.LSTM(width, features, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_symbols)

    def forward(
        self, tokens: Int64[Tensor, "b t"], context: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b t n"]:
        """Logits of every symbol at every place, given the symbols before it."""
        start = torch.full_like(tokens[:, :1], self.num_symbols)
        h, _ = self.lstm(self.inputs(torch.cat([start, tokens[:, :-1]], 1), context))
        return self.head(self.dropout(h))

    def step(
        self, previous: Int64[Tensor, " b"], state: State | None = None, context: Float[Tensor, "b d"] | None = None
    ) -> tuple[Float[Tensor, "b n"], State]:
        """Logits of one place from the symbol before it (`num_symbols` at the start) and the state it left."""
        with self.without_dropout():
            h, state = self.lstm(self.inputs(previous[:, None], context), state)
        return self.head(h)[:, 0], state

    @contextmanager
    def without_dropout(self) -> Iterator[None]:
        """No feature is switched off inside, in no mode; unlike in `eval()` mode, cuDNN still gives gradients."""
        shares = self.dropout.p, self.lstm.dropout
        self.dropout.p = self.lstm.dropout = 0.0
        try:
            yield
        finally:
            self.dropout.p, self.lstm.dropout = shares

    def inputs(self, before: Int64[Tensor, "b t"], context: Tensor | None) -> Float[Tensor, "b t f"]:
        """The embedded symbols, the context beside each."""
        h = self.dropout(self.embedding(before))
        return h if context is None else torch.cat([h, context[:, None].expand(-1, h.shape[1], -1)], -1)
