"""Mixup and cutmix, one draw a batch or one a row, and the boxes that are cut out of images."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta, ks_1samp

from vit_jax.data.device import DeviceAugment, Normalisation
from vit_jax.data.mixing import box, mixup, placed_box, random_box, symmetric_beta

SHIFTED = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = 5
LABELS = np.arange(CLASSES)  # of a batch of five, whose middle row is its own partner
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 5, 3), dtype=np.uint8)
PLAIN, ONE_HOT = np.asarray(SHIFTED(IMAGES)), np.eye(CLASSES)
PIXELS = 6 * 5
KINDS = {"mixup": {"mixup": 1.0}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 1.0, "cutmix": 1.0}}
MODES = ("batch", "example")


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


@functools.cache
def mixer(kind: str, mixing: str):
    """Returns the function that maps keys and a mask to one batch of images and label weights a key."""
    augment = DeviceAugment(CLASSES, SHIFTED, mixing=mixing, **KINDS[kind])
    return jax.jit(lambda keys, mask: jax.lax.map(lambda key: augment(key, IMAGES, LABELS, mask), keys))


@functools.cache
def mixed(kind: str, mixing: str = "batch", mask: tuple[bool, ...] = (True,) * 5) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and label weights of one batch under 501 keys, of which the last is the first again."""
    return jax.device_get(mixer(kind, mixing)(jnp.concatenate([keys(500), keys(500)[:1]]), np.array(mask)))


def shares(kind: str, mixing: str = "batch") -> np.ndarray:
    """Returns the λ of every key and row, `[501, 5]`; the middle row, its own partner, shows 1."""
    return mixed(kind, mixing)[1][:, LABELS, LABELS]


every_kind_and_mode = pytest.mark.parametrize(("kind", "mixing"), [(k, m) for k in KINDS for m in MODES])
each_mode = pytest.mark.parametrize("mixing", MODES)


@every_kind_and_mode
def test_label_weights_are_a_distribution_over_the_two_classes(kind, mixing):
    images, weights = mixed(kind, mixing)
    assert images.dtype == weights.dtype == np.float32
    assert weights.shape == (501, 5, CLASSES)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        weights[:, LABELS, LABELS] + weights[:, LABELS, LABELS[::-1]] * (LABELS != 2), 1, atol=1e-6
    )


@every_kind_and_mode
def test_same_key_same_result(kind, mixing):
    for results in mixed(kind, mixing):
        np.testing.assert_array_equal(results[0], results[-1])
        assert len(np.unique(results[:, 0].reshape(501, -1), axis=0)) > 5


@every_kind_and_mode
def test_row_with_a_masked_partner_keeps_itself(kind, mixing):
    mask = (True, False, False, True, True)  # the partners of rows 3 and 2 (itself) are masked
    images, weights = mixed(kind, mixing, mask)
    free_images, free_weights = mixed(kind, mixing)
    alone, mixing_rows = [2, 3], [0, 1, 4]
    np.testing.assert_array_equal(images[:, alone], np.broadcast_to(PLAIN[alone], images[:, alone].shape))
    np.testing.assert_array_equal(weights[:, alone], np.broadcast_to(ONE_HOT[alone], weights[:, alone].shape))
    np.testing.assert_allclose(images[:, mixing_rows], free_images[:, mixing_rows], atol=1e-6)
    np.testing.assert_allclose(weights[:, mixing_rows], free_weights[:, mixing_rows], atol=1e-6)
    assert (free_weights[:, 3, 3] < 0.99).any()


def test_one_row_is_left_as_it_is():
    augment = DeviceAugment(CLASSES, SHIFTED, mixup=1.0, cutmix=1.0)
    function = jax.jit(functools.partial(jax.lax.map, lambda key: augment(key, IMAGES[:1], LABELS[:1])))
    images, weights = function(keys(20))
    np.testing.assert_allclose(images, np.broadcast_to(PLAIN[:1], images.shape), atol=1e-6)
    np.testing.assert_allclose(weights, np.broadcast_to(ONE_HOT[:1], weights.shape), atol=1e-6)


