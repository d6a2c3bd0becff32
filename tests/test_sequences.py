"""The chain rule over symbols: it sums to one, each place sees only those before it, it draws what it scores."""

import itertools
import re

import pyro
import pytest
import torch
from laws import check_equal, check_estimate, check_sampler
from pyro import poutine
from torch import nn

from probgen.distributions import FactoredSequence, StudentForcedSequence, sequence_causality, sequences
from probgen.distributions.conditionals import pick
from probgen.errors import UserError
from probgen.layers import LanguageLSTM

LENGTH, SYMBOLS = 4, 3


def lstm(seed=0, symbols=SYMBOLS, **options):
    """A network whose symbols depend strongly on each other."""
    torch.manual_seed(seed)
    network = LanguageLSTM(symbols, 8, **options).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network.eval()


def density(end=None, length=LENGTH, cls=FactoredSequence, **options):
    return cls(lstm(), length, SYMBOLS, end=end, validate_args=True, **options)


def all_sequences(length=LENGTH, symbols=SYMBOLS):
    return torch.tensor(list(itertools.product(range(symbols), repeat=length)))


def numbered(sequences):
    """Each sequence as one whole number, in the order of `all_sequences`."""
    return sequences @ SYMBOLS ** torch.arange(LENGTH - 1, -1, -1)


class SeesItself(LanguageLSTM):
    """Broken: the input is not moved by one place."""

    def forward(self, tokens, context=None):
        return self.head(self.lstm(self.inputs(tokens, context))[0])


class SeesTheEnd(LanguageLSTM):
    """Broken: every place sees the last symbol."""

    def forward(self, tokens, context=None):
        return super().forward(tokens, context) + self.head(self.embedding(tokens[:, -1:]))


class FeedsBackTheMode(FactoredSequence):
    """Broken sampler: the network goes on from the likeliest symbol, not from the one that was drawn."""

    def draw(self, noise, context, known, cached, temperature):
        tokens, mode = torch.zeros(noise.shape, dtype=torch.long), torch.zeros(noise.shape, dtype=torch.long)
        for place in range(noise.shape[1]):
            logits = self.network(mode, context)[:, place]
            tokens[:, place], mode[:, place] = pick(logits, noise[:, place, None])[:, 0], logits.argmax(-1)
        return tokens


class ForgetsTheEnd(FactoredSequence):
    """Broken: after the end the network goes on."""

    def after_end(self, tokens):
        return torch.zeros_like(tokens, dtype=torch.bool)


# --- the density


@pytest.mark.parametrize("end", [None, 0, 2])
def test_all_sequences_sum_to_one(end):
    check_equal(density(end).log_prob(all_sequences()).exp().sum(), 1.0)


def test_a_network_that_sees_its_own_symbol_does_not_sum_to_one():
    torch.manual_seed(0)
    broken = FactoredSequence(SeesItself(SYMBOLS, 8).double(), LENGTH, SYMBOLS, check_network=False)
    assert abs(broken.log_prob(all_sequences()).exp().sum() - 1) > 1e-3


def test_texts_of_every_length_sum_to_one():
    """Those that ended, and those that fill the context; nothing follows an end but ends."""
    texts, scores = all_sequences(), density(end=0).log_prob(all_sequences())
    ended = (texts == 0).long()
    possible = ((ended.cumsum(1) > 0) == (texts == 0)).all(1)
    assert possible.sum() == sum(2**k for k in range(LENGTH + 1))
    assert scores[~possible].max() == -torch.inf
    check_equal(scores[possible].exp().sum(), 1.0)
    assert ForgetsTheEnd(lstm(), LENGTH, SYMBOLS, end=0).log_prob(texts)[~possible].min() > -torch.inf


def test_the_map_is_the_product_by_hand():
    network, x = lstm(), torch.tensor([2, 1, 0, 0])
    inputs, by_hand = torch.tensor([SYMBOLS, 2, 1]), []
    for place in range(3):
        h, _ = network.lstm(network.embedding(inputs[None, : place + 1]))
        by_hand.append(network.head(h[0, -1]).log_softmax(-1)[x[place]])
    scores = density(end=0).log_prob_map(x)
    check_equal(scores, [*torch.stack(by_hand).tolist(), 0.0])
    check_equal(density(end=0).log_prob(x), sum(by_hand))


