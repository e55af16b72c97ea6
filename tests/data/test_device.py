"""Device augmentation: flips, normalisation, erasing, cutout, and how they go together with mixing."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

from tests.data.test_mixing import assert_one_box
from vit_jax.data import device
from vit_jax.data.device import DeviceAugment, Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHIFTED = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = 5
KEY = jax.random.key(1)

erase = jax.jit(device.erase)
erasing_box = jax.jit(device.erasing_box, static_argnums=(1, 2))
cut_out = jax.jit(device.cut_out, static_argnums=2)


def noise(batch: int, height: int = 6, width: int = 5) -> np.ndarray:
    """Returns images without a zero, which cutout could not be told from."""
    return np.random.default_rng(0).integers(1, 256, (batch, height, width, 3), dtype=np.uint8)


def within(count: int, trials: int, chance: float) -> bool:
    """Returns whether so many successes lie within four standard deviations of what the chance promises."""
    return abs(count - trials * chance) < 4 * math.sqrt(trials * chance * (1 - chance))


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


def test_flip_mirrors_about_half_and_leaves_labels():
    images, labels = noise(400), np.arange(400) % CLASSES
    seen, weights = DeviceAugment(CLASSES, SHIFTED, flip=True)(KEY, images, labels)
    plain = np.asarray(SHIFTED(images))
    same = (seen == plain).all((1, 2, 3))
    mirrored = (seen == plain[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert within(int(mirrored.sum()), 400, 0.5)
    np.testing.assert_array_equal(weights, np.eye(CLASSES)[labels])


ERASED_SHAPE = (40, 56)


@functools.cache
def erased_images() -> tuple[np.ndarray, np.ndarray]:
    """Returns 400 erased images and where they changed."""
    plain = np.asarray(SHIFTED(noise(400, *ERASED_SHAPE)))
    seen = np.asarray(erase(KEY, plain, 1.0))
    return seen, (seen != plain).any(-1)


@pytest.mark.parametrize("chance", [0.1, 0.25, 0.8])
def test_erasing_has_its_chance(chance):
    plain = np.asarray(SHIFTED(noise(4000, 8, 8)))
    changed = (np.asarray(erase(KEY, plain, chance)) != plain).any((1, 2, 3))
    assert within(int(changed.sum()), 4000, chance)


def test_erasing_changes_one_box_of_bounded_area_and_aspect():
    """A side of n pixels was rounded from n ± 1/2: the bounds hold for some such side, and not much is given away."""
    height, width = ERASED_SHAPE
    _, changed = erased_images()
    assert changed.any((1, 2)).all()
    for mask in changed:
        assert_one_box(mask)
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert rows < height
        assert columns < width
        assert (rows - 0.5) * (columns - 0.5) <= height * width / 3
        assert (rows + 0.5) * (columns + 0.5) >= height * width * 0.02
        assert (rows + 0.5) / (columns - 0.5) >= 0.3
        assert (rows - 0.5) / (columns + 0.5) <= 1 / 0.3
    shares = changed.mean((1, 2))
    assert shares.min() < 0.03
    assert shares.max() > 0.32


def test_erased_pixels_are_standard_normal_noise_and_all_their_own():
    seen, changed = erased_images()
    values = seen[changed]  # [pixels, channels]
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    assert abs(values.std() - 1) < 4 / math.sqrt(2 * values.size)
    assert len(np.unique(values)) > 0.9 * values.size  # no pixel, channel or image repeats another's
    correlation = np.corrcoef(values.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(len(values))


def timm_box(generator: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Returns (rows, columns, top, left) as a loop over at most ten attempts draws them."""
    for _ in range(10):
        area = generator.uniform(0.02, 1 / 3) * height * width
        aspect = math.exp(generator.uniform(math.log(0.3), -math.log(0.3)))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            return rows, columns, generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    return 0, 0, 0, 0


@pytest.mark.parametrize("shape", [(32, 32), (12, 60)])  # in the second about a third of the attempts do not fit
def test_erasing_boxes_follow_timms_distribution(shape):
    masks = np.asarray(erasing_box(KEY, 3000, shape))
    masks = masks[masks.any((1, 2))]
    down, across = masks.any(2), masks.any(1)
    ours = (down.sum(1), across.sum(1), down.argmax(1), across.argmax(1))
    generator = np.random.default_rng(0)
    theirs = np.array([timm_box(generator, *shape) for _ in range(3000)])
    for one, other in zip((*ours, ours[0] * ours[1]), (*theirs.T, theirs[:, 0] * theirs[:, 1]), strict=True):
        assert ks_2samp(one, other).pvalue > 1e-3


def test_no_box_that_fits_no_erasing():
    plain = SHIFTED(noise(300, 1, 3))  # every box of at least a pixel is as high as the image
    np.testing.assert_array_equal(erase(KEY, plain, 1.0), plain)


