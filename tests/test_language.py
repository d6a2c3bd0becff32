"""The language model: it learns a known text, says how probable a sentence is, and goes on from a prompt."""

import math

import pytest
import torch
from laws import check_equal, check_sampler
from pyro import poutine

from probgen.errors import UserError
from probgen.inference import fit
from probgen.models import LanguageModel
from probgen.models.contracts import Kind, kind_of
from probgen.vocabulary import Vocabulary, split, vocabulary_of

LETTERS = ("\n", "a", "b", "c")
WORDS = ("<end>", "<unk>", ",", ".", "The", "sea", "wind")


def letters(length=6, **options):
    torch.manual_seed(0)
    return LanguageModel((length,), len(LETTERS), LETTERS, features=8, **options).eval()


def words(length=6):
    torch.manual_seed(0)
    return LanguageModel((length,), len(WORDS), WORDS, features=8).eval()


def refusal(function, *args):
    with pytest.raises(UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- learning

# After the row's symbol the column's follows with this probability; the last row is the start.
BIGRAM = torch.tensor([[1.0, 0, 0, 0], [0.2, 0.1, 0.7, 0], [0.3, 0.2, 0, 0.5], [0.4, 0.6, 0, 0], [0, 0.5, 0.2, 0.3]])


def bigram_texts(num, length):
    texts, now = torch.zeros(num, length, dtype=torch.long), torch.full((num,), 4)
    for place in range(length):
        now = texts[:, place] = torch.multinomial(BIGRAM[now], 1)[:, 0]
    return texts


@pytest.fixture(scope="module")
def learned():
    """A small model of texts whose law is known."""
    torch.manual_seed(1)
    model = letters(length=8)
    fit(model, bigram_texts(4000, 8), steps=300, batch_size=100, lr=0.02, progress=False)
    return model


def test_training_finds_a_known_bigram(learned):
    """Close to the entropy of the text's own law, and no closer than that."""
    x = bigram_texts(4000, 8)
    before = torch.cat([torch.full((len(x), 1), 4), x[:, :-1]], 1)
    own = BIGRAM[before, x].log().sum(1)
    lost = own - learned.log_prob(x).detach()
    assert lost.mean() + 4.5 * lost.std() / len(x) ** 0.5 >= 0
    assert lost.mean() < 0.02, "nats lost to the law that drew the texts"
    assert lost.abs().max() < 1
    untrained = own - letters(length=8).log_prob(x).detach()
    assert untrained.mean() > 1


def test_what_it_draws_after_a_prompt_is_the_known_law(learned):
    drawn = learned.sample(4000, prompt="a")
    assert (drawn[:, 0] == 1).all()
    check_sampler(drawn[:, 1], learned.distribution().log_prob_map(next_of("a", 8))[:, 1].exp().detach())
    assert (torch.bincount(drawn[:, 1].long(), minlength=4) / 4000 - BIGRAM[1]).abs().max() < 0.06


def next_of(prompt, length):
    """The prompt, followed by each symbol in turn."""
    numbers = Vocabulary(LETTERS).encode(prompt)
    return torch.tensor([[*numbers, symbol, *[0] * (length - len(numbers) - 1)] for symbol in range(len(LETTERS))])


# --- what it says


def test_log_prob_of_a_text_is_the_product_of_its_symbols_by_hand():
    model, total, prefix = letters(), 0.0, []
    for symbol in [*Vocabulary(LETTERS).encode("abca"), 0]:
        logits = model.network(torch.tensor([[*prefix, 0]]))[0, -1]
        total += float(logits.detach().double().log_softmax(-1)[symbol])
        prefix.append(symbol)
    check_equal(model.log_prob_of("abca"), total, 1e-5)


def test_perplexity_is_that_of_all_symbols_together():
    model = letters()
    x = torch.stack([model.encode("ab"), model.encode("abcab")])
    assert model.num_symbols(x).tolist() == [3, 6]
    nats = -(model.log_prob_of("ab") + model.log_prob_of("abcab"))
    check_equal(model.perplexity(x), math.exp(nats / 9), 1e-5)
    check_equal(model.bits_per_symbol(x), nats / 9 / math.log(2), 1e-5)
    with torch.no_grad():
        for parameter in model.network.head.parameters():
            parameter.zero_()
    check_equal(model.perplexity(x), 4.0, 1e-5)  # all symbols equally likely


def test_it_is_a_tractable_pair_with_one_observed_site():
    model, x = letters(), torch.stack([letters().encode("ab"), letters().encode("c")]).float()
    assert kind_of(model) is Kind.TRACTABLE
    trace = poutine.trace(model.model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["is_observed"]
    check_equal(trace.nodes["x"]["log_prob"].detach(), model.log_prob(x).detach())
    assert not [n for n in poutine.trace(model.guide).get_trace(x).nodes.values() if n["type"] == "sample"]


def test_student_forcing_changes_training_and_not_evaluation():
    teacher, student = letters(), letters(student_forcing=0.9)
    x = torch.randint(1, 4, (64, 6)).float()

    def elbo(model):
        trace = poutine.trace(model.model).get_trace(x)
        return float(trace.log_prob_sum().detach())

    exact = float(teacher.log_prob(x).detach().sum())
    assert elbo(teacher) == elbo(student) == elbo(teacher.train()) == pytest.approx(exact)
    student.train()
    assert elbo(student) != elbo(student)  # other draws each time
    assert abs(elbo(student) - exact) > 0.01
    check_equal(student.log_prob(x).detach(), teacher.log_prob(x).detach())
    history = fit(student, x, steps=3, batch_size=16, progress=False)
    assert all(math.isfinite(record["loss"]) for record in history)


def test_dropout_is_for_training_only():
    """What is exact, and what draws, is the same in both modes; and training is not."""
    model, x = letters(dropout=0.5, layers=2), torch.randint(1, 4, (20, 6)).float()

    def numbers():
        torch.manual_seed(0)
        return model.log_prob(x).detach(), torch.tensor(model.log_prob_of("abc")), model.sample(50)

    exact = numbers()
    model.train()
    for came, expected in zip(numbers(), exact, strict=True):
        check_equal(came, expected)
    assert all(module.training for module in model.modules())
    model.log_prob(x).sum().backward()
    assert model.network.head.weight.grad.abs().sum() > 0
    elbos = [float(poutine.trace(model.model).get_trace(x).log_prob_sum().detach()) for _ in range(2)]
    assert elbos[0] != elbos[1]


def test_the_share_of_own_draws_rises():
    model, shares = letters(student_forcing=0.5, forcing_warmup=4), []
    for model.training_step in range(6):
        shares.append(model.distribution(forced=True).share)
    assert shares == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


# --- text


def test_words_and_characters_there_and_back():
    assert words().decode(words().encode("wind, The sea.")[None]) == ["wind, The sea."]
    assert words().encode("The gull.").tolist() == [4, 1, 3, 0, 0, 0]
    assert words().decode(torch.tensor([[4, 1, 3, 0, 0, 0]])) == ["The <unk>."]
    assert letters().decode(letters().encode("cab")[None].float()) == ["cab"]
    assert letters().decode(torch.tensor([[0, 1, 1, 1, 1, 1]])) == [""]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("The dog's boat (old) is dry!", ["The", "dog's", "boat", "(", "old", ")", "is", "dry", "!"]),
        ("sea-log, no. 7", ["sea-log", ",", "no", ".", "7"]),
        ("  ", []),
    ],
)
def test_words_and_punctuation(text, parts):
    assert split(text, "words") == parts
    if parts and "-" not in text:
        known = vocabulary_of([text], "words")
        assert known.decode(known.encode(text)) == text


