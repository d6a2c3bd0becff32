"""Wrong .npz and .npy files: each is one clear line."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from probgen.data import ImageData, load_data
from probgen.errors import UserError


def restored(data: ImageData) -> Tensor:
    """All images in the order in which the file has them: the splits laid back by the fixed permutation."""
    images = torch.cat([data.train.images, data.valid.images, data.test.images])
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(images)))
    return torch.empty_like(images).index_copy_(0, order, images)


def grey(count: int = 20, height: int = 5, width: int = 7) -> np.ndarray:
    images = np.random.RandomState(1).randint(0, 256, (count, height, width)).astype(np.uint8)
    images[0, 0, 0] = 255
    return images


def refusal(path: Path, **options) -> str:
    """The one line of the error, which names the file."""
    with pytest.raises(UserError) as error:
        load_data(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


# --- wrong arrays

WRONG_IMAGES = [
    (np.array([["a", "b"], ["c", "d"]]), "expected numbers"),
    (np.zeros((5, 3, 3), complex), "expected numbers"),
    (np.zeros((5, 3, 3), "datetime64[s]"), "expected numbers"),
    (np.zeros((5, 3), [("x", "f4")]), "expected numbers"),
    (np.full((5, 3, 3), np.nan), "NaN or infinite"),
    (np.where(np.arange(45).reshape(5, 3, 3) == 44, np.inf, 0), "NaN or infinite"),
    (np.full((5, 3, 3), -1), "from -1 to -1"),
    (np.full((5, 3, 3), -1.0), "from -1 to -1"),
    (np.full((5, 3, 3), 256), "from 256 to 256"),
    (np.full((5, 3, 3), 0.5), "multiply by 255 and round"),
    (np.full((5, 3, 3), 100.5), "fractions such as 100.5"),
    (np.uint8(3), "shape ()"),
    (np.zeros(5, np.uint8), "shape (5,)"),
    (np.zeros((5, 9), np.uint8), "shape (5, 9)"),
    (np.zeros((5, 1, 3, 3, 1), np.uint8), "expected n h w"),
    (np.zeros((5, 4, 4, 4), np.uint8), "neither the last nor the second axis"),
    (np.zeros((0, 3, 3), np.uint8), "no image"),
    (np.zeros((5, 0, 3), np.uint8), "without a pixel"),
    (np.zeros((2, 3, 3), np.uint8), "at least 3"),
    (np.array([[[{}]]] * 4, dtype=object), "refused and never unpickled"),
]


@pytest.mark.parametrize(("images", "part"), WRONG_IMAGES)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_arrays_that_are_no_images(tmp_path, suffix, images, part):
    path = tmp_path / f"mine.{suffix}"
    np.savez(path, images=images) if suffix == "npz" else np.save(path, images)
    assert part in refusal(path)


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"labels": np.arange(19)}, "one label for each image: (20,)"),
        ({"labels": np.zeros((20, 1), int)}, "(20, 1)"),
        ({"labels": np.zeros(20)}, "expected integers"),
        ({"labels": np.array(["cat"] * 20)}, "expected numbers"),
        ({"labels": np.full(20, -1)}, "from -1 to -1"),
        ({"labels": np.full(20, 2**64 - 1, np.uint64)}, "class numbers"),
        ({"labels": np.array([{}] * 20)}, "never unpickled"),
        ({"levels": 16}, "holds the value 255, but 16 levels are 0 … 15"),
        ({"levels": 255}, "holds the value 255, but 255 levels are 0 … 254"),
        ({"levels": 1}, "expected 2 … 256"),
        ({"levels": 257}, "expected 2 … 256"),
        ({"levels": 16.0}, "expected one integer"),
        ({"levels": np.array([16, 16])}, "expected one integer"),
    ],
)
def test_labels_and_levels_that_do_not_fit(tmp_path, extra, part):
    np.savez(tmp_path / "mine.npz", images=grey(), **extra)
    assert part in refusal(tmp_path / "mine.npz")


def test_an_archive_without_images_tells_what_it_holds(tmp_path):
    np.savez(tmp_path / "mine.npz", pictures=grey(), y=np.arange(20))
    assert "holds pictures, y, expected an array `images`" in refusal(tmp_path / "mine.npz")
    np.savez(tmp_path / "none.npz")
    assert "holds nothing" in refusal(tmp_path / "none.npz")


# --- wrong files


def npz_bytes(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("kept", [3, 20, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_truncated_files(tmp_path, suffix, kept):
    whole = npz_bytes(images=grey()) if suffix == "npz" else npy_bytes(grey())
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "truncated or corrupt" in refusal(path)


@pytest.mark.parametrize("place", range(0, 1000, 50))
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path, place):
    """An archive has checksums: a damaged file is refused, or its images are whole all the same."""
    whole = bytearray(npz_bytes(images=grey(40)))
    whole[place] ^= 0x55
    (tmp_path / "mine.npz").write_bytes(bytes(whole))
    try:
        images = restored(load_data(tmp_path / "mine.npz"))
    except UserError:
        return
    assert np.array_equal(images[:, 0].numpy(), grey(40))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("mine.npz", b"", "empty"),
        ("mine.npy", b"", "empty"),
        ("mine.npz", b"these are words\n", "not a .npz file"),
        ("mine.npy", b"these are words\n", "not a .npy file"),
        ("mine.npz", npy_bytes(grey()), "is a .npy file by its content"),
        ("mine.npy", npz_bytes(images=grey()), "is a .npz file by its content"),
        ("mine.npz", pickle.dumps([1]), "refused and never unpickled"),
        ("mine.npy", pickle.dumps([1]), "refused and never unpickled"),
        ("mine.npy", b"\x93NUMPY\x03\x00" + bytes(100), "version (3, 0)"),
        ("mine.npy", b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70000, "truncated or corrupt"),
        ("mine.csv", b"1,2,3\n", "cannot read .csv"),
        ("mine", b"1,2,3\n", "a file without suffix"),
        ("mine.png", b"1,2,3\n", "a folder of images, e.g. its folder"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, part):
    (tmp_path / name).write_bytes(content)
    assert part in refusal(tmp_path / name)


def test_a_pickle_inside_an_archive_is_not_opened(tmp_path):
    class Opened:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "opened"),)

    content = npy_bytes(np.array([[[Opened()]]] * 5, dtype=object))
    (tmp_path / "mine.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for suffix in ("npy", "npz"):
        assert "refused and never unpickled" in refusal(tmp_path / f"mine.{suffix}")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("shape", "part"),
    [((10**9, 28, 28), "at most 16 GiB"), ((-5, 28, 28), "impossible shape"), ((1000, 28, 28), "bytes only")],
)
def test_a_header_that_promises_too_much_is_refused_before_it_is_believed(tmp_path, shape, part):
    header = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(1000))
    assert part in refusal(tmp_path / "bomb.npz")
    (tmp_path / "bomb.npy").write_bytes(header.getvalue() + bytes(1000))
    assert refusal(tmp_path / "bomb.npy")


def test_a_device_is_no_file():
    with pytest.raises(UserError, match="neither a file nor a folder"):
        load_data("/dev/null")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "mine.npz").write_bytes(npz_bytes(images=grey()))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("probgen.data.files.open", refuse, raising=False)
    assert "cannot be read ([Errno 13] Permission denied)" in refusal(tmp_path / "mine.npz")