@pytest.mark.parametrize("side", [4, 3])
def test_cutout_takes_every_centre_and_is_clipped(side):
    height, width, count = 9, 7, 4000
    plain = np.asarray(IMAGENET(noise(count, height, width)))
    seen = np.asarray(cut_out(KEY, plain, side))
    cut = (seen == 0).all(-1)
    np.testing.assert_array_equal(seen, np.where(cut[..., None], 0, plain))
    found = collections.Counter(mask.tobytes() for mask in cut)
    expected = {}
    for row in range(height):
        for column in range(width):
            top, left = row - side // 2, column - side // 2
            mask = np.zeros((height, width), bool)
            mask[max(top, 0) : top + side, max(left, 0) : left + side] = True
            expected[mask.tobytes()] = mask
    assert found.keys() == expected.keys()
    assert len(expected) == height * width
    assert max(mask.sum() for mask in expected.values()) == side * side
    assert all(within(times, count, 1 / (height * width)) for times in found.values())


def test_cutout_larger_than_the_image_blanks_it():
    np.testing.assert_array_equal(cut_out(KEY, IMAGENET(noise(8)), 12), np.zeros((8, 6, 5, 3)))


SINGLE = {
    "flip": {"flip": True},
    "erasing": {"erasing": 0.5},
    "cutout": {"cutout": 4},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
}
BATCH = 16
IMAGES = noise(BATCH, 16, 12)
each_mode = pytest.mark.parametrize("mixing", ["batch", "example"])
ARGUMENTS = (IMAGES, np.arange(BATCH), np.arange(BATCH) % 5 != 1)  # images, labels, mask


def augment(names: str, mixing: str = "batch") -> DeviceAugment:
    options = {field: value for name in names.split() for field, value in SINGLE[name].items()}
    return DeviceAugment(BATCH, IMAGENET, mixing=mixing, **options)


def augmented(names: str, mixing: str = "batch", seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and label weights of one batch, in which every row has a class of its own.

    Not compiled as a whole: the programs, all alike in their parts, would take far longer to compile than to run.
    """
    return jax.device_get(augment(names, mixing)(jax.random.key(seed), *ARGUMENTS))


def test_no_augmentation_only_normalises():
    images, weights = augmented("")
    np.testing.assert_allclose(images, IMAGENET(IMAGES), atol=1e-6)
    np.testing.assert_array_equal(weights, np.eye(BATCH))


@each_mode
def test_each_draws_as_if_alone_and_in_its_turn(mixing):
    """What all make together follows from what each makes alone: flipped, erased, blanked, then mixed."""
    plain, expected = augmented("")[0], augmented("flip")[0]
    erased, cut, pasted = (changed(name, plain, mixing) for name in ("erasing", "cutout", "cutmix"))
    assert (erased & cut).any()
    expected = np.where(cut, 0, np.where(erased, augmented("erasing")[0], expected))
    blended_weights, pasted_weights = augmented("mixup", mixing)[1], augmented("cutmix", mixing)[1]
    share = np.diag(blended_weights)[:, None, None, None]
    blended_images = share * expected + (1 - share) * expected[::-1]
    pasted_images = np.where(pasted, expected[::-1], expected)
    images, weights = augmented(" ".join(SINGLE), mixing)
    blended = np.isclose(weights, blended_weights, atol=1e-6).all(1)
    assert (len(set(blended)) == 2) == (mixing == "example")
    np.testing.assert_allclose(images, np.where(blended[:, None, None, None], blended_images, pasted_images), atol=1e-5)
    np.testing.assert_allclose(weights, np.where(blended[:, None], blended_weights, pasted_weights), atol=1e-6)


def changed(name: str, plain: np.ndarray, mixing: str) -> np.ndarray:
    """Returns `[batch, h, w, 1]`: which pixels one augmentation alone changes by more than rounding."""
    return (np.abs(augmented(name, mixing)[0] - plain) > 1e-5).any(-1, keepdims=True)


@pytest.mark.parametrize("names", SINGLE)
def test_pure_in_the_key(names):
    first, other, again = (augmented(names, seed=seed)[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@each_mode
def test_same_however_the_batch_is_split(mixing):
    """Jitted over eight devices, and on one."""
    names = " ".join(SINGLE)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows, whole = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (["data"], []))
    split = jax.jit(augment(names, mixing), in_shardings=(whole, rows, rows, rows), out_shardings=rows)(KEY, *ARGUMENTS)
    assert len(split[0].sharding.device_set) == 8
    for one, eight in zip(augmented(names, mixing), split, strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-6, atol=1e-6)


def test_what_is_off_is_not_in_the_program():
    def draws(names: str) -> int:
        return str(jax.make_jaxpr(augment(names))(KEY, *ARGUMENTS)).count("random_fold_in")

    assert "random" not in str(jax.make_jaxpr(augment(""))(KEY, *ARGUMENTS))
    assert [draws(name) for name in SINGLE] == [1] * len(SINGLE)
    assert draws("flip erasing cutout mixup") == 4
    assert draws("mixup cutmix") == 3  # the third chooses
