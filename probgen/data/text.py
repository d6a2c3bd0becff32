"""Texts: a file of sentences, one on each line, as sequences of numbered symbols.

A sentence becomes its symbols (characters, or words and punctuation), the end symbol, and as many more ends as it takes
to make all sequences equally long: one more than the longest sentence.
"""

import math
import os
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from probgen.data.arrays import SIZE_LIMIT
from probgen.data.split import RawData, random_splits, tenths
from probgen.errors import UserError
from probgen.vocabulary import END, UNKNOWN, Level, Vocabulary, split, vocabulary_of

MOST_SYMBOLS = 512  # of a sentence
TEXT_NAMES = ("sea-log",)
TEXT_LEVELS: tuple[Level, ...] = ("characters", "words")


def text_source(name_or_path: str | Path) -> tuple[str, Level] | None:
    """What `sea-log`, `sea-log:words`, `FILE.txt` or `FILE.txt:words` ask for; None for what names no text.

    Raises UserError for another word after the colon.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".txt"):
        return (text, "characters") if text.endswith(".txt") else None
    source, _, level = text.rpartition(":") if ":" in text else (text, "", TEXT_LEVELS[0])
    if source not in TEXT_NAMES and not source.endswith(".txt"):
        return None
    for known in TEXT_LEVELS:
        if level == known:
            return source, known
    raise UserError(f"{text} came, expected {source} (its characters) or {source}:words")


def load_text(source: str, level: Level) -> RawData:
    """The sentences of a named text or of a .txt file, split 80/10/10 at random.

    Raises UserError for a file that cannot be read, is empty, or has a sentence of more than 512 symbols.
    """
    lines = read_lines(source)
    splits = random_splits(len(lines), *sizes(len(lines), source))
    train, *others = ([lines[row] for row in rows] for rows in splits)
    vocabulary = vocabulary_of(train, level, [line for part in others for line in part])
    return RawData(encoded(lines, vocabulary, source), splits, len(vocabulary.symbols), vocabulary=vocabulary.symbols)


def read_lines(source: str) -> list[str]:
    """The lines of a text that are not blank, without the space around them."""
    try:
        content = shipped(source) if source in TEXT_NAMES else Path(source).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        came = "does not exist" if not os.path.exists(source) else f"cannot be read ({error.strerror})"
        raise UserError(f"{source} {came}: give a text file with a sentence on each line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{source} is an empty text: write a sentence on each line, three or more")
    return lines


def shipped(name: str) -> bytes:
    """A text that comes with the package."""
    return (resources.files("probgen.data") / "texts" / f"{name}.txt").read_bytes()


def sizes(count: int, source: str) -> tuple[int, int]:
    """Sentences in valid and test: a tenth each."""
    if count < 3:
        raise UserError(
            f"{source} holds {count} sentence{'s' * (count != 1)}, and train, valid and test need one each: write at "
            "least 3, one on each line"
        )
    return tenths(count, source)


def encoded(lines: list[str], vocabulary: Vocabulary, source: str) -> torch.Tensor:
    """All sentences as numbers of symbols, `n length`, in the smallest type that holds them."""
    symbols = [split(line, vocabulary.level) for line in lines]
    longest = max(range(len(lines)), key=lambda row: len(symbols[row]))
    most, size = len(symbols[longest]), len(vocabulary.symbols)
    if most > MOST_SYMBOLS:
        raise UserError(
            f"{source}: a sentence of {most:,} {vocabulary.level}, {lines[longest][:30]!r}…, came, at most "
            f"{MOST_SYMBOLS} are read: put fewer on each line"
        )
    dtype = np.uint8 if size <= 2**8 else np.int16 if size <= 2**15 else np.int32
    if math.prod((len(lines), most + 1, np.dtype(dtype).itemsize)) > SIZE_LIMIT:
        raise UserError(f"{source}: {len(lines):,} sentences are too many to be held in memory: give fewer")
    numbers, known = np.full((len(lines), most + 1), END, dtype), vocabulary.number_of
    for row, line in enumerate(symbols):
        numbers[row, : len(line)] = [known[s] if s in known else known[UNKNOWN] for s in line]
    return torch.from_numpy(numbers)
