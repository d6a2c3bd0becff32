"""Folders of images, and the files of binarized-mnist."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from probgen.data import ImageData, load_data
from probgen.data.binarized_mnist import read_amat
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


def colour(count: int = 20, height: int = 5, width: int = 7) -> np.ndarray:
    return np.stack([grey(count, height, width) // part for part in (1, 2, 3)], axis=1)  # n c h w


def refusal(path: Path, **options) -> str:
    """The one line of the error, which names the file."""
    with pytest.raises(UserError) as error:
        load_data(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


# --- folders of images


def write_pictures(folder: Path, images: np.ndarray, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_a_folder_of_grey_pictures(tmp_path, suffix):
    write_pictures(tmp_path / "mine", grey(), suffix)
    (tmp_path / "mine" / "notes.txt").write_text("not a picture")
    (tmp_path / "mine" / "._000.png").write_text("what a file manager leaves behind")
    data = load_data(tmp_path / "mine")
    assert np.array_equal(restored(data)[:, 0].numpy(), grey())
    assert (data.image_shape, data.levels, data.train.labels) == ((1, 5, 7), 256, None)


def test_a_folder_of_colour_pictures(tmp_path):
    write_pictures(tmp_path, colour().transpose(0, 2, 3, 1))
    assert np.array_equal(restored(load_data(tmp_path)).numpy(), colour())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".gif"])
def test_other_formats_come_out_as_pillow_reads_them(tmp_path, suffix):
    smooth = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (6, 12, 1)) + np.arange(6, dtype=np.uint8)[:, None, None]
    write_pictures(tmp_path, smooth, suffix)
    images = restored(load_data(tmp_path))
    assert images.shape[1] == (3 if suffix == ".webp" else 1)  # WebP knows no grey
    assert float((images.double() - torch.from_numpy(smooth)[:, None]).abs().max()) <= 8


def test_one_coloured_picture_makes_all_coloured(tmp_path):
    write_pictures(tmp_path, grey(5))
    Image.fromarray(colour()[0].transpose(1, 2, 0)).save(tmp_path / "999.png")
    images = restored(load_data(tmp_path))
    assert np.array_equal(images[0].numpy(), np.stack([grey(5)[0]] * 3))
    assert np.array_equal(images[5].numpy(), colour()[0])


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("RGBA", 3), ("P", 3), ("CMYK", 3)])
def test_other_modes_of_pictures(tmp_path, mode, channels):
    suffix = ".tif" if mode == "CMYK" else ".png"
    for number in range(4):
        picture = Image.fromarray(colour()[number].transpose(1, 2, 0)).convert(mode)
        picture.save(tmp_path / f"{number}{suffix}")
    data = load_data(tmp_path)
    assert data.image_shape == (channels, 5, 7)
    first = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(5, 7, channels)
    assert np.array_equal(restored(data)[3].numpy(), first.transpose(2, 0, 1))


def test_sub_folders_are_labels_in_sorted_order(tmp_path):
    write_pictures(tmp_path / "dog", grey()[10:])
    write_pictures(tmp_path / "cat", grey()[:10])
    (tmp_path / "bird").mkdir()  # no picture: no class
    data = load_data(tmp_path)
    assert np.array_equal(restored(data)[:, 0].numpy(), grey())
    order = np.random.RandomState(0).permutation(20)
    labels = torch.cat([data.train.labels, data.valid.labels, data.test.labels])
    assert labels.tolist() == [int(row >= 10) for row in order]


def test_a_folder_without_pictures(tmp_path):
    assert "has no picture in it" in refusal(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_pictures(tmp_path / "a" / "b", grey(4))  # two levels below
    assert "has no picture in it" in refusal(tmp_path)


def test_pictures_both_beside_and_in_sub_folders(tmp_path):
    write_pictures(tmp_path, grey(4))
    write_pictures(tmp_path / "cat", grey(4))
    assert "both beside and in sub-folders (000.png, cat/)" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_picture_is_named(tmp_path, content):
    write_pictures(tmp_path, np.tile(grey(5), (1, 20, 20)))
    whole = (tmp_path / "003.png").read_bytes()
    (tmp_path / "003.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"003\.png is .*broken"):
        load_data(tmp_path)


def test_a_dangling_link_is_named(tmp_path):
    write_pictures(tmp_path, grey(4))
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"link\.png"):
        load_data(tmp_path)


def test_pictures_of_two_sizes_are_both_named(tmp_path):
    write_pictures(tmp_path, grey(4))
    Image.fromarray(grey(1, 6, 8)[0]).save(tmp_path / "zzz.png")
    with pytest.raises(UserError, match=r"000\.png is 7×5, .*zzz\.png is 8×6"):
        load_data(tmp_path)


def test_sixteen_bits_a_pixel_are_refused(tmp_path):
    write_pictures(tmp_path, grey(4).astype(np.uint16) * 257)
    with pytest.raises(UserError, match="8 bits a channel"):
        load_data(tmp_path)


def test_two_pictures_are_too_few(tmp_path):
    write_pictures(tmp_path, grey(2))
    assert "at least 3" in refusal(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    assert "cannot be read" in refusal(tmp_path)


# --- the format of binarized-mnist


def amat(images: np.ndarray, end: str = "\n") -> bytes:
    return "".join(" ".join(map(str, row)) + end for row in images).encode()


BITS = np.random.RandomState(2).randint(0, 2, (6, 784))


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_amat_goes_in_and_out(tmp_path, end, packed):
    path = tmp_path / ("x.amat.gz" if packed else "x.amat")
    content = amat(BITS, end)
    path.write_bytes(gzip.compress(content) if packed else content)
    assert np.array_equal(read_amat(path, 6).numpy(), BITS)


def test_amat_may_lack_its_last_line_break(tmp_path):
    (tmp_path / "x.amat").write_bytes(amat(BITS)[:-1])
    assert np.array_equal(read_amat(tmp_path / "x.amat", 6).numpy(), BITS)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "expected 6 rows of 784"),
        (amat(BITS[:5]), "5 rows"),
        (amat(np.concatenate([BITS, BITS])), "expected 6 rows"),
        (amat(BITS[:, :783]), "of 783 numbers"),
        (amat(BITS)[:-100], "expected 6 rows"),
        (amat(BITS).replace(b"1", b"2"), "row 1 is not"),
        (amat(BITS)[: 4 * 1568] + b"x" + amat(BITS)[4 * 1568 + 1 :], "row 5 is not"),
        (amat(BITS).replace(b" ", b","), "row 1 is not|of 1 numbers"),
        (b"\0" * 6 * 1568, "expected 6 rows"),
    ],
)
def test_amat_files_that_are_something_else(tmp_path, content, part):
    (tmp_path / "x.amat").write_bytes(content)
    with pytest.raises(UserError, match=part) as error:
        read_amat(tmp_path / "x.amat", 6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:50], lambda b: b"", lambda b: b[:60] + b"xxxx" + b[64:], lambda b: b"x"]
)
def test_a_damaged_amat_gz_is_named(tmp_path, damage):
    (tmp_path / "x.amat.gz").write_bytes(damage(gzip.compress(amat(BITS))))
    with pytest.raises(UserError, match=r"x\.amat\.gz"):
        read_amat(tmp_path / "x.amat.gz", 6)


def test_an_amat_gz_that_unpacks_without_end_is_cut_off(tmp_path):
    (tmp_path / "x.amat.gz").write_bytes(gzip.compress(bytes(50 * 2**20)))
    with pytest.raises(UserError, match="expected 6 rows"):
        read_amat(tmp_path / "x.amat.gz", 6)


def test_missing_binarized_mnist_says_where_to_put_it(tmp_path):
    with pytest.raises(UserError, match=r"binarized_mnist_train\.amat not found.*put .* into .*no download"):
        load_data("binarized-mnist", data_dir=tmp_path)