def test_gradients_through_impossible_and_padded_places_are_numbers():
    network = lstm()
    scores = FactoredSequence(network, LENGTH, SYMBOLS, end=0).log_prob(torch.tensor([[1, 0, 0, 0], [1, 2, 1, 0]]))
    scores.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("layers", [1, 2])
def test_each_place_sees_exactly_the_symbols_before_it(layers):
    """By the gradient of a place's logits in the embeddings of all symbols."""
    network, tokens = lstm(symbols=9, layers=layers), torch.arange(8)[None]
    for place in range(8):
        network.zero_grad()
        network(tokens)[0, place].pow(2).sum().backward()
        seen = network.embedding.weight.grad.abs().sum(1) > 0
        assert seen[:8].tolist() == [other < place for other in range(8)]
        assert seen[9]  # the start


@pytest.mark.parametrize(("twin", "place"), [(SeesItself, 0), (SeesTheEnd, 0)])
@pytest.mark.parametrize("length", [1, 5, 60])
def test_a_network_that_is_not_causal_is_refused(twin, place, length):
    with pytest.raises(UserError, match=f"not causal: the distribution of place {place} depends on itself or on a lat"):
        FactoredSequence(twin(SYMBOLS, 8), length, SYMBOLS)
    FactoredSequence(LanguageLSTM(SYMBOLS, 8), length, SYMBOLS)


class SeesOne(nn.Module):
    """Its logits at `reader` are what it gives to the symbol at `place`, and an offset; the rest are their own."""

    def __init__(self, place, reader, scale=1.0, offset=0.0, context_shape=None):
        super().__init__()
        self.place, self.reader, self.offset, self.context_shape = place, reader, offset, context_shape
        self.table = nn.Parameter(scale * torch.eye(SYMBOLS).double())
        self.inner = nn.Sequential(nn.Dropout(0.5))

    def forward(self, tokens, context=None):
        assert context is None or context.shape == (len(tokens), *self.context_shape)
        logits = torch.arange(SYMBOLS).double().repeat(*tokens.shape, 1) + self.offset
        seen = torch.zeros_like(logits)
        seen[:, self.reader] = self.table[tokens[:, self.place]]
        return logits + seen


def test_a_leak_that_is_zero_at_first_is_found_as_soon_as_it_shows():
    network = SeesOne(3, 1, scale=0.0)
    FactoredSequence(network, LENGTH, SYMBOLS)
    network.table.data = torch.eye(SYMBOLS).double()  # a step of training
    with pytest.raises(UserError, match="the distribution of place 1 depends"):
        FactoredSequence(network, LENGTH, SYMBOLS)


def test_a_network_that_has_passed_is_not_looked_at_again():
    network, calls = lstm(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    for expected in (1, 1):
        FactoredSequence(network, LENGTH, SYMBOLS)
        assert len(calls) == expected


def test_a_leak_between_any_two_places_of_a_long_sequence_is_found():
    for place in (98, 100, 101):
        with pytest.raises(UserError, match=f"the distribution of place {place} depends"):
            FactoredSequence(SeesOne(place, place), 300, SYMBOLS)
        FactoredSequence(SeesOne(place - 1, place), 300, SYMBOLS)


def test_of_a_very_long_sequence_some_places_are_tried(monkeypatch):
    monkeypatch.setattr(sequence_causality, "MOST_CHECKED", 30)
    calls, network = [], SeesOne(7, 8)
    network.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    FactoredSequence(network, 40, SYMBOLS)
    assert calls == [31]
    with pytest.raises(UserError, match="the distribution of place 0 depends"):
        FactoredSequence(SeesOne(39, 0), 40, SYMBOLS)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_an_offset_of_the_logits_hides_no_leak_and_is_none(offset):
    with pytest.raises(UserError, match="not causal"):
        FactoredSequence(SeesOne(2, 2, scale=0.01, offset=offset), LENGTH, SYMBOLS)
    network = SeesOne(2, 2, offset=offset)
    network.table.data = offset + torch.arange(SYMBOLS).double()[:, None].expand(-1, SYMBOLS)  # the same to all symbols
    FactoredSequence(network, LENGTH, SYMBOLS)


def test_the_check_restores_the_mode_of_every_module():
    network = SeesOne(0, 1)
    network.inner.eval()
    FactoredSequence(network, LENGTH, SYMBOLS)
    assert [m.training for m in network.modules()] == [True, False, False]


def test_a_context_of_any_shape_is_checked_with():
    context = torch.zeros(5, 2, 3, 4).double()
    assert FactoredSequence(SeesOne(0, 1, context_shape=(2, 3, 4)), LENGTH, SYMBOLS, context).batch_shape == (5,)


def test_a_network_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"gave shape \(5, 4, 5\) .* expected \(5, 4, 3\)"):
        FactoredSequence(LanguageLSTM(5, 8), LENGTH, SYMBOLS)


