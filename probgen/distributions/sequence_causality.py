"""Is a network of sequences causal? Its logits for a place may depend on earlier symbols only.

Two sequences that agree before place t must have the same distribution at every place up to and including t.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from probgen.distributions.causality import CHECKED, MOST_CHECKED, MOST_PLACES, TOLERANCE
from probgen.distributions.networks import in_eval_mode, repeated
from probgen.errors import UserError

if TYPE_CHECKING:
    from probgen.distributions.sequences import FactoredSequence

MOST_VALUES = 2**25  # logits at once
LEAST_SCORE = -30.0  # nats: whatever a network gives to symbols less probable than that, it makes no difference


def check_once(density: "FactoredSequence") -> None:
    """`check_causal`, unless this network has passed it already.

    One that sees nothing as yet, because a layer starts at zero, is looked at again the next time.
    """
    passed, key = CHECKED.setdefault(density.network, set()), (*density.event_shape, density.num_symbols)
    if key in passed:
        return
    with in_eval_mode(density.network), torch.random.fork_rng():
        if check_causal(density):
            passed.add(key)


@torch.no_grad()
def check_causal(density: "FactoredSequence") -> bool:
    """Raise UserError, naming the place that leaks, where logits depend on their own symbol or on a later one.

    Two sequences that agree before place t must have the same logits up to and including t, for all t; of more
    than 4096 places as many are tried, at random. Gives whether any logits depend on a symbol at all: else there
    was nothing to see. The network is taken to be deterministic (in `eval()` mode).
    """
    length, device = density.event_shape[0], density.example.device
    first, other = torch.randint(0, density.num_symbols, (2, 1, length), device=device)
    other = torch.where(other == first, (first + 1) % density.num_symbols, other)
    places = torch.arange(length) if length <= MOST_CHECKED else torch.randperm(length)[:MOST_CHECKED]
    size = max(1, min(MOST_PLACES, MOST_VALUES // (length * density.num_symbols)))
    sees, order = False, torch.arange(length, device=device)
    for part in places.to(device)[:, None].split(size):
        off = moved(density, torch.cat([first, torch.where(order >= part, other, first)]))
        leaks = (off & (order <= part)).any(0)
        if leaks.any():
            raise UserError(
                f"the network is not causal: the distribution of place {int(leaks.nonzero()[0, 0])} depends on "
                "itself or on a later place; move its input by one place, so that each sees only those before it"
            )
        sees = sees or bool(off.any())
    return sees


def moved(density: "FactoredSequence", tokens: Int64[Tensor, "b t"]) -> Bool[Tensor, "others t"]:
    """Where the distributions differ from those of the first sequence, by more than rounding can do.

    A number added to all logits of a place makes no distribution different, and no tolerance larger.
    """
    context = density.flat_context(density.batch_shape)
    logits = density.network(tokens, repeated(None if context is None else context[:1], len(tokens)))
    if logits.shape != (*tokens.shape, density.num_symbols):
        expected = f"expected {(*tokens.shape, density.num_symbols)}: a logit for each symbol at each place"
        raise UserError(f"the network gave shape {tuple(logits.shape)} for {tuple(tokens.shape)} symbols, {expected}")
    scores = logits.log_softmax(-1).clamp_min(LEAST_SCORE)
    rounding = 16 * torch.finfo(logits.dtype).eps * (1 + logits[0].amax(-1).abs().max())
    tolerance = TOLERANCE * (scores[0].max() - scores[0].min()) + rounding
    return ((scores[1:] - scores[:1]).abs() > tolerance).any(-1)