@each_mode
def test_mixup_blends_with_the_reversed_batch(mixing):
    images, weights = mixed("mixup", mixing)
    for seen, kept in ((images, PLAIN), (weights, ONE_HOT)):
        share = shares("mixup", mixing).reshape(501, 5, *[1] * (kept.ndim - 1))
        np.testing.assert_allclose(seen, share * kept + (1 - share) * kept[::-1], atol=1e-6)


@each_mode
def test_mixup_keeps_the_larger_part(mixing):
    share = shares("mixup", mixing)[:500, [0, 1, 3, 4]]  # max(λ, 1-λ) of a Beta(1, 1): uniform on [1/2, 1]
    assert share.min() >= 0.5
    assert share.max() <= 1
    for row in share.T:
        assert abs(row.mean() - 0.75) < 4 * 0.5 / math.sqrt(12 * 500)
        assert abs(row.std() - 0.5 / math.sqrt(12)) < 0.015


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_share_follows_beta(alpha):
    draws = np.asarray(symmetric_beta(jax.random.key(0), alpha, 2000))
    assert ks_1samp(draws, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_alpha_sets_how_much_is_mixed():
    images, labels = jnp.zeros((200, 1, 1, 1)), jnp.eye(2)[np.arange(200) % 2]  # every partner is of the other class
    for alpha, low, high in ((0.05, 0.95, 1), (20.0, 0.5, 0.6)):
        assert low < mixup(jax.random.key(0), images, labels, alpha, 200)[1].max(1).mean() < high


@each_mode
def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area(mixing):
    images, weights = mixed("cutmix", mixing)
    for row in (0, 1, 3, 4):
        share = shares("cutmix", mixing)[:, row]
        assert abs(share.mean() - 0.5) < 0.06
        for seen, weight, kept in zip(images[:, row], weights[:, row], share, strict=True):
            pasted = (seen != PLAIN[row]).any(-1)
            np.testing.assert_array_equal(seen, np.where(pasted[..., None], PLAIN[4 - row], PLAIN[row]))
            np.testing.assert_allclose(weight, kept * ONE_HOT[row] + (1 - kept) * ONE_HOT[4 - row], atol=1e-6)
            assert kept == pytest.approx(1 - pasted.sum() / PIXELS, abs=1e-6)
            assert_one_box(pasted)


def assert_one_box(pasted: np.ndarray):
    rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
    assert pasted.sum() == len(rows) * len(columns)
    if pasted.any():
        assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_mode_draws_once_for_all_rows(kind):
    images, share = mixed(kind)[0], shares(kind)
    np.testing.assert_allclose(share[:, [0, 1, 3, 4]], np.broadcast_to(share[:, :1], (501, 4)), atol=1e-6)
    if kind == "cutmix":
        boxes = (images != PLAIN).any(-1)[:, [0, 1, 3, 4]]
        np.testing.assert_array_equal(boxes, np.broadcast_to(boxes[:, :1], boxes.shape))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_example_mode_draws_for_each_row_by_itself(kind):
    """Partners included: λ of row i says nothing of that of row n-1-i."""
    share = shares(kind, "example")[:500]
    for one, other in ((0, 4), (1, 3), (0, 1), (3, 4)):
        assert (np.abs(share[:, one] - share[:, other]) > 1e-3).mean() > 0.8
        assert abs(np.corrcoef(share[:, one], share[:, other])[0, 1]) < 4 / math.sqrt(500)


def test_example_mode_places_each_box_by_itself():
    place = jax.jit(jax.vmap(lambda key: random_box(key, (8, 8), jnp.full(2, 0.75))))
    pairs = np.asarray(place(keys(500)))
    first, second = (np.array([corner(mask) for mask in pairs[:, row]]) for row in (0, 1))
    for axis in range(2):
        assert abs(np.corrcoef(first[:, axis], second[:, axis])[0, 1]) < 4 / math.sqrt(500)


def corner(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask)[0]


def was_cut(mixing: str) -> np.ndarray:
    """Returns `[500, 4]`: which rows of "both" hold pixels of one or the other image only."""
    images = mixed("both", mixing)[0][:500]
    return ((images == PLAIN) | (images == PLAIN[::-1])).all((2, 3, 4))[:, [0, 1, 3, 4]]


@each_mode
def test_with_both_one_of_the_two_is_taken(mixing):
    cut, share = was_cut(mixing), shares("both", mixing)[:500, [0, 1, 3, 4]]
    assert (np.abs(cut.mean(0) - 0.5) < 4 * 0.5 / math.sqrt(500)).all()
    assert (share[~cut] >= 0.5).all()
    assert (share[cut] < 0.5).any()
    alike = (cut == cut[:, :1]).all(1).mean()
    assert alike == 1 if mixing == "batch" else abs(alike - 1 / 8) < 4 * math.sqrt(1 / 8 * 7 / 8 / 500)


@each_mode
def test_with_both_each_row_is_what_one_alone_would_make_of_it(mixing):
    cut = was_cut(mixing)
    for part in (0, 1):
        both, alone = mixed("both", mixing)[part][:500], {k: mixed(k, mixing)[part][:500] for k in ("mixup", "cutmix")}
        for column, row in enumerate((0, 1, 3, 4)):
            chosen = cut[:, column].reshape(-1, *[1] * (both.ndim - 2))
            expected = np.where(chosen, alone["cutmix"][:, row], alone["mixup"][:, row])
            np.testing.assert_allclose(both[:, row], expected, atol=1e-6)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"augment\.mixing must be batch or example, not 'elem'"):
        DeviceAugment(CLASSES, mixup=1.0, mixing="elem")