@pytest.mark.parametrize("end", [-1, 3])
def test_an_end_that_is_no_symbol_is_refused(end):
    with pytest.raises(UserError, match="expected one of the symbols 0 to 2"):
        density(end)


@pytest.mark.parametrize(("value", "which"), [([0.0, 1, 2, 3], "3"), ([0, 1, 1.5, 2], "1.5"), ([-1, 0, 0, 0], "-1")])
def test_values_that_are_no_symbols_are_refused(value, which):
    says = rf"a symbol of value {which} came, in sequences of shape \(4,\), expected whole numbers 0 to 2"
    with pytest.raises(UserError, match=says):
        density().log_prob(torch.tensor(value))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 1)])
def test_sequences_of_another_length_are_refused(shape):
    with pytest.raises(UserError, match=rf"shape {re.escape(str(shape))} came, expected \(\*batch, 4\)"):
        density().log_prob(torch.zeros(shape))
    batch = FactoredSequence(lstm(context_shape=(2,)), LENGTH, SYMBOLS, torch.zeros(3, 2).double())
    with pytest.raises(UserError, match=r"shape \(2, 4\) came, expected \(3, 4\)"):
        batch.log_prob(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("takes", "came", "says"),
    [
        (None, (3, 2), r"a context of shape \(3, 2\) came, expected none"),
        ((2,), None, r"no context came, expected one of shape \(\*batch, 2\)"),
        ((2,), (3, 4), r"a context of shape \(3, 4\) came, expected one of shape \(\*batch, 2\)"),
    ],
)
def test_a_context_that_the_network_does_not_take_is_refused(takes, came, says):
    with pytest.raises(UserError, match=says):
        FactoredSequence(lstm(context_shape=takes), LENGTH, SYMBOLS, None if came is None else torch.zeros(came))


@pytest.mark.parametrize("end", [None, 0])
def test_an_empty_batch_is_scored_and_drawn(end):
    assert density(end).log_prob(torch.zeros(0, LENGTH)).shape == (0,)
    assert density(end).sample((0,)).shape == (0, LENGTH)
    empty = FactoredSequence(lstm(context_shape=(2,)), LENGTH, SYMBOLS, torch.zeros(0, 2).double(), end=end)
    assert empty.log_prob(torch.zeros(5, 0, LENGTH)).shape == (5, 0)
    assert empty.sample((5,), torch.zeros(LENGTH), torch.arange(LENGTH) == 0).shape == (5, 0, LENGTH)


@pytest.mark.parametrize("cls", [FactoredSequence, StudentForcedSequence])
def test_without_gradients_few_sequences_are_scored_at_once(cls, monkeypatch):
    """Parts of three sequences, each under its own context; together what all at once are."""
    monkeypatch.setattr(sequences, "LEAST_SYMBOLS", SYMBOLS)
    monkeypatch.setattr(sequences, "MOST_VALUES", 3 * LENGTH * SYMBOLS)
    network, x = lstm(context_shape=(2,)), torch.randint(0, SYMBOLS, (8, LENGTH))
    share = {"share": 0.0} if cls is StudentForcedSequence else {}
    batch = cls(network, LENGTH, SYMBOLS, torch.randn(8, 2).double(), check_network=False, **share)
    expected, rows = batch.log_prob_map(x).detach(), []
    network.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    with torch.no_grad():
        check_equal(batch.log_prob_map(x), expected)
    assert (set(rows), max(rows)) == ({2, 3}, 3)
    rows.clear()
    batch.log_prob_map(x)
    assert set(rows) == {8}


# --- the sampler