def test_rare_words_are_unknown_only_where_others_come():
    texts = ["the sea", "the wind", "the sea"]
    assert vocabulary_of(texts, "words").symbols == ("<end>", "sea", "the", "wind")
    assert vocabulary_of(texts, "words", ["the gull"]).symbols == ("<end>", "<unk>", "sea", "the")
    assert vocabulary_of(["ab"], "characters", ["c"]).symbols == ("\n", "a", "b", "c")


@pytest.mark.parametrize("method", ["encode", "log_prob_of", "prompt"])
@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        (letters, "", "an empty text came, expected at least one character"),
        (words, "  ", "an empty text came, expected at least one word"),
        (letters, "abx", "character 'x', number 3 of 'abx', is not in the vocabulary"),
        (letters, "a\nb", "a text of several lines, 'a\\nb', came"),
        (letters, "ab\n", "a text of several lines"),
        (letters, "abcabc", "has 6 characters, longer than the context: at most 5 characters"),
        (words, "The sea, The wind, The sea.", "has 9 words, longer than the context: at most 5 words"),
        (
            lambda: LanguageModel((4,), 2, ("<end>", "sea")),
            "sea gull",
            "word 'gull', number 2 of 'sea gull', is not in",
        ),
    ],
)
def test_texts_that_it_cannot_read_are_refused(method, model, text, says):
    model = model()
    read = (lambda text: model.sample(2, prompt=text)) if method == "prompt" else getattr(model, method)
    assert says in refusal(read, text)


@pytest.mark.parametrize(
    ("shape", "levels", "vocabulary", "says"),
    [
        ((1, 8, 8), 17, None, "data of shape (1, 8, 8) came, which are no text"),
        ((2,), None, None, "which are no text"),
        ((4,), 4, ("a", "b", "c", "d"), "the first the end"),
        ((4,), 2, ("\n",), "a vocabulary of 1 symbols"),
        ((4,), 3, ("\n", "a", "a"), "expected two or more different ones"),
        ((4,), 5, LETTERS, "levels=5 came with a vocabulary of 4 symbols"),
    ],
)
def test_what_is_no_text_is_refused(shape, levels, vocabulary, says):
    assert says in refusal(LanguageModel, shape, levels, vocabulary)
