"""Sequences by the chain rule: p(S) = p(w_1) p(w_2 | w_1) p(w_3 | w_1, w_2) …, the product over all symbols.

    log p(S) = Σ_i log p(w_i | w_1 … w_{i−1}; θ)                 exact; all terms in one pass of a causal network
    w_i ~ p(w_i | w_1 … w_{i−1})  for i = 1, 2, …                ancestral sampling; each draw is fed back

A text of any length up to T is a sequence of length T, filled up with the symbol for its end: after the first `end`
only `end` follows, with probability one. So the density sums to one over all texts.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from probgen.distributions.conditionals import pick
from probgen.distributions.networks import check_context, in_eval_mode
from probgen.distributions.sequence_causality import check_once
from probgen.errors import UserError

MOST_VALUES = 2**25  # logits at once where no gradient is wanted: 128 MiB of float32
LEAST_SYMBOLS = 256  # counted for fewer: a network of few symbols has wide features nevertheless


class KnownSymbols(NamedTuple):
    """Symbols that stay as they are: `values` where `mask` is true."""

    values: Int64[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]


class FactoredSequence(TorchDistribution):
    """p(S | context) = Π_i p(w_i | w_<i, context), over sequences of `length` symbols 0 … num_symbols − 1.

    network: a causal network, used in the mode that it is in, but for drawing, which is always in `eval()` mode, so
        without dropout. `network(tokens, context)` takes symbols `b t` and gives the logits `b t num_symbols`
        of each place from the symbols *before* it; one that also has `step(previous, state, context)` (see
        `probgen.layers.LanguageLSTM`) can be sampled fast. `previous` is `num_symbols` at the start.
    context: what all places are conditioned on, `*batch *context_shape`, with the network's `context_shape`.
    end: the symbol after a text's last, which nothing else can follow; None: every sequence is `length` long.
    check_network: look for a place that sees itself or a later one, and refuse the network if there is one. All
        places of up to 4096 are tried, of a longer sequence as many at random. The network of `probgen.layers` is
        proved causal by the tests, and need not be looked at again.

    Raises UserError for a network that is not causal, an `end` that is no symbol, and a context that is missing or of
    another shape.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False
    is_chain = True  # a product of conditionals: how equations write it

    def __init__(
        self,
        network: nn.Module,
        length: int,
        num_symbols: int,
        context: Float[Tensor, "*b context"] | None = None,
        *,
        end: int | None = None,
        check_network: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        if length < 1 or num_symbols < 2:
            raise UserError(f"length={length}, num_symbols={num_symbols} came, expected 1 and 2, or more")
        if end is not None and not 0 <= end < num_symbols:
            raise UserError(f"end={end} came, expected one of the symbols 0 to {num_symbols - 1}, or None")
        self.network, self.num_symbols, self.end, self.context = network, num_symbols, end, context
        super().__init__(check_context(network, context), torch.Size([length]), validate_args=validate_args)
        if check_network and self.batch_shape.numel() > 0:
            check_once(self)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """The symbols 0 … num_symbols − 1 at every place."""
        return constraints.independent(constraints.integer_interval(0, self.num_symbols - 1), 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FactoredSequence":
        """The same distribution over a larger batch."""
        new = copy(self)
        new._batch_shape = torch.Size(batch_shape)
        if self.context is not None:
            new.context = self.context.expand(*batch_shape, *self.context_shape)
        return new

    # --- the density

    def log_prob(self, value: Shaped[Tensor, "*#b t"]) -> Float[Tensor, "*#b"]:
        """log p(S) in nats, exact, one number per sequence.

        Raises UserError for sequences of another shape, and with values that are no symbols.
        """
        return self.log_prob_map(value).sum(-1)

    def log_prob_map(self, value: Shaped[Tensor, "*#b t"]) -> Float[Tensor, "*#b t"]:
        """log p(w_i | w_<i) in nats, exact, for each place: the summands of `log_prob`, which says what is raised."""
        batch = self.batch_of(value)
        if self._validate_args:
            self.check_symbols(value)
        tokens = value.expand(*batch, *self.event_shape).reshape(batch.numel(), *self.event_shape).long()
        over = self.after_end(tokens)
        used = max(1, int((~over).any(0).sum()))  # later places are over in every sequence: nothing to compute
        scored = self.scores(tokens[:, :used], self.flat_context(batch))
        scored = nn.functional.pad(scored, (0, tokens.shape[1] - used))
        forced = torch.zeros_like(scored).masked_fill(tokens != (0 if self.end is None else self.end), -torch.inf)
        return torch.where(over, forced, scored).reshape(*batch, *self.event_shape)

    def scores(self, tokens: Int64[Tensor, "b t"], context: Tensor | None) -> Float[Tensor, "b t"]:
        """log p(w_i | w_<i) by the network; where no gradient is wanted, of so many sequences at once as fit."""
        size = max(1, MOST_VALUES // (tokens.shape[1] * max(self.num_symbols, LEAST_SYMBOLS)))
        if torch.is_grad_enabled():
            size = max(1, len(tokens))
        scores = [self.example.new_zeros(0, tokens.shape[1])]
        for start in range(0, len(tokens), size):
            part, c = tokens[start : start + size], None if context is None else context[start : start + size]
            logits = self.network(self.seen(part, c), c)
            scores.append(logits.log_softmax(-1).gather(-1, part[..., None])[..., 0])
        return torch.cat(scores)

    def batch_of(self, value: Tensor) -> torch.Size:
        """The batch shape of sequences together with their context; raises UserError where they do not fit."""
        try:
            if value.shape[-1:] == self.event_shape:
                return torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        except RuntimeError:  # their numbers do not fit
            pass
        batch = ", ".join(map(str, self.batch_shape)) or "*batch"
        raise UserError(f"sequences of shape {tuple(value.shape)} came, expected ({batch}, {self.event_shape[0]})")

    def check_symbols(self, value: Tensor) -> None:
        """Raise UserError for values that are no symbols, naming the first."""
        bad = value[~self.support.base_constraint.check(value)]
        if len(bad) > 0:
            raise UserError(
                f"a symbol of value {bad[0].item():g} came, in sequences of shape {tuple(value.shape)}, expected whole "
                f"numbers 0 to {self.num_symbols - 1}"
            )

    def after_end(self, tokens: Int64[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
        """Whether a place comes after the text's end."""
        if self.end is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        ends = (tokens == self.end).long()
        return ends.cumsum(-1) > ends

    def seen(self, tokens: Int64[Tensor, "b t"], context: Tensor | None) -> Int64[Tensor, "b t"]:
        """What the network is shown of the data: all of it, which is teacher forcing."""
        return tokens

    def entropy(self, num_samples: int = 100) -> Float[Tensor, "*b"]:
        """E[−log p(S)] in nats by the mean of `num_samples` draws: an estimate, no closed form exists.

        Raises UserError for fewer than one.
        """
        if num_samples < 1:
            raise UserError(f"num_samples={num_samples} came, expected 1 or more draws")
        with torch.no_grad(), in_eval_mode(self.network):
            return -self.log_prob(self.sample(torch.Size([num_samples]))).mean(0)

    # --- the sampler

    @torch.no_grad()
    def sample(
        self,
        sample_shape: Sequence[int] = (),
        given: Shaped[Tensor, "*given"] | None = None,
        mask: Shaped[Tensor, "*mask"] | None = None,
        *,
        cached: bool = True,
        temperature: float = 1.0,
    ) -> Int64[Tensor, "*b t"]:
        """Draw sequences symbol by symbol, `*sample_shape *batch length`.

        given, mask: completion of a prompt. Symbols of `given` where `mask` (length, or up to the full shape) is true
            stay as they are. Each drawn symbol is conditioned only on *earlier* ones: known symbols after it have no
            influence on it (and where an end is drawn before one, the sequence has probability zero).
        cached: each activation is computed once; False is the naive sampler, one pass of the network for each symbol.
            Both give the same sequences from the same seed. A network without `step` is sampled naively.
        temperature: divides the logits: below 1 nearer to the likeliest symbols; then no draws from this density.

        Raises UserError for a mask without symbols or of another size, for what are no symbols, and a temperature that
        is not above 0.
        """
        if not temperature > 0:
            raise UserError(f"temperature={temperature} came, expected a number above 0")
        cached = cached and hasattr(self.network, "step")
        shape = self._extended_shape(torch.Size(sample_shape))
        known = self.known(given, mask, shape)
        noise = torch.rand(shape[:-1].numel(), shape[-1], dtype=self.example.dtype, device=self.example.device)
        if len(noise) == 0:
            return torch.empty(shape, dtype=torch.long, device=noise.device)
        with in_eval_mode(self.network):
            return self.draw(noise, self.flat_context(shape[:-1]), known, cached, temperature).reshape(shape)

    def draw(
        self,
        noise: Float[Tensor, "b t"],
        context: Tensor | None,
        known: KnownSymbols | None,
        cached: bool,
        temperature: float,
    ) -> Int64[Tensor, "b t"]:
        """The sequences that are made of the noise: one uniform number for each symbol."""
        tokens = torch.full(noise.shape, self.end or 0, device=noise.device)
        previous, state = torch.full_like(tokens[:, 0], self.num_symbols), None
        over = torch.zeros_like(previous, dtype=torch.bool)
        for place in range(noise.shape[1]):
            if cached:
                logits, state = self.network.step(previous, state, context)  # type: ignore[operator]
            else:
                logits = self.network(tokens, context)[:, place]
            logits = (logits - logits.amax(-1, keepdim=True)) / temperature
            previous = pick(logits, noise[:, place, None])[:, 0]
            previous = torch.where(over, tokens[:, place], previous)  # filled with ends
            if known is not None:
                previous = torch.where(known.mask[:, place], known.values[:, place], previous)
            tokens[:, place] = previous
            if self.end is not None:
                over = over | (previous == self.end)
                if over.all() and (known is None or not known.mask[:, place + 1 :].any()):
                    break
        return tokens

    def known(self, given: Tensor | None, mask: Tensor | None, shape: torch.Size) -> KnownSymbols | None:
        """The symbols that stay; raises UserError where they do not fit."""
        if given is None and mask is None:
            return None
        if given is None or mask is None:
            raise UserError("a prompt needs both: given, symbols, and mask, true where they are to stay")
        for name, tensor in (("given", given), ("mask", mask)):
            sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
            if not 1 <= tensor.dim() <= len(shape) or any(came not in (1, wanted) for came, wanted in sizes):
                raise UserError(
                    f"{name} of shape {tuple(tensor.shape)}, expected {tuple(shape[-1:])}, or {tuple(shape)} for each "
                    "sequence"
                )
        if mask.dtype != torch.bool:
            raise UserError(f"a mask of {str(mask.dtype).removeprefix('torch.')} came, expected booleans")
        values = given.to(self.example.device).expand(shape).reshape(shape[:-1].numel(), *self.event_shape)
        kept = mask.to(values.device).expand(shape).reshape(shape[:-1].numel(), *self.event_shape)
        if not (self.support.base_constraint.check(values) | ~kept).all():
            raise UserError(
                f"known values that are no symbols came, expected whole numbers 0 to {self.num_symbols - 1}"
            )
        return KnownSymbols(values.long(), kept)

    # --- network and context

    @property
    def example(self) -> Tensor:
        """A tensor of the network's dtype and device."""
        return next(self.network.parameters(), torch.zeros(()))

    @property
    def context_shape(self) -> tuple[int, ...]:
        """The shape of the condition of one sequence."""
        return tuple(self.network.context_shape)  # type: ignore[arg-type]

    def flat_context(self, batch: torch.Size) -> Tensor | None:
        """The context of every sequence of a batch, its batch axes flattened into one."""
        if self.context is None:
            return None
        return self.context.expand(*batch, *self.context_shape).reshape(batch.numel(), *self.context_shape)