@pytest.mark.parametrize("end", [None, 1])
def test_the_sampler_draws_from_the_density(end):
    distribution = density(end)
    check_sampler(numbered(distribution.sample((20_000,))), distribution.log_prob(all_sequences()).exp().detach())


def test_feeding_back_the_likeliest_symbol_is_rejected():
    distribution = density(cls=FeedsBackTheMode)
    with pytest.raises(AssertionError, match="frequencies"):
        check_sampler(numbered(distribution.sample((20_000,))), distribution.log_prob(all_sequences()).exp().detach())


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("end", [None, 0])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_cached_and_naive_draw_the_same(layers, end, temperature):
    distribution = FactoredSequence(lstm(layers=layers), 20, SYMBOLS, end=end)
    draws = []
    for cached in (True, False):
        torch.manual_seed(1)
        draws.append(distribution.sample((50,), cached=cached, temperature=temperature))
    assert torch.equal(*draws)
    assert len(draws[0].unique(dim=0)) > 1


def test_after_an_end_all_is_end():
    drawn = density(end=1, length=30).sample((200,))
    ended = (drawn == 1).long().cumsum(1) > 0
    assert (drawn[ended] == 1).all()
    assert ended.any()
    assert not ended.all()


def test_a_low_temperature_draws_the_likeliest_symbol():
    network, drawn = lstm(), density().sample((5,), temperature=1e-30)
    assert torch.equal(drawn, network(drawn).argmax(-1))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(UserError, match=f"temperature={temperature} came, expected a number above 0"):
        density().sample(temperature=temperature)


@pytest.mark.parametrize("num", [0, -1])
def test_an_entropy_of_no_draws_is_refused(num):
    with pytest.raises(UserError, match=f"num_samples={num} came, expected 1 or more"):
        density().entropy(num)


@pytest.mark.parametrize("cached", [True, False])
def test_no_dropout_in_the_sampler(cached):
    network, draws = lstm(layers=2, dropout=0.5), []
    for training in (True, False):
        torch.manual_seed(0)
        draws.append(FactoredSequence(network.train(training), 20, SYMBOLS).sample((50,), cached=cached))
        assert all(m.training is training for m in network.modules())
    assert torch.equal(*draws)


def test_a_step_has_no_dropout():
    network, previous = lstm(layers=2, dropout=0.5), torch.tensor([0, 1, 2])
    expected = network.step(previous)
    logits, state = network.train().step(previous)
    check_equal(logits.detach(), expected[0].detach())
    check_equal(state[0].detach(), expected[1][0].detach())
    assert (network.dropout.p, network.lstm.dropout) == (0.5, 0.5)


def test_a_prompt_stays_and_conditions_what_follows():
    """p(w_3, w_4 | w_1, w_2) by the ratio of joint probabilities."""
    distribution, given = density(), torch.tensor([2, 1, 0, 0])
    drawn = distribution.sample((20_000,), given, torch.tensor([True, True, False, False]))
    assert (drawn[:, :2] == given[:2]).all()
    joint = distribution.log_prob(all_sequences()).detach().exp().reshape(3, 3, 9)[2, 1]
    check_sampler(drawn[:, 2] * 3 + drawn[:, 3], joint / joint.sum())


def test_a_known_symbol_has_no_influence_on_those_before_it():
    draws = []
    for last in (0, 2):
        torch.manual_seed(0)
        draws.append(density().sample((100,), torch.full((4,), last), torch.arange(4) == 3))
    assert torch.equal(draws[0][:, :3], draws[1][:, :3])
    assert [d[:, 3].unique().tolist() for d in draws] == [[0], [2]]


def test_a_prompt_for_each_sequence():
    given, mask = torch.randint(0, SYMBOLS, (6, LENGTH)), torch.rand(6, LENGTH) < 0.5
    drawn = density(end=0).sample((6,), given, mask)
    assert torch.equal(drawn[mask], given[mask])