@functools.cache
def boxes(shape: tuple[int, int]):
    """Returns the function that maps the share to keep to 500 random boxes."""
    return jax.jit(lambda kept: random_box(jax.random.key(0), shape, jnp.full(500, kept)))


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 3)])
def test_box_has_its_area_and_lies_inside(shape):
    for kept in np.array([0.0, 0.2, 0.5, 0.9, 1.0], np.float32):
        masks = np.asarray(boxes(shape)(kept))
        height, width = (round(math.sqrt(1 - kept) * side) for side in shape)
        assert set(masks.sum((1, 2)).tolist()) == {height * width}
        assert set(masks.any(2).sum(1).tolist()) == {height if width else 0}
        assert set(masks.any(1).sum(1).tolist()) == {width if height else 0}


def test_box_reaches_every_place():
    masks = np.asarray(boxes((8, 8))(np.float32(0.75)))  # a box of 4 by 4
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(np.array([corner(mask) for mask in masks]).T), 1)
    assert counts.min() > 4  # each of the 25 places has 20 on average
    assert counts.max() < 40


def test_placed_boxes_have_each_its_own_size():
    heights, widths = np.array([0.0, 2, 5, 1]), np.array([3.0, 4, 1, 7])
    masks = np.asarray(placed_box(jax.random.key(0), (5, 7), jnp.array(heights), jnp.array(widths)))
    np.testing.assert_array_equal(masks.sum((1, 2)), heights * widths)
    np.testing.assert_array_equal(masks.any(2).sum(1), heights)


def test_box_is_clipped_at_every_border():
    corners = np.array([[-2, 1], [3, 5], [1, -1], [1, 1], [9, 0]])
    masks = np.asarray(box((5, 7), *jnp.array(corners).T, 3, 4))
    for mask, (top, left) in zip(masks, corners, strict=True):
        expected = np.zeros((5, 7), bool)
        expected[max(top, 0) : top + 3, max(left, 0) : left + 4] = True
        np.testing.assert_array_equal(mask, expected)
