"""Device augmentation: flips, normalisation, mixup and cutmix of whole batches."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.device import DeviceAugment, Normalisation, box_mask, mixup

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHIFTED = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = 5


def noise(batch: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


# Normalisation.


def test_normalisation_by_hand_and_back():
    images = noise(4)
    normalised = np.asarray(IMAGENET(images))
    expected = (images / 255.0 - IMAGENET.mean) / IMAGENET.std
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, atol=1e-6)
    np.testing.assert_allclose(IMAGENET.invert(normalised), images / 255.0, atol=1e-6)


def test_default_normalisation_maps_grey_levels_to_one():
    ends = Normalisation()(jnp.array([[[[0, 0, 0], [255, 255, 255]]]], jnp.uint8))
    np.testing.assert_allclose(ends[0, 0], [[-1] * 3, [1] * 3], atol=1e-6)


# Flip.


def test_flip_mirrors_about_half_and_leaves_labels():
    images, labels = noise(400), np.arange(400) % CLASSES
    seen, weights = DeviceAugment(CLASSES, SHIFTED, flip=True)(jax.random.key(1), images, labels)
    plain = np.asarray(SHIFTED(images))
    same = (seen == plain).all((1, 2, 3))
    mirrored = (seen == plain[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 4 * 10  # four standard deviations
    np.testing.assert_array_equal(weights, np.eye(CLASSES)[labels])


def test_no_augmentation_only_normalises():
    seen, weights = DeviceAugment(CLASSES, IMAGENET)(jax.random.key(1), noise(5), LABELS)
    np.testing.assert_array_equal(seen, IMAGENET(noise(5)))
    np.testing.assert_array_equal(weights, np.eye(CLASSES)[LABELS])


# Mixing.

MIXERS = {
    "mixup": DeviceAugment(CLASSES, SHIFTED, mixup=1.0),
    "cutmix": DeviceAugment(CLASSES, SHIFTED, cutmix=1.0),
    "both": DeviceAugment(CLASSES, SHIFTED, mixup=1.0, cutmix=1.0),
}
LABELS = np.arange(CLASSES)  # of a batch of five, whose middle row is its own partner


@functools.cache
def mixed(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and label weights of one batch under 501 keys, of which the last is the first again."""
    repeated = jnp.concatenate([keys(500), keys(500)[:1]])
    return jax.device_get(jax.jit(jax.vmap(lambda key: MIXERS[name](key, noise(5), LABELS)))(repeated))


def shares(name: str) -> np.ndarray:
    """Returns the λ of every key: what the first row, of class 0, keeps beside its partner's, of class 4."""
    return mixed(name)[1][:, 0, 0]


@pytest.mark.parametrize("name", MIXERS)
def test_label_weights_are_a_distribution(name):
    images, weights = mixed(name)
    assert images.dtype == weights.dtype == np.float32
    assert weights.shape == (501, 5, CLASSES)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", MIXERS)
def test_same_key_same_result(name):
    for results in mixed(name):
        np.testing.assert_array_equal(results[0], results[-1])
        assert len(np.unique(results[:, 0].reshape(501, -1), axis=0)) > 5


def test_mixup_blends_with_the_reversed_batch():
    images, weights = mixed("mixup")
    plain, one_hot = np.asarray(SHIFTED(noise(5))), np.eye(CLASSES)
    for seen, kept in ((images, plain), (weights, one_hot)):
        share = shares("mixup").reshape(-1, *[1] * kept.ndim)
        np.testing.assert_allclose(seen, share * kept + (1 - share) * kept[::-1], atol=1e-6)


def test_mixup_keeps_the_larger_part():
    share = shares("mixup")  # max(λ, 1-λ) of a Beta(1, 1): uniform on [1/2, 1]
    assert share.min() >= 0.5
    assert share.max() <= 1
    assert abs(share.mean() - 0.75) < 0.025
    assert abs(share.std() - 0.5 / np.sqrt(12)) < 0.015


def test_alpha_sets_how_much_is_mixed():
    images, one_hot = SHIFTED(noise(5)), jnp.eye(CLASSES)
    kept = jax.jit(jax.vmap(lambda key, alpha: mixup(key, images, one_hot, alpha)[1][0, 0], (0, None)))
    assert kept(keys(200), 0.05).mean() > 0.95
    assert kept(keys(200), 20.0).mean() < 0.6


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
    images, weights = mixed("cutmix")
    plain, one_hot = np.asarray(SHIFTED(noise(5))), np.eye(CLASSES)
    share = shares("cutmix")
    assert abs(share.mean() - 0.5) < 0.06
    for seen, weight, kept in zip(images, weights, share, strict=True):
        pasted = (seen != plain).any((0, 3))
        np.testing.assert_array_equal(seen, np.where(pasted[None, :, :, None], plain[::-1], plain))
        np.testing.assert_allclose(weight, kept * one_hot + (1 - kept) * one_hot[::-1], atol=1e-6)
        assert pasted.mean() == pytest.approx(1 - kept, abs=1e-6)
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        assert pasted.sum() == len(rows) * len(columns)
        if pasted.any():
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_with_both_each_batch_takes_one():
    plain = np.asarray(SHIFTED(noise(5)))
    images, share = mixed("both")[0], shares("both")
    cut = np.isin(images[:, 0], plain[[0, 4]]).all((1, 2, 3))
    assert 200 <= cut.sum() <= 300
    assert (share[~cut] >= 0.5).all()
    assert (share[cut] < 0.5).any()


# The box.


@functools.cache
def boxes(shape: tuple[int, int]):
    """Returns the function that maps the share to keep to 500 random boxes."""
    return jax.jit(jax.vmap(lambda kept: jax.vmap(lambda key: box_mask(key, shape, kept))(keys(500))))


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 3)])
def test_box_has_its_area_and_lies_inside(shape):
    shares = np.array([0.0, 0.2, 0.5, 0.9, 1.0], np.float32)
    for kept, masks in zip(shares, np.asarray(boxes(shape)(shares)), strict=True):
        height, width = (round(math.sqrt(1 - kept) * side) for side in shape)
        assert set(masks.sum((1, 2)).tolist()) == {height * width}
        assert set(masks.any(2).sum(1).tolist()) == {height if width else 0}
        assert set(masks.any(1).sum(1).tolist()) == {width if height else 0}


def test_box_reaches_every_place():
    masks = np.asarray(boxes((8, 8))(np.float32([0.0, 0.2, 0.5, 0.75, 1.0])))[3]  # a box of 4 by 4
    corners = np.array([np.argwhere(mask)[0] for mask in masks])
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(corners.T), 1)
    assert counts.min() > 4  # each of the 25 places has 20 on average
    assert counts.max() < 40