@pytest.mark.parametrize(
    ("given", "mask", "says"),
    [
        (None, torch.ones(4, dtype=torch.bool), "needs both"),
        (torch.zeros(4), None, "needs both"),
        (torch.zeros(5), torch.ones(4, dtype=torch.bool), r"given of shape \(5,\), expected \(4,\)"),
        (torch.zeros(4), torch.ones(3, dtype=torch.bool), r"mask of shape \(3,\)"),
        (torch.zeros(4), torch.ones(4), "mask of float32 came, expected booleans"),
        (torch.full((4,), 3), torch.ones(4, dtype=torch.bool), "expected whole numbers 0 to 2"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(given, mask, says):
    with pytest.raises(UserError, match=says):
        density().sample((2,), given, mask)


def test_a_network_without_step_is_sampled_naively():
    class Uniform(nn.Module):
        def forward(self, tokens, context=None):
            return torch.zeros(*tokens.shape, SYMBOLS)

    distribution = FactoredSequence(Uniform(), LENGTH, SYMBOLS)
    assert distribution.sample((5,), cached=False).shape == (5, LENGTH)
    torch.manual_seed(3)
    naive = distribution.sample((5,), cached=False)
    torch.manual_seed(3)
    check_equal(distribution.sample((5,)), naive)


def test_the_entropy_is_that_of_the_sum():
    distribution = density(end=0)
    scores = distribution.log_prob(all_sequences()).detach()
    exact = -(scores.exp() * scores.clamp_min(-1e9)).sum()
    check_estimate(torch.stack([distribution.entropy(50) for _ in range(40)]), exact, largest_error=0.05)


# --- as Pyro uses it


def test_a_context_gives_each_entry_of_the_batch_its_own_law():
    network, context = lstm(context_shape=(2,)), 3 * torch.randn(3, 2).double()
    batch = FactoredSequence(network, LENGTH, SYMBOLS, context, end=0)
    assert (batch.batch_shape, batch.event_shape) == ((3,), (4,))
    x = batch.sample((5,))
    assert x.shape == (5, 3, 4)
    alone = [FactoredSequence(network, LENGTH, SYMBOLS, c, end=0) for c in context]
    check_equal(batch.log_prob(x).detach(), torch.stack([d.log_prob(x[:, i]) for i, d in enumerate(alone)], 1).detach())
    wide = batch.expand((2, 3))
    assert (wide.batch_shape, wide.sample((7,)).shape) == ((2, 3), (7, 2, 3, 4))
    check_equal(wide.log_prob(x[:2]).detach(), batch.log_prob(x[:2]).detach())
    check_equal(alone[0].log_prob(all_sequences()).exp().sum().detach(), 1.0)


def test_in_a_plate_pyro_scores_and_draws():
    def program(x):
        with pyro.plate("images", 6):
            return pyro.sample("x", density(end=0), obs=x)

    drawn = program(None)
    assert drawn.shape == (6, LENGTH)
    assert len(drawn.unique(dim=0)) > 1
    trace = poutine.trace(program).get_trace(drawn.float())
    trace.compute_log_prob()
    check_equal(trace.nodes["x"]["log_prob"].detach(), density(end=0).log_prob(drawn).detach())


# --- student forcing


def test_student_forcing_scores_by_what_the_model_read():
    """With a share of 0 it is the density; with 1 all that is read is drawn, but for ends."""
    x = torch.randint(0, SYMBOLS, (400, LENGTH))
    exact = density().log_prob(x)
    check_equal(density(cls=StudentForcedSequence, share=0.0).log_prob(x).detach(), exact.detach())
    forced = density(cls=StudentForcedSequence, share=1.0)
    check_equal(forced.log_prob_map(x)[:, 0].detach(), density().log_prob_map(x)[:, 0].detach())  # reads the start only
    assert (forced.log_prob(x) - exact).abs().mean() > 0.1
    read = forced.seen(torch.full((20_000, LENGTH), 2), None)
    logits = lstm()(torch.full((1, LENGTH), 2))[0]
    for place in range(LENGTH):  # drawn given the data before it
        check_sampler(read[:, place], logits[place].softmax(-1).detach())
    ended = density(cls=StudentForcedSequence, share=1.0, end=1).seen(torch.full((2000, LENGTH), 2), None)
    assert set(ended.unique().tolist()) == {0, 2}


def test_a_share_is_a_share():
    forced, x = density(cls=StudentForcedSequence, share=0.25, length=50), torch.full((400, 50), 2)
    logits = lstm()(x[:1])[0]
    swapped = (forced.seen(x, None) != x).float().mean()
    expected = 0.25 * (1 - logits.softmax(-1)[:, 2]).mean()
    assert abs(swapped - expected) < 4.5 * 0.5 / (400 * 50) ** 0.5
