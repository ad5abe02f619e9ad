"""Data sets: the fixed split, the statistics, and the order in which training sees them."""

import dataclasses

import numpy as np
import pytest

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_split_into_fixed_parts_with_every_class_its_share(digits):
    assert digits.train_images.shape == (1500, 8, 8, 1)
    assert digits.test_images.shape == (297, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    np.testing.assert_allclose(train / (train + test), 1500 / 1797, atol=1 / 150)
    # A change of the split would make errors incomparable with those of earlier runs.
    assert digits.digest() == "22c0a4f8b65ce1f3"


def test_no_digit_is_both_in_training_and_in_test(digits):
    train = {image.tobytes() for image in digits.train_images}
    assert not [image for image in digits.test_images if image.tobytes() in train]


def test_a_smaller_training_set_keeps_the_shares_and_the_test_images(digits):
    part = data.load("digits", train_size=95)
    counts = np.bincount(part.train_labels)
    assert counts.sum() == 95
    assert set(counts) == {9, 10}
    np.testing.assert_array_equal(part.test_images, digits.test_images)
    kept = {image.tobytes() for image in part.train_images}
    assert kept < {image.tobytes() for image in digits.train_images}


def test_more_training_images_than_there_are_is_an_error():
    with pytest.raises(UsageError, match="1501 is more than the 1500 training images"):
        data.load("digits", train_size=1501)


def test_statistics_are_those_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 5, 3), np.uint8)
    images[..., 2] = 7
    labels = np.zeros(9, np.int32)
    mean, deviation = data.ImageData("cifar10", images, labels, images, labels).statistics()
    np.testing.assert_allclose(mean, images.astype(float).mean((0, 1, 2)), rtol=1e-6)
    expected = images.astype(float).std((0, 1, 2))
    np.testing.assert_allclose(deviation, [*expected[:2], 1], rtol=1e-6)


def test_an_epoch_deals_out_every_image_once_and_each_epoch_otherwise(digits):
    def order(seed, epoch):
        dealt = data.batches(numbered, 64, seed, epoch)
        return np.concatenate([labels for _, labels in dealt])

    numbered = dataclasses.replace(digits, train_labels=np.arange(1500, dtype=np.int32))
    first = order(0, 1)
    assert len(first) == 1500 // 64 * 64
    assert len(set(first)) == len(first)
    np.testing.assert_array_equal(first, order(0, 1))
    assert (first != order(0, 2)).any()
    assert (first != order(1, 1)).any()


def test_augmentation_is_a_function_of_seed_and_epoch(digits):
    shifting = dataclasses.replace(digits, name="cifar10")
    once, twice = (next(data.batches(shifting, 200, 3, 4))[0] for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    plain = next(data.batches(digits, 200, 3, 4))[0]
    assert (once != plain).any()


def test_digits_keep_their_images_and_labels_together(digits):
    label_of = dict(
        zip((image.tobytes() for image in digits.train_images), digits.train_labels, strict=True)
    )
    for images, labels in data.batches(digits, 500, 0, 1):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_a_shift_moves_the_image_and_lets_zeros_in():
    images = np.zeros((200, 5, 5, 1), np.uint8)
    images[:, 2, 2] = 9
    moved = data.shifted(images, 2, np.random.default_rng(0))
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in moved}
    assert places == {(row, column) for row in range(5) for column in range(5)}
    assert (moved.sum((1, 2, 3)) == 9).all()


def test_a_mirror_image_is_given_to_about_half():
    images = np.zeros((400, 2, 3, 1), np.uint8)
    images[:, :, 0] = 9
    columns = data.mirrored(images, np.random.default_rng(0)).argmax(2).ravel()
    assert set(columns) == {0, 2}
    assert 300 < (columns == 2).sum() < 500  # 400 images of two rows: ±5 standard deviations


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no CIFAR-10"),
        (["data_batch_1", "test_batch"], "python version of CIFAR-10, whose pickles can run"),
        (["a.npz", "b.npz"], r"several npz files \(a.npz, b.npz\)"),
        (["test_batch.bin"], "lacks data_batch_1.bin"),
        (["train/cat/0.png"], "0.png is not a readable picture|test/<class>"),
    ],
)
def test_a_folder_that_holds_no_cifar_is_told_what_it_holds(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=message):
        data.load("cifar10", tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="nowhere does not exist; give the folder with mnist"):
        data.load("mnist", tmp_path / "nowhere")
