"""Texts as data: sentences on lines, characters or words, and files that are none."""

import pytest
import torch

from probgen.data import describe_datasets, load_data
from probgen.errors import UserError
from probgen.vocabulary import Vocabulary

SENTENCES = [f"The {noun} is {state}." for noun in ("sea", "wind", "boat", "dog") for state in ("calm", "old", "wet")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(SENTENCES) + "\n  \n")
    return path


def texts(data, split):
    known = Vocabulary(data.vocabulary)
    return [known.decode(row) for row in getattr(data, split).images.tolist()]


def refusal(*args, **options):
    with pytest.raises(UserError) as error:
        load_data(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["", ":characters", ":words"])
def test_every_sentence_is_in_one_split(file, suffix):
    data = load_data(f"{file}{suffix}")
    found = [text for split in ("train", "valid", "test") for text in texts(data, split)]
    assert sorted(found) == sorted(SENTENCES)
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 1, 1)
    assert data.levels == len(data.vocabulary)
    assert data.image_shape == ((6,) if suffix == ":words" else (len("The wind is calm.") + 1,))
    assert data.train.images.dtype == torch.uint8
    assert int(data.train.images[:, -1].max()) == 0  # the end


def test_a_path_and_its_text_are_the_same(file):
    assert load_data(file).vocabulary == load_data(str(file)).vocabulary


def test_the_text_that_ships():
    data = load_data("sea-log")
    sentences = [text for split in ("train", "valid", "test") for text in texts(data, split)]
    assert len(set(sentences)) == len(sentences) >= 500
    assert all(s[0].isupper() and s.endswith(".") and "  " not in s for s in sentences)
    info = next(info for info in describe_datasets() if info.name == "sea-log")
    assert (data.image_shape, data.levels, info.here) == (info.shape, info.levels, True)
    assert (len(data.train), len(data.valid), len(data.test)) == info.size
    words = load_data("sea-log:words")
    assert "<unk>" in words.vocabulary
    unknown = (words.test.images == 1).sum() / (words.test.images != 0).sum()
    assert unknown < 0.1
    assert next(t for t in texts(words, "train") if "<unk>" not in t) in sentences
    assert words.train.images.dtype == torch.int16


def test_a_large_vocabulary_and_an_unusual_file(tmp_path):
    path = tmp_path / "many.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"w{i} w{i}\r\n" for i in range(300)).encode() * 2)
    data = load_data(f"{path}:words")
    assert len(data.vocabulary) > 256
    assert texts(data, "train")[0].startswith("w")
    assert "\ufeff" not in load_data(path).vocabulary


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is an empty text"),
        (b"\n \n\t\n", "is an empty text"),
        (b"one line\n", "holds 1 sentence, and train, valid and test need one each"),
        (b"one\ntwo\n", "holds 2 sentences"),
        (b"a\nb\n" + b"x" * 513, "a sentence of 513 characters, 'xxx"),
        (b"a\nb\nc\xff\n", "is no text in UTF-8 (byte 5)"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, content, says):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    assert says in refusal(str(path))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.txt", "absent.txt does not exist: give a text file"),
        ("absent.txt:words", "absent.txt does not exist"),
        ("sea-log:5000", "expected sea-log (its characters) or sea-log:words"),
        ("sea-log:", "expected sea-log"),
        ("mine.txt:letters", "expected mine.txt (its characters) or mine.txt:words"),
        ("see-log", "did you mean sea-log?"),
    ],
)
def test_names_that_are_no_text_are_refused(name, says):
    assert says in refusal(name)


def test_a_folder_that_ends_like_a_text_is_refused(tmp_path):
    (tmp_path / "x.txt").mkdir()
    assert "cannot be read (Is a directory)" in refusal(str(tmp_path / "x.txt"))


@pytest.mark.parametrize("binarize", ["threshold", "static", "dynamic"])
def test_there_is_nothing_to_binarize(binarize):
    assert "no grey levels to binarize" in refusal("sea-log", binarize=binarize)
