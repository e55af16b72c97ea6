"""Sources: digits and arrays. Those of TFDS and of folders have files of their own."""

import numpy as np
import pytest

from vit_jax.data.sources import ArraySource, digits_source, open_source
from vit_jax.errors import UserError


def test_digits_parts_are_disjoint_and_complete():
    train, test = digits_source("train"), digits_source("test")
    assert (len(train), len(test)) == (1437, 360)
    rows = [image.tobytes() + bytes([label]) for part in (train, test) for image, label in part]
    assert len(set(rows)) == 1797  # no two of scikit-learn's digits are the same picture


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_grey_uint8_of_all_classes(split):
    source = digits_source(split)
    assert source.images.dtype == np.uint8
    assert source.image_size == (8, 8)
    assert (source.images.min(), source.images.max()) == (0, 255)
    np.testing.assert_array_equal(source.images[..., 0], source.images[..., 2])
    assert set(source.labels) == set(range(10))
    assert np.bincount(source.labels).min() > len(source) / 15
    assert source.class_names == list("0123456789")


def test_digits_slices():
    whole = digits_source("train")
    first, rest = digits_source("train[:90%]"), digits_source("train[90%:]")
    np.testing.assert_array_equal(np.concatenate([first.images, rest.images]), whole.images)
    np.testing.assert_array_equal(np.concatenate([first.labels, rest.labels]), whole.labels)
    with pytest.raises(UserError, match="no split 'validation'"):
        open_source("digits", "validation")
    with pytest.raises(UserError, match="digits: split 'train\\[:0\\]' is empty"):
        open_source("digits", "train[:0]")


def test_array_source_reads_rows():
    images = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    source = ArraySource(images, [1, 0], ["cat", "dog"])
    image, label = source[1]
    assert len(source) == 2
    assert source.image_size == (3, 5)
    assert (type(label), label) == (int, 0)
    np.testing.assert_array_equal(image, images[1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], r"uint8 .* not float32 \(2, 4, 4, 3\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"uint8 .* not uint8 \(2, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], r"uint8 .* not uint8 \(2, 3, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], r"2 images have labels of shape \(1,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [[0, 1], [1, 0]], r"labels of shape \(2, 2\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, 1.0], "must be integers, not float64"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2], "label 2 is none of the 2 classes"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, -1], "label -1 is none of the 2 classes"),
    ],
)
def test_array_source_refuses_other_shapes_and_types(images, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySource(images, labels, ["cat", "dog"])
