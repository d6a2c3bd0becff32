"""Text as symbols: characters, or words and punctuation, numbered; number 0 is the end of a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from probgen.errors import UserError

Level = Literal["characters", "words"]

END = 0  # the number of the symbol after a text's last
ENDS: dict[str, Level] = {"\n": "characters", "<end>": "words"}
UNKNOWN = "<unk>"  # stands for every word that the vocabulary lacks, where it has this symbol
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")  # a word with what holds it together, or one punctuation mark
CLOSING, OPENING = frozenset(".,;:!?…)]}"), frozenset("([{")


def split(text: str, level: Level) -> list[str]:
    """The symbols of a text, without the end.

    >>> split("The dog's asleep.", "words")
    ['The', "dog's", 'asleep', '.']
    """
    return list(text) if level == "characters" else WORD.findall(text)


@dataclass(frozen=True)
class Vocabulary:
    r"""All symbols that a text may have, first the end: a line's end of characters, `<end>` of words.

    >>> known = Vocabulary(("\n", "a", "b"))
    >>> known.level, known.encode("abba"), known.decode([2, 1, 0, 0])
    ('characters', [1, 2, 2, 1], 'ba')
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.symbols) < 2 or self.symbols[0] not in ENDS or len(set(self.symbols)) < len(self.symbols):
            ends = " or ".join(map(repr, ENDS))
            raise UserError(
                f"a vocabulary of {len(self.symbols)} symbols, {', '.join(map(repr, self.symbols[:3]))} …, came, "
                f"expected two or more different ones, the first the end: {ends}"
            )

    @property
    def level(self) -> Level:
        """What a symbol is, told by the end symbol."""
        return ENDS[self.symbols[END]]

    @property
    def unit(self) -> str:
        """One symbol in a word."""
        return self.level.removesuffix("s")

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The number of each symbol."""
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's symbols, without the end.

        Raises UserError for a text that is empty, has several lines, or a symbol outside the vocabulary.
        """
        if len(text.splitlines()) > 1 or "\n" in text:
            raise UserError(f"a text of several lines, {shortened(text)}, came, expected one: its end is a symbol")
        symbols = split(text, self.level)
        if not symbols:
            raise UserError(f"an empty text came, expected at least one {self.unit}")
        return [self.find(symbol, place, text) for place, symbol in enumerate(symbols, 1)]

    def find(self, symbol: str, place: int, text: str) -> int:
        """The number of the symbol at a place (from 1) of a text; an unknown word's, where there is one for them."""
        known = self.number_of
        if symbol not in known and UNKNOWN not in known:
            near = f": the {len(known) - 1} known ones are {self.shown(60)}" if self.level == "characters" else ""
            raise UserError(
                f"{self.unit} {symbol!r}, number {place} of {shortened(text)}, is not in the vocabulary of the text "
                f"that was learned{near or '; write it without'}"
            )
        return known[symbol] if symbol in known else known[UNKNOWN]

    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to its end; words with a space between, but for punctuation."""
        numbers = numbers[: list(numbers).index(END)] if END in numbers else numbers
        symbols = [self.symbols[number] for number in numbers]
        if self.level == "characters":
            return "".join(symbols)
        text = ""
        for before, symbol in zip(["(", *symbols], symbols, strict=False):
            text += symbol if before in OPENING or symbol in CLOSING else " " + symbol
        return text

    def shown(self, most: int) -> str:
        """The symbols as a person reads them, at most so many."""
        listed = [s if s.strip() else repr(s) for s in self.symbols[END + 1 : most + 1]]
        return " ".join(listed) + (" …" if len(self.symbols) > most + 1 else "")


def vocabulary_of(texts: Sequence[str], level: Level, others: Sequence[str] = ()) -> Vocabulary:
    """The symbols of the texts, in alphabetical order.

    others: texts that are not learned from. Where they have words that the texts lack, all words that the texts have
    only once become `<unk>`, so that there is something to learn its probability from. Characters of the others are
    known, though never seen.
    """
    counts: dict[str, int] = {}
    for text in texts:
        for symbol in split(text, level):
            counts[symbol] = counts.get(symbol, 0) + 1
    foreign = {symbol for text in others for symbol in split(text, level)} - counts.keys()
    if level == "characters":
        return Vocabulary(("\n", *sorted(counts.keys() | foreign)))
    if foreign:
        return Vocabulary(("<end>", UNKNOWN, *sorted(word for word, count in counts.items() if count > 1)))
    return Vocabulary(("<end>", *sorted(counts)))


def shortened(text: str) -> str:
    """The beginning of a text, quoted."""
    return repr(text if len(text) <= 40 else text[:40] + "…")
