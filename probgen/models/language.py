"""The language model: a text's probability, word by word.

    p(S) = Π_i p(w_i | w_1 … w_{i−1}; θ)          θ* = argmax Σ_S log p(S; θ)

w_i is a character or a word, the last one the text's end, so that p sums to one over all texts up to the context's
length. An LSTM reads w_1 … w_{i−1} and gives p(w_i | …). Two numbers per symbol say how well it does:

    bits = −Σ log₂ p(S) / number of symbols       perplexity = 2^bits: as unsure as between so many equal choices
"""

from collections.abc import Sequence
from typing import Annotated

import pyro
import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field
from torch import Tensor, nn

from probgen.distributions import FactoredSequence, StudentForcedSequence
from probgen.errors import UserError
from probgen.layers.lstm import LanguageLSTM
from probgen.models.contracts import Kind
from probgen.vocabulary import END, Vocabulary, shortened


class LanguageModel(nn.Module):
    """p(S) = Π_i p(w_i | w_1 … w_{i−1}): a text, one character or word after the other.

    image_shape: (length,), the context: a text has fewer symbols than that, the rest is filled with its end.
    levels: number of symbols.
    vocabulary: the symbols; the first is the end, a line's end of characters, `<end>` of words.
    features: width of the embedding and of each layer of the LSTM.
    layers: of the LSTM.
    dropout: share of the features that training switches off: in `model` only, all other methods are without it.
    student_forcing: the probability with which a symbol that the network reads in training is not the data's, but its
        own draw (scheduled sampling). 0 is teacher forcing, maximum likelihood; above, training is no longer that, and
        its ELBO is not log p(S). Evaluation is always by teacher forcing.
    forcing_warmup: training steps over which that probability rises linearly from 0.
    """

    kind = Kind.TRACTABLE

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int | None,
        vocabulary: Sequence[str] | None,
        *,
        features: Annotated[int, Field(ge=1, le=8192)] = 128,
        layers: Annotated[int, Field(ge=1, le=16)] = 1,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        student_forcing: Annotated[float, Field(ge=0, le=1)] = 0.0,
        forcing_warmup: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        if vocabulary is None or len(image_shape) != 1:
            raise UserError(
                f"data of shape {tuple(image_shape)} came, which are no text: the language model is of sentences, "
                "e.g. --data sea-log, or a file.txt with one on each line"
            )
        self.image_shape, self.length = tuple(image_shape), image_shape[0]
        self.vocabulary = Vocabulary(tuple(vocabulary))
        self.largest_share, self.forcing_warmup, self.training_step = student_forcing, forcing_warmup, 0
        self.levels = len(self.vocabulary.symbols)
        if levels not in (None, self.levels):
            raise UserError(f"levels={levels} came with a vocabulary of {self.levels} symbols, expected one number")
        self.network = LanguageLSTM(self.levels, features, layers, dropout)

    def model(self, x: Shaped[Tensor, "b t"]) -> None:
        """p(S) = Π_i p(w_i | w_1 … w_{i−1})."""
        with pyro.plate("images", len(x)):
            pyro.sample("x", self.distribution(forced=self.training), obs=x)

    def guide(self, x: Shaped[Tensor, "b t"]) -> None:
        """Nothing is latent: the ELBO is log p(S) itself, and SVI is maximum likelihood."""

    def distribution(self, *, forced: bool = False) -> FactoredSequence:
        """p(S); with `forced`, and a share of student forcing, what training maximizes instead."""
        shape = (self.network, self.length, self.levels)
        if forced and self.student_forcing:
            return StudentForcedSequence(*shape, end=END, check_network=False, share=self.student_forcing)
        return FactoredSequence(*shape, end=END, check_network=False)

    @property
    def student_forcing(self) -> float:
        """The share of symbols that are drawn by the model in this training step."""
        if not self.largest_share:
            return 0.0  # whatever the step: so the step can be recorded for all
        return self.largest_share * min(1.0, (self.training_step + 1) / max(1, self.forcing_warmup))

    # --- what it says of texts, as numbers of symbols

    def log_prob(self, x: Shaped[Tensor, "b t"]) -> Float[Tensor, " b"]:
        """log p(S) in nats, exact: without dropout, in training too. Raises UserError for what are no such texts."""
        with self.network.without_dropout():
            return self.distribution().log_prob(x)

    def num_symbols(self, x: Shaped[Tensor, "b t"]) -> Int64[Tensor, " b"]:
        """How many symbols each text has, its end among them: the factors of p(S) that are not one."""
        return (~self.distribution().after_end(x.long())).sum(-1)

    @torch.no_grad()
    def bits_per_symbol(self, x: Shaped[Tensor, "b t"]) -> float:
        """−Σ log₂ p(S) / Σ number of symbols, over all texts together."""
        nats = torch.cat([self.log_prob(part) for part in x.split(1024)])
        return float(-nats.double().sum() / self.num_symbols(x).sum() / torch.tensor(2.0).log())

    def perplexity(self, x: Shaped[Tensor, "b t"]) -> float:
        """2^bits: the model is as unsure of the next symbol as between so many equally likely ones."""
        return 2 ** self.bits_per_symbol(x)

    @torch.no_grad()
    def sample(self, num: int, *, temperature: float = 1.0, prompt: str | None = None) -> Float[Tensor, "num t"]:
        """S ~ p(S), symbol by symbol, as whole numbers, without dropout, in training too; those of the prompt stay.

        temperature: below 1 nearer to the likeliest symbols. Raises UserError for one that is not above 0, and for a
        prompt that is empty, not in the vocabulary or longer than the context.
        """
        given = mask = None
        if prompt is not None:
            given = self.encode(prompt).to(self.device)
            mask = torch.arange(self.length, device=self.device) < self.num_symbols(given[None]) - 1
        drawn = self.distribution().sample(torch.Size([num]), given, mask, temperature=temperature)
        return drawn.to(torch.get_default_dtype())

    # --- and as text

    def encode(self, text: str) -> Int64[Tensor, " t"]:
        """A text as numbers of symbols, filled up with the end.

        Raises UserError for one that is empty, not in the vocabulary or longer than the context.
        """
        numbers = self.vocabulary.encode(text)
        if len(numbers) >= self.length:
            level = self.vocabulary.level
            raise UserError(
                f"{shortened(text)} has {len(numbers)} {level}, longer than the context: at most {self.length - 1} "
                f"{level} and the end, as in the text that was learned"
            )
        return torch.tensor(numbers + [END] * (self.length - len(numbers)))

    def decode(self, x: Shaped[Tensor, "b t"]) -> list[str]:
        """The texts, each up to its end."""
        return [self.vocabulary.decode(numbers) for numbers in x.long().tolist()]

    @torch.no_grad()
    def log_prob_of(self, text: str) -> float:
        """log p(S) of a text in nats, its end included. Raises UserError for what `encode` cannot read."""
        return float(self.log_prob(self.encode(text)[None].to(self.device)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
