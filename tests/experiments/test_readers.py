"""Files of images: what is read, and what is said about files that cannot be."""

import gzip
import os
import struct

import numpy as np
import pytest
from PIL import Image

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError

TRAIN, TEST = 6, 4


def random_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def arrays():
    labels = np.arange(TRAIN, dtype=np.uint8) % 3
    return random_bytes(TRAIN, 5, 7), labels, random_bytes(TEST, 5, 7), labels[:TEST]


@pytest.fixture
def idx_folder(tmp_path, arrays):
    endings = (".gz", "", "", ".gz")
    for name, ending, array in zip(data.IDX_NAMES, endings, arrays, strict=True):
        write_idx(tmp_path / (name + ending), array)
    return tmp_path


def npz(path, arrays, **other):
    np.savez(path, **dict(zip(data.NPZ_KEYS, arrays, strict=True)) | other)
    return path


def assert_read(read, arrays):
    for half in (0, 2):
        assert read[half].dtype == np.uint8
        np.testing.assert_array_equal(read[half][..., 0], arrays[half])
        assert read[half + 1].dtype == np.int32
        np.testing.assert_array_equal(read[half + 1], arrays[half + 1])


def test_idx_files_are_read_gzipped_or_not(idx_folder, arrays):
    assert_read(data.read_idx_folder(idx_folder), arrays)


def test_idx_files_are_found_under_the_dotted_names_of_some_unpackers(idx_folder, arrays):
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.rename(idx_folder / "t10k-images.idx3-ubyte")
    assert_read(data.read_idx_folder(idx_folder), arrays)


def test_all_missing_idx_files_are_named(idx_folder):
    (idx_folder / "t10k-images-idx3-ubyte").unlink()
    (idx_folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\[.gz\], t10k-images-idx3"):
        data.read_idx_folder(idx_folder)


def test_labels_in_place_of_images_are_told_by_the_magic_number(idx_folder, arrays):
    write_idx(idx_folder / "t10k-images-idx3-ubyte", arrays[3])
    with pytest.raises(UsageError, match=r"t10k-images.* begins with 0x00000801.*0x00000803"):
        data.read_idx_folder(idx_folder)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "begins with 0x,"),
        (7, "ends inside its header"),
        (-1, "holds 139 values.* promises 140"),
    ],
)
def test_a_truncated_idx_file_is_told(idx_folder, keep, message):
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=f"{path.name} {message}"):
        data.read_idx_folder(idx_folder)


def test_an_idx_file_with_too_much_in_it_is_told(idx_folder):
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(UsageError, match=r"holds 144 values.* promises 140"):
        data.read_idx_folder(idx_folder)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:12] + b"\xff" * 9 + b[21:]])
def test_a_damaged_gzip_file_is_told(idx_folder, damage):
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz is not a whole gzip file"):
        data.read_idx_folder(idx_folder)


def test_an_npz_file_is_read_with_labels_as_a_column(tmp_path, arrays):
    path = npz(tmp_path / "a.npz", arrays, y_train=arrays[1].astype(np.int64)[:, None])
    assert_read(data.read_npz(path), arrays)


def test_color_images_keep_their_channels(tmp_path, arrays):
    train, test = random_bytes(TRAIN, 5, 7, 3), random_bytes(TEST, 5, 7, 3)
    read = data.read_npz(npz(tmp_path / "a.npz", arrays, x_train=train, x_test=test))
    np.testing.assert_array_equal(read[0], train)
    np.testing.assert_array_equal(read[2], test)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x_train": np.zeros((TRAIN, 5, 7))}, "training: the images are float64"),
        ({"x_test": np.zeros((TEST, 35), np.uint8)}, r"test: the images are .*\(4, 35\)"),
        ({"x_test": np.zeros((TEST, 7, 5), np.uint8)}, "images of one shape"),
        ({"x_train": np.zeros((0, 5, 7), np.uint8)}, r"training: the images are .*\(0, 5, 7\)"),
        ({"y_train": np.zeros(TRAIN + 1, int)}, r"training: the labels are .*\(7,\)"),
        ({"y_train": np.zeros(TRAIN)}, "training: the labels are float64"),
        ({"y_train": np.full(TRAIN, -1)}, "whole number from 0"),
        ({"y_test": np.full(TEST, 9)}, "label 9, which no training image has"),
        ({"y_test": np.array([{}] * TEST, object)}, "is not a readable npz file"),
    ],
)
def test_an_npz_file_that_is_no_data_set_is_told_why(tmp_path, arrays, other, message):
    with pytest.raises(UsageError, match=message):
        data.read_npz(npz(tmp_path / "a.npz", arrays, **other))


def test_missing_keys_of_an_npz_file_are_named_beside_those_it_has(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=0, images=0, y_test=0)
    with pytest.raises(UsageError, match=r"lacks y_train, x_test \(it has x_train, images, y_test"):
        data.read_npz(path)


def test_a_truncated_npz_file_is_told(tmp_path, arrays):
    path = npz(tmp_path / "a.npz", arrays)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"a\.npz is not an npz file, or is cut short"):
        data.read_npz(path)


@pytest.fixture
def cifar_binary(tmp_path):
    records = random_bytes(6, 2, data.CIFAR_RECORD)
    records[:, :, 0] = np.arange(12).reshape(6, 2) % 4
    names = (*data.CIFAR_TRAIN_NAMES, data.CIFAR_TEST_NAME)
    for name, batch in zip(names, records, strict=True):
        (tmp_path / name).write_bytes(batch.tobytes())
    return tmp_path, records


