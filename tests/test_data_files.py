"""The user's own files: every layout goes in and out, and every wrong one is one clear line."""

import gzip
import io
import os
import pickle
import zipfile
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


# --- layouts, types and levels

LAYOUTS = [
    (grey(), grey()[:, None]),
    (grey()[..., None], grey()[:, None]),
    (grey()[:, None], grey()[:, None]),
    (colour(), colour()),
    (colour().transpose(0, 2, 3, 1), colour()),
    (colour(9, 4, 3).transpose(0, 2, 3, 1), colour(9, 4, 3)),
    (grey(9, 28, 28), grey(9, 28, 28)[:, None]),
    (grey(9, 1, 1), grey(9, 1, 1)[:, None]),
    (grey(9, 8, 3), grey(9, 8, 3)[:, None]),  # three axes are n h w, whatever the last one is
    (colour(9, 4, 3), colour(9, 4, 3).transpose(0, 3, 1, 2)),  # n 3 4 3: the last axis wins
]


@pytest.mark.parametrize(("written", "expected"), LAYOUTS)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_every_layout_goes_in_and_out(tmp_path, suffix, written, expected):
    path = tmp_path / f"mine.{suffix}"
    np.savez(path, images=written) if suffix == "npz" else np.save(path, written)
    data = load_data(path)
    assert np.array_equal(restored(data).numpy(), expected)
    assert (data.image_shape, data.levels, data.train.labels) == (expected.shape[1:], 256, None)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint16, ">i4", np.float16, np.float64])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_any_type_of_whole_numbers_will_do(tmp_path, suffix, dtype):
    images = grey() % (2 if dtype is bool else 100)
    path = tmp_path / f"mine.{suffix}"
    written = images.astype(dtype)
    np.savez_compressed(path, images=written) if suffix == "npz" else np.save(path, written)
    data = load_data(str(path))
    assert np.array_equal(restored(data).numpy()[:, 0], images)
    assert data.levels == (2 if dtype is bool else 256)


def test_fortran_order_changes_nothing(tmp_path):
    np.save(tmp_path / "mine.npy", np.asfortranarray(colour()))
    assert np.array_equal(restored(load_data(tmp_path / "mine.npy")).numpy(), colour())


def test_labels_and_levels_go_with_the_images(tmp_path):
    labels = np.arange(20, dtype=np.int16)
    np.savez(tmp_path / "mine.npz", images=grey() % 16, labels=labels, levels=16)
    data = load_data(tmp_path / "mine.npz")
    assert (data.levels, data.train.labels.dtype) == (16, torch.int64)
    for split in (data.train, data.valid, data.test):
        assert np.array_equal(split.images[:, 0].numpy(), grey()[split.labels.numpy()] % 16)


@pytest.mark.parametrize(("top", "levels"), [(1, 2), (2, 256), (255, 256)])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_levels_are_two_only_where_no_value_exceeds_one(tmp_path, suffix, top, levels):
    images = np.zeros((10, 3, 3), np.uint8)
    images[-1, -1, -1] = top  # the last pixel decides
    path = tmp_path / f"mine.{suffix}"
    np.savez(path, images=images) if suffix == "npz" else np.save(path, images)
    assert load_data(path).levels == levels


def test_three_images_are_enough(tmp_path):
    np.save(tmp_path / "mine.npy", grey(3))
    data = load_data(tmp_path / "mine.npy")
    assert (len(data.train), len(data.valid), len(data.test)) == (1, 1, 1)


# --- the memory map


def test_a_mapped_file_stays_in_its_file(tmp_path):
    np.save(tmp_path / "mine.npy", grey())
    data = load_data(tmp_path / "mine.npy")
    for split in (data.train, data.valid, data.test):
        assert isinstance(split.storage, np.memmap)
        assert not split.storage.flags.writeable
    batch = data.train.batch(torch.arange(3))
    assert not np.shares_memory(batch.numpy(), data.train.storage)
    assert torch.equal(batch, data.train.images[:3])
    with pytest.raises(IndexError):
        data.valid.batch(torch.tensor([2]))


def test_batches_of_a_mapped_file_go_to_the_device(tmp_path):
    np.save(tmp_path / "mine.npy", grey())
    moved = load_data(tmp_path / "mine.npy").train.to("meta")
    assert isinstance(moved.storage, np.memmap)
    assert (moved.batch(torch.arange(3)).device.type, moved.images.device.type) == ("meta", "meta")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see the resident memory")
@pytest.mark.parametrize("binarize", ["none", "threshold", "static", "dynamic"])
def test_a_large_file_does_not_come_into_memory(tmp_path, binarize):
    path = tmp_path / "large.npy"
    header = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (2**18, 64, 64)}
    np.lib.format.write_array_header_1_0(header, description)
    with open(path, "wb") as stream:  # sparse: 1 GiB that takes no room
        stream.write(header.getvalue() + b"\xff")
        stream.truncate(len(header.getvalue()) + 2**30)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    load_data("sprites:10").train.batch(torch.arange(3))  # what is imported late is imported now
    before = resident()
    data = load_data(path, binarize=binarize)
    batch = data.train.to("cpu").batch(torch.randperm(len(data.train))[:48])
    assert batch.shape == (48, 1, 64, 64)
    assert resident() - before < 100 * 2**20


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("binarize", ["threshold", "static"])
def test_binarization_of_a_mapped_file_is_that_of_the_same_images_in_memory(tmp_path, binarize, layout):
    images = colour().transpose(layout)
    np.save(tmp_path / "mine.npy", images)
    np.savez(tmp_path / "mine.npz", images=images)
    mapped = load_data(tmp_path / "mine.npy", binarize=binarize)
    loaded = load_data(tmp_path / "mine.npz", binarize=binarize)
    assert (mapped.levels, loaded.levels) == (2, 2)
    for name in ("train", "valid", "test"):
        one, other = getattr(mapped, name), getattr(loaded, name)
        assert torch.equal(one.images, other.images)
        rows = torch.randperm(len(one))
        assert torch.equal(one.batch(rows), other.images[rows])


def test_dynamic_binarization_of_a_mapped_file(tmp_path):
    images = np.full((100, 20, 20), 51, np.uint8)
    np.save(tmp_path / "mine.npy", images)
    data = load_data(tmp_path / "mine.npy", binarize="dynamic")
    rows = torch.arange(80)
    first, second = data.train.batch(rows), data.train.batch(rows)
    assert not torch.equal(first, second)
    assert abs(float(first.double().mean()) - 0.2) < 4 * 0.4 / 32_000**0.5
    assert torch.equal(data.train.images.unique(), torch.tensor([51], dtype=torch.uint8))
    assert torch.equal(data.test.batch(torch.arange(10)), data.test.images)


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
