"""Host transforms: training views by crop, affine map, policy and jitter, alike from files and pixels."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vit_jax.data import crops
from vit_jax.data.decode import UnreadableImage
from vit_jax.data.host import CROPS, Affine, HostTransform
from vit_jax.data.order import draws
from vit_jax.data.policy import POLICIES, ColorJitter, Policy
from vit_jax.data.resize import resized

DRAWS = HostTransform((8, 6)).draws
MIDDLE = np.full(DRAWS, 0.5)
WARPED = Affine(20, 0.2, 10, 0.1)
EVERYTHING = {"affine": WARPED, "policy": Policy("rand_augment", layers=2), "jitter": ColorJitter(0.4)}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, scale: float = 1) -> np.ndarray:
    """Returns a picture without sharp edges, which interpolation leaves nearly as it is."""
    y, x = np.mgrid[:height, :width] / scale
    waves = [np.sin(x / 5) + np.cos(y / 7), np.cos(x / 9) - np.sin(y / 4), np.sin((x + y) / 8)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


def random_draws(count: int, transform: HostTransform | None = None) -> np.ndarray:
    return draws(0, np.zeros(count, np.int64), np.arange(count), transform.draws if transform else DRAWS)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def jpeg(image: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(image, 95, "RGB", "420")


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(8, 8), (12, 9), (5, 31), (1, 1)])
@pytest.mark.parametrize("antialias", [True, False])
def test_every_crop_gives_uint8_of_the_size(crop, shape, antialias):
    transform = HostTransform((8, 6), crop=crop, pad=2, resize=9, antialias=antialias, **EVERYTHING)
    for file in (noise(*shape), png(noise(*shape)), jpeg(noise(*shape))):
        views = [transform.train(file, uniform) for uniform in random_draws(5, transform)]
        for view in [*views, transform.evaluate(file)]:
            assert view.shape == (8, 6, 3)
            assert view.dtype == np.uint8


def test_nothing_to_do_changes_nothing():
    image = noise(8, 6)
    np.testing.assert_array_equal(HostTransform((8, 6)).train(image, MIDDLE), image)
    np.testing.assert_array_equal(HostTransform((8, 6)).evaluate(image), image)
    np.testing.assert_array_equal(HostTransform((8, 6), resize=6).evaluate(image), image)
    np.testing.assert_array_equal(HostTransform((8, 6), crop="pad", pad=0).train(image, MIDDLE), image)
    for crop in ("inception", "random_resized"):
        whole = HostTransform((8, 6), crop=crop, area=(1, 1), aspect=(6 / 8, 6 / 8))
        np.testing.assert_array_equal(whole.train(image, MIDDLE), image)


@pytest.mark.parametrize("crop", CROPS)
def test_evaluation_does_nothing_at_random(crop):
    image = noise(10, 14)
    np.testing.assert_array_equal(
        HostTransform((8, 6), crop=crop, **EVERYTHING).evaluate(image), HostTransform((8, 6)).evaluate(image)
    )


def test_center_crop_is_the_view_of_evaluation():
    image = noise(40, 60)
    for resize in (None, 32):
        transform = HostTransform((24, 24), crop="center", resize=resize)
        for uniform in random_draws(3):
            np.testing.assert_array_equal(transform.train(image, uniform), transform.evaluate(image))


def test_train_is_pure_and_leaves_its_input_alone():
    image = noise(10, 14)
    for crop in CROPS:
        transform = HostTransform((8, 6), crop=crop, **EVERYTHING)
        first, second, third = (transform.train(image, uniform) for uniform in random_draws(2, transform)[[0, 1, 0]])
        np.testing.assert_array_equal(first, third)
        assert (first != second).any()
        np.testing.assert_array_equal(image, noise(10, 14))


@pytest.mark.parametrize("crop", ["pad", "random", "inception", "random_resized"])
@pytest.mark.parametrize("policy", ["rand_augment", "rand_augment_timm", "auto_augment", "three_augment"])
def test_parts_follow_the_crop_each_with_numbers_of_its_own(crop, policy):
    image = noise(10, 14)
    plain = HostTransform((8, 6), crop=crop)
    affine, policy, jitter = WARPED, Policy(policy, layers=3), ColorJitter(0.4)
    full = HostTransform((8, 6), crop=crop, affine=affine, policy=policy, jitter=jitter)
    assert full.draws == crops.DRAWS + affine.draws + policy.draws + jitter.draws
    for uniform in random_draws(10, full):
        of_affine, of_policy, of_jitter = np.split(uniform[crops.DRAWS :], np.cumsum([affine.draws, policy.draws]))
        expected = jitter(policy(affine(plain.train(image, uniform[:DRAWS]), of_affine), of_policy), of_jitter)
        np.testing.assert_array_equal(full.train(image, uniform), expected)


@pytest.mark.parametrize("part", EVERYTHING)
def test_a_part_that_is_switched_on_leaves_the_crop(part):
    image = smooth(40, 60)
    plain = HostTransform((16, 12), crop="random_resized")
    full = HostTransform((16, 12), crop="random_resized", **{part: EVERYTHING[part]})
    here, there = random_draws(10, plain), random_draws(10, full)
    np.testing.assert_array_equal(here[:, : crops.DRAWS], there[:, : crops.DRAWS])
    changed = 0
    for ours, theirs in zip(here, there, strict=True):
        view, own = plain.train(image, ours), theirs[-EVERYTHING[part].draws :]
        np.testing.assert_array_equal(full.train(image, theirs), EVERYTHING[part](view, own))
        changed += (full.train(image, theirs) != view).any()
    assert changed >= 8


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_after_a_crop(policy):
    transform = HostTransform((8, 6), crop="random_resized", policy=Policy(policy))
    views = [transform.train(noise(10, 14), uniform) for uniform in random_draws(20, transform)]
    assert {(view.shape, view.dtype) for view in views} == {((8, 6, 3), np.dtype(np.uint8))}


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("crop", CROPS)
def test_file_and_pixels_give_the_same_view(crop, antialias):
    image = noise(45, 61)
    # No crop of 45 rows has twice 31: nothing is shrunk while it is decoded.
    transform = HostTransform((31, 33), crop=crop, area=(0.3, 1.0), antialias=antialias, **EVERYTHING)
    stored = simplejpeg.decode_jpeg(jpeg(image), "RGB")
    for uniform in random_draws(10, transform):
        np.testing.assert_array_equal(transform.train(png(image), uniform), transform.train(image, uniform))
        np.testing.assert_array_equal(transform.train(jpeg(image), uniform), transform.train(stored, uniform))
    np.testing.assert_array_equal(transform.evaluate(png(image)), transform.evaluate(image))
    np.testing.assert_array_equal(transform.evaluate(jpeg(image)), transform.evaluate(stored))


@pytest.mark.parametrize("crop", ["none", "center", "random", "inception", "random_resized"])
def test_shrinking_while_decoding_gives_nearly_the_same_view(crop):
    image = smooth(480, 640, scale=6)
    transform = HostTransform((24, 24), crop=crop, area=(0.3, 1.0), resize=24)
    for uniform in random_draws(5):
        seen, expected = (transform.train(given, uniform).astype(int) for given in (jpeg(image), image))
        assert np.abs(seen - expected).mean() < 2
    assert (seen != expected).any()


@pytest.mark.parametrize("file", [b"", b"text", jpeg(noise(64, 64))[:2000], png(noise(64, 64))[:2000]])
def test_files_that_cannot_be_read(file):
    for look in (lambda: HostTransform((8, 6)).evaluate(file), lambda: HostTransform((8, 6)).train(file, MIDDLE)):
        with pytest.raises(UnreadableImage):
            look()


@pytest.mark.parametrize(("crop", "pad"), [("none", 4), ("pad", 0), ("pad", 2)])
def test_train_batch_is_train_image_by_image(crop, pad):
    images = np.stack([noise(8, 6) // (1 + k) for k in range(5)])
    rows, transform = np.array([4, 0, 0, 3, 1, 4]), HostTransform((8, 6), crop=crop, pad=pad)
    uniform = random_draws(len(rows))
    assert transform.only_moves_pixels
    batch = transform.train_batch(images, rows, uniform)
    assert not np.shares_memory(batch, images)
    np.testing.assert_array_equal(
        batch, [transform.train(images[row], numbers) for row, numbers in zip(rows, uniform, strict=True)]
    )


@pytest.mark.parametrize("crop", CROPS)
def test_what_only_moves_pixels(crop):
    assert HostTransform((8, 6), crop=crop).only_moves_pixels == (crop in ("none", "pad"))
    for name, part in EVERYTHING.items():
        assert not HostTransform((8, 6), crop=crop, **{name: part}).only_moves_pixels


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"crop": "centre"}, r"augment\.crop must be one of none, center, .*, not 'centre'"),
        ({"interpolation": "area"}, r"data\.interpolation must be one of nearest, .*, not 'area'"),
        ({"resize": 7}, r"data\.resize 7 is less than the image size 8x8"),
    ],
)
def test_unknown_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        HostTransform((8, 8), **choice)


def windows(image: np.ndarray, size: tuple[int, int]) -> dict[bytes, tuple[int, int]]:
    """Returns the place of every window of a size, by its content."""
    places = [(y, x) for y in range(image.shape[0] - size[0] + 1) for x in range(image.shape[1] - size[1] + 1)]
    return {image[y : y + size[0], x : x + size[1]].tobytes(): (y, x) for y, x in places}


def test_pad_crop_is_a_shifted_window_and_reaches_every_place():
    image, pad = noise(5, 4), 2
    places = windows(np.pad(image, ((pad, pad), (pad, pad), (0, 0))), (5, 4))
    transform = HostTransform((5, 4), crop="pad", pad=pad)
    reached = [places[transform.train(image, uniform).tobytes()] for uniform in random_draws(1000)]
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(np.transpose(reached)), 1)
    assert counts.min() > 20  # each place has 1000/25 = 40 on average
    assert counts.max() < 65


def test_pad_crop_reaches_the_corners_and_no_further():
    image, transform = noise(5, 4), HostTransform((5, 4), crop="pad", pad=2)
    first, last = transform.train(image, np.zeros(DRAWS)), transform.train(image, np.full(DRAWS, np.nextafter(1, 0)))
    np.testing.assert_array_equal(first[2:, 2:], image[:-2, :-2])
    np.testing.assert_array_equal(last[:-2, :-2], image[2:, 2:])
    assert not first[:2].any()
    assert not last[-2:].any()


def test_random_crop_is_a_window_of_the_grown_image():
    image = noise(20, 10)
    transform = HostTransform((8, 6), crop="random", pad=1)
    places = windows(resized(image, (10, 8)), (8, 6))
    reached = {places[transform.train(image, uniform).tobytes()] for uniform in random_draws(200)}
    assert reached == {(y, x) for y in range(3) for x in range(3)}


@pytest.mark.parametrize(
    ("crop", "draw"), [("inception", crops.inception_box), ("random_resized", crops.random_resized_box)]
)
def test_crop_shows_its_box(crop, draw):
    image, area, aspect = smooth(60, 80), (0.1, 0.5), (0.6, 1.5)
    for uniform in random_draws(5):
        left, top, right, bottom = draw((60, 80), area, aspect, uniform)
        transform = HostTransform((bottom - top, right - left), crop=crop, area=area, aspect=aspect)
        np.testing.assert_array_equal(transform.train(image, uniform), image[top:bottom, left:right])
