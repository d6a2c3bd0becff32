"""Images from .npz and .npy files: layouts, types, levels and the memory map."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from probgen.data import ImageData, load_data


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