def test_the_binary_batches_of_cifar_are_read_plane_by_plane(cifar_binary):
    folder, records = cifar_binary
    train_images, train_labels, test_images, test_labels = data.read_cifar_binary(folder)
    assert train_images.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(train_labels, records[:5, :, 0].ravel())
    np.testing.assert_array_equal(test_labels, records[5, :, 0])
    # Green, row 2, column 3 of the second test image: after the label and the red plane.
    assert test_images[1, 2, 3, 1] == records[5, 1, 1 + 1024 + 2 * 32 + 3]


def test_missing_and_truncated_cifar_batches_are_named(cifar_binary):
    folder, _ = cifar_binary
    path = folder / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"data_batch_4\.bin holds 6145 bytes.* of 3073"):
        data.read_cifar_binary(folder)
    path.unlink()
    with pytest.raises(UsageError, match=r"lacks data_batch_4\.bin; "):
        data.read_cifar_binary(folder)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of gray levels: cats are dark, dogs are light."""
    folder = tmp_path / "pictures"
    for half, number in (("train", 3), ("test", 2)):
        for name, level in (("dog", 200), ("cat", 20)):
            (folder / half / name).mkdir(parents=True)
            for index in range(number):
                picture = Image.new("RGB", (4, 4), (level + index, level, level))
                picture.save(folder / half / name / f"{index}.png")
    return folder


def test_a_folder_of_pictures_is_read_by_class(pictures):
    train_images, train_labels, test_images, test_labels = data.read_picture_folder(pictures, iter)
    np.testing.assert_array_equal(train_labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(test_labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(train_images[:, 0, 0, 0], [20, 21, 22, 200, 201, 202])
    assert test_images.shape == (4, 4, 4, 3)


def test_decoded_pictures_come_from_the_cache_until_a_picture_changes(pictures, tmp_path):
    decoded = []

    def counting(files):
        decoded.append(len(files))
        return files

    cache = tmp_path / "cache"
    first = data.read_picture_folder(pictures, counting, cache)
    again = data.read_picture_folder(pictures, counting, cache)
    assert decoded == [10]
    for array, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(array, same)
    Image.new("RGB", (4, 4), "white").save(pictures / "train" / "cat" / "0.png")
    changed = data.read_picture_folder(pictures, counting, cache)
    assert decoded == [10, 10]
    assert changed[0][0].min() == 255


def test_without_a_cache_nothing_is_written(pictures, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    data.read_picture_folder(pictures, iter)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cache_that_cannot_be_written_is_told(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written .* another --cache-dir"):
        data.read_picture_folder(pictures, iter, tmp_path / "file" / "cache")


def test_pictures_that_make_no_data_set_are_told_why(pictures):
    odd = pictures / "train" / "dog" / "1.png"
    Image.new("RGB", (4, 5)).save(odd)
    with pytest.raises(UsageError, match=r"1\.png is of shape \(5, 4, 3\), but .*0\.png"):
        data.read_picture_folder(pictures, iter)
    odd.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"dog/1\.png is not a readable picture"):
        data.read_picture_folder(pictures, iter)
    (pictures / "test" / "dog").rename(pictures / "test" / "wolf")
    with pytest.raises(UsageError, match="the same classes, but differ in dog, wolf"):
        data.read_picture_folder(pictures, iter)
    (pictures / "test").rename(pictures / "text")
    with pytest.raises(UsageError, match="test/<class>"):
        data.read_picture_folder(pictures, iter)


def save_bomb(path, side):
    """A small file of a picture of side × side black pixels."""
    Image.new("1", (side, side)).save(path, optimize=True)


@pytest.mark.parametrize("side", [1100, 10_000, 20_000])
@pytest.mark.parametrize("name", ["train/cat/0.png", "train/dog/2.png"])
def test_a_picture_that_unpacks_to_far_too_much_is_refused_by_its_header(pictures, side, name):
    save_bomb(pictures / name, side)
    with pytest.raises(UsageError, match=rf"{name} is too large \(.*at most 1,048,576 pixels"):
        data.read_picture_folder(pictures, iter)


@pytest.mark.parametrize("name", ["train/cat/9.png", "test/dog/0.jpg", "train/dog/a.JPEG"])
def test_a_pipe_among_the_pictures_is_named_and_not_waited_for(pictures, name):
    os.mkfifo(pictures / name)
    with pytest.raises(UsageError, match=rf"{name} is not a regular file; remove it"):
        data.read_picture_folder(pictures, iter)


def test_a_pipe_in_place_of_an_npz_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(UsageError, match=r"a\.npz is not an npz file"):
        data.load("mnist", tmp_path)


def test_files_that_unpack_to_more_than_a_data_set_are_refused(
    idx_folder, tmp_path, arrays, monkeypatch
):
    monkeypatch.setattr("fgsgd_jax.experiments.data._checks.MOST_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(5 << 20))
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(bomb)
    with pytest.raises(UsageError, match=r"ubyte\.gz unpacks to .* at most 1,048,576 bytes"):
        data.read_idx_folder(idx_folder)
    path = tmp_path / "b.npz"
    train = np.zeros((TRAIN, 500, 700), np.uint8)
    test = np.zeros((TEST, 500, 700), np.uint8)
    named = dict(zip(data.NPZ_KEYS, (train, arrays[1], test, arrays[3]), strict=True))
    np.savez_compressed(path, **named)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(UsageError, match=r"b\.npz unpacks to .* at most 1,048,576 bytes"):
        data.read_npz(path)
