"""What the commands do with a run of text: draw sentences, and score one symbol by symbol."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probgen.commands.common import OpenedRun, check_num, open_run, output_file
from probgen.errors import UserError
from probgen.files import write_atomic
from probgen.inference.predict import sample
from probgen.inference.traces import evaluating
from probgen.models.language import LanguageModel
from probgen.runs import Run
from probgen.vocabulary import END, UNKNOWN, Vocabulary

MOST_SENTENCES = 100_000
CHUNK = 1000  # sentences drawn at once


def is_text_run(path: Path) -> bool:
    """Whether a run was trained on text."""
    return Run.open(path).config.vocabulary is not None


def sample_sentences(
    path: Path,
    num: int,
    out: Path | None,
    prompt: str | None,
    *,
    seed: int,
    temperature: float,
    model: str | None,
    device: str,
    unfit: Mapping[str, Any],
) -> list[str]:
    """Draw `num` sentences, all beginning with the prompt if there is one, into a .txt or .json file if it is given.

    unfit: options that only images have; each must be None or False.
    """
    for option, given in unfit.items():
        if given not in (None, False):
            raise UserError(f"{option} came, but this run was trained on text: leave it out")
    if out is not None:
        output_file(out, ".txt", ".json")
    check_num(num, MOST_SENTENCES)
    if not 0 < temperature < float("inf"):
        raise UserError(f"--temperature {temperature:g} came, expected a number above 0")
    opened = open_run(path, model, device, seed)
    vocabulary = need_text(opened.run)
    if prompt is not None and "prompt" not in inspect.signature(opened.model.sample).parameters:
        raise UserError(f"--prompt came, but {type(opened.model).__name__} takes none: leave it out")
    sentences: list[str] = []
    while len(sentences) < num:
        part = min(CHUNK, num - len(sentences))
        sentences += draw_sentences(opened.model, vocabulary, part, temperature=temperature, prompt=prompt)
    if out is not None:
        write_atomic(out, as_file(out, sentences, prompt))
    return sentences


def draw_sentences(
    pair: Any, vocabulary: Vocabulary, num: int, *, temperature: float = 1.0, prompt: str | None = None
) -> list[str]:
    """S ~ p(S | prompt), as text."""
    if prompt is None:
        drawn = sample(pair, num, tuple(pair.image_shape), temperature=temperature)
    else:
        with evaluating(pair):
            drawn = pair.sample(num, temperature=temperature, prompt=prompt)
    return [vocabulary.decode(numbers) for numbers in drawn.long().tolist()]


def as_file(out: Path, sentences: list[str], prompt: str | None) -> bytes:
    """A sentence on each line, or a list of them in JSON."""
    if out.suffix.lower() == ".json":
        return (json.dumps({"prompt": prompt, "sentences": sentences}, ensure_ascii=False, indent=1) + "\n").encode()
    return ("\n".join(sentences) + "\n").encode()


def need_text(run: Run) -> Vocabulary:
    """The symbols of a run. Raises UserError for one that was not trained on text."""
    if run.config.vocabulary is None:
        raise UserError(f"{run.path} was trained on images, not on text: a run of the model language takes sentences")
    return Vocabulary(run.config.vocabulary)


# --- how probable


def sentence_run(path: Path, sentence: str, *, model: str | None, device: str) -> dict[str, Any]:
    """log p(S) of one sentence, its perplexity, and log p(w_i | w_1 … w_{i−1}) of every symbol, the end included."""
    vocabulary = need_text(Run.open(path))
    opened = open_run(path, model, device)
    if not isinstance(opened.model, LanguageModel):
        raise UserError(f"--sentence came, but {type(opened.model).__name__} scores no single one: leave it out")
    x = opened.model.encode(sentence)[None].to(opened.device)
    with torch.no_grad():
        scores = opened.model.distribution().log_prob_map(x)[0].tolist()
    count = int(symbols_in(x)[0])
    parts = zip(x[0, :count].tolist(), scores[:count], strict=True)
    config = opened.run.config
    return {
        "model": config.model,
        "data": config.data,
        "sentence": sentence,
        "log_prob": sum(scores),
        "kind": "exact",
        **per_symbol(sum(scores), count, vocabulary),
        "symbols": [{"symbol": vocabulary.symbols[n], "log_prob": score} for n, score in parts],
    }


def symbols_in(x: Tensor) -> Tensor:
    """How many symbols each text has, its end among them."""
    ends = (x == END).long()
    return (ends.cumsum(-1) <= ends).sum(-1)


def per_symbol(nats: float, count: float, vocabulary: Vocabulary) -> dict[str, Any]:
    """Bits and perplexity for each of `count` symbols; `unit` is what a symbol is."""
    bits = -nats / count / math.log(2)
    return {
        "unit": vocabulary.unit,
        "num_symbols": count,
        "bits_per_symbol": bits,
        "perplexity": math.exp2(bits) if bits < 1000 else math.inf,
    }


def text_facts(nats: float | None, images: Tensor, opened: OpenedRun) -> dict[str, Any]:
    """What an evaluation adds for text: numbers for each symbol, from the mean log p(S) of all sentences."""
    vocabulary = need_text(opened.run)
    unknown = f"; {UNKNOWN} stands for every unknown word, as one symbol" if UNKNOWN in vocabulary.symbols else ""
    note = f"log p(x) is of a whole sentence, the rest for each {vocabulary.unit}, its end counted as one{unknown}"
    if nats is None:
        return {"note": note}
    count = int(symbols_in(images).sum())
    return {**per_symbol(nats * len(images), count, vocabulary), "note": note}
