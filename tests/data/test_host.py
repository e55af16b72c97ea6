"""Host transforms: crops, affine maps and the evaluation view of single images."""

import math

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.host import DRAWS, Affine, HostTransform, affine_jitter, inception_box, resized
from vit_jax.data.order import draws

MIDDLE = np.full(DRAWS, 0.5)
AREA, ASPECT = (0.05, 1.0), (3 / 4, 4 / 3)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Returns a picture without sharp edges, which interpolation leaves nearly as it is."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5) + np.cos(y / 7), np.cos(x / 9) - np.sin(y / 4), np.sin((x + y) / 8)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


def random_draws(count: int) -> np.ndarray:
    return draws(0, np.zeros(count, np.int64), np.arange(count), DRAWS)


# Whole transforms.


@pytest.mark.parametrize("crop", ["none", "pad", "random", "inception"])
@pytest.mark.parametrize("shape", [(8, 8), (12, 9), (5, 31), (1, 1)])
def test_every_crop_gives_uint8_of_the_size(crop, shape):
    transform = HostTransform((8, 6), crop=crop, pad=2, affine=Affine(10, 0.1, 5, 0.1), resize=9)
    views = [transform.train(noise(*shape), uniform) for uniform in random_draws(5)]
    for view in [*views, transform.evaluate(noise(*shape))]:
        assert view.shape == (8, 6, 3)
        assert view.dtype == np.uint8


def test_nothing_to_do_changes_nothing():
    image = noise(8, 6)
    np.testing.assert_array_equal(HostTransform((8, 6)).train(image, MIDDLE), image)
    np.testing.assert_array_equal(HostTransform((8, 6)).evaluate(image), image)
    np.testing.assert_array_equal(HostTransform((8, 6), resize=6).evaluate(image), image)
    np.testing.assert_array_equal(HostTransform((8, 6), crop="pad", pad=0).train(image, MIDDLE), image)
    whole = HostTransform((8, 6), crop="inception", area=(1, 1), aspect=(6 / 8, 6 / 8))
    np.testing.assert_array_equal(whole.train(image, MIDDLE), image)


@pytest.mark.parametrize("crop", ["pad", "random", "inception"])
def test_evaluation_crops_nothing_at_random(crop):
    image = noise(10, 14)
    np.testing.assert_array_equal(
        HostTransform((8, 6), crop=crop, affine=Affine(30)).evaluate(image), HostTransform((8, 6)).evaluate(image)
    )


def test_train_is_pure_and_leaves_its_input_alone():
    image = noise(10, 14)
    transform = HostTransform((8, 6), crop="inception", affine=Affine(20, 0.2, 10, 0.1))
    first, second, third = (transform.train(image, uniform) for uniform in random_draws(2)[[0, 1, 0]])
    np.testing.assert_array_equal(first, third)
    assert (first != second).any()
    np.testing.assert_array_equal(image, noise(10, 14))


def test_crop_and_affine_map_have_numbers_of_their_own():
    image, (a, b) = noise(10, 14), random_draws(2)
    both = np.concatenate([a[:-5], b[-5:]])
    for crop in ("pad", "random", "inception"):
        transform = HostTransform((8, 6), crop=crop)
        np.testing.assert_array_equal(transform.train(image, both), transform.train(image, a))
    transform = HostTransform((8, 6), affine=Affine(20, 0.2, 10, 0.1))
    np.testing.assert_array_equal(transform.train(image, both), transform.train(image, b))


@pytest.mark.parametrize("choice", [{"crop": "center"}, {"interpolation": "lanczos"}])
def test_unknown_choices_are_refused(choice):
    with pytest.raises(ValueError, match=r"must be .*not"):
        HostTransform((8, 8), **choice)


# Shifted windows.


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
    places = windows(resized(image, (10, 8), "bilinear"), (8, 6))
    reached = {places[transform.train(image, uniform).tobytes()] for uniform in random_draws(200)}
    assert reached == {(y, x) for y in range(3) for x in range(3)}


# Inception crops.


def test_inception_boxes_keep_to_their_ranges():
    height, width = 150, 200
    boxes = np.array([inception_box((height, width), AREA, ASPECT, uniform) for uniform in random_draws(2000)])
    left, top, right, bottom = boxes.T
    w, h = right - left, bottom - top
    assert (boxes >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    assert (w * h >= AREA[0] * height * width - (w + h)).all()  # up to the rounding of the sides
    assert ((w + 0.5) / (h - 0.5) >= ASPECT[0]).all()
    assert ((w - 0.5) / (h + 0.5) <= ASPECT[1]).all()


def test_inception_boxes_fill_their_ranges():
    shape, wide = (1000, 1000), (0.25, 0.5)
    boxes = np.array([inception_box(shape, wide, ASPECT, uniform) for uniform in random_draws(2000)])
    left, top, right, bottom = boxes.T
    share, aspect = (right - left) * (bottom - top) / 1e6, np.log((right - left) / (bottom - top))
    limit = math.log(ASPECT[1])
    for values, low, high in ((share, *wide), (aspect, -limit, limit)):
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
        assert abs(values.std() - (high - low) / math.sqrt(12)) < 0.03 * (high - low)
    down, right_by = top / (1000 - (bottom - top)), left / (1000 - (right - left))
    assert abs(np.corrcoef(down, right_by)[0, 1]) < 0.1
    assert top.min() == left.min() == 0
    assert 995 <= bottom.max() <= 1000
    assert 995 <= right.max() <= 1000


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (1, 50), (50, 1), (1, 1), (3, 7)])
def test_no_fit_falls_back_to_a_legal_centred_box(shape):
    height, width = shape
    for uniform in random_draws(20):
        left, top, right, bottom = inception_box(shape, (1.0, 1.0), (1.0, 1.0), uniform)
        side = min(shape)
        assert (right - left, bottom - top) == (side, side)
        assert abs(left + right - width) <= 1
        assert abs(top + bottom - height) <= 1
        assert min(left, top) >= 0
        assert right <= width
        assert bottom <= height


def test_panorama_keeps_the_widest_aspect_that_is_allowed():
    left, top, right, bottom = inception_box((30, 1000), (1.0, 1.0), ASPECT, MIDDLE)
    assert (top, bottom) == (0, 30)
    assert right - left == 40


def test_inception_crop_shows_its_box():
    image, uniform = smooth(60, 80), random_draws(1)[0]
    left, top, right, bottom = inception_box((60, 80), AREA, ASPECT, uniform)
    view = HostTransform((bottom - top, right - left), crop="inception").train(image, uniform)
    np.testing.assert_array_equal(view, image[top:bottom, left:right])


# Affine maps.


def mapped(image: np.ndarray, bounds: Affine, **extremes: float) -> np.ndarray:
    """Returns the map of which the named parts are at that share (-1 to 1) of their bounds, the others at zero."""
    names = ("rotation", "scale", "shear", "shift_x", "shift_y")
    return affine_jitter(image, bounds, np.array([(extremes.get(name, 0) + 1) / 2 for name in names]))


def test_affine_of_zero_is_the_identity():
    image, ends = noise(8, 6), dict.fromkeys(("rotation", "scale", "shear", "shift_x", "shift_y"), 1)
    assert Affine().is_identity
    np.testing.assert_array_equal(mapped(image, Affine(), **ends), image)
    np.testing.assert_array_equal(mapped(image, Affine(20, 0.5, 10, 0.2)), image)


@pytest.mark.parametrize("bound", ["rotation", "scale", "shear", "shift"])
def test_each_bound_alone_moves_pixels(bound):
    bounds = Affine(**{bound: 0.4})
    assert not bounds.is_identity
    transform = HostTransform((32, 32), affine=bounds)
    assert (transform.train(noise(32, 32), np.ones(DRAWS)) != noise(32, 32)).any()


@pytest.mark.parametrize("sign", [-1, 1])
def test_shift_moves_by_a_share_of_the_side(sign):
    image = noise(8, 6)
    np.testing.assert_array_equal(
        mapped(image, Affine(shift=0.5), shift_x=sign * 2 / 3, shift_y=sign * 0.5),
        shifted(image, sign * 2, sign * 2),
    )


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Returns the image moved by whole pixels, black where nothing comes in."""
    height, width = image.shape[:2]
    bordered = np.pad(image, ((height, height), (width, width), (0, 0)))
    return bordered[height - down : 2 * height - down, width - right : 2 * width - right]


def test_quarter_and_half_turns():
    image = noise(8, 8)
    quarter = mapped(image, Affine(rotation=90), rotation=1)
    assert any(np.abs(quarter.astype(int) - np.rot90(image, turn)).max() <= 1 for turn in (1, 3))
    back = mapped(quarter, Affine(rotation=90), rotation=-1)
    assert np.abs(back.astype(int) - image).max() <= 2
    half = mapped(image, Affine(rotation=180), rotation=1)
    assert np.abs(half.astype(int) - image[::-1, ::-1]).max() <= 1


@pytest.mark.parametrize(("share", "side"), [(0, 8), (1, 12), (-1, 4)])
def test_scale_grows_a_centred_square(share, side):
    image = np.zeros((24, 24, 3), np.uint8)
    image[8:16, 8:16] = 255
    square = mapped(image, Affine(scale=0.5), scale=share)[..., 0] > 127
    rows, columns = np.nonzero(square)
    assert square.sum() == side**2
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (23, 23)


def test_shear_slides_rows_in_proportion_to_their_height():
    image = np.zeros((21, 41, 3), np.uint8)
    image[:, 20] = 255
    slanted = mapped(image, Affine(shear=45), shear=1)[..., 0]
    offsets = slanted.argmax(1) - 20
    assert np.abs(offsets * np.sign(offsets[0]) - np.arange(10, -11, -1)).max() <= 1


# Evaluation.


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "grown", "box"),
    [
        ((40, 60), (32, 48), (12, 4, 36, 28)),
        ((60, 40), (48, 32), (4, 12, 28, 36)),
        ((20, 20), (32, 32), (4, 4, 28, 28)),
    ],
)
def test_evaluation_resizes_the_short_side_and_crops_the_centre(shape, grown, box, interpolation):
    image = noise(*shape)
    view = HostTransform((24, 24), resize=32, interpolation=interpolation).evaluate(image)
    method = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(Image.fromarray(image).resize(grown[::-1], method).crop(box))
    assert np.abs(view.astype(int) - expected).max() <= 1


def test_evaluation_without_resize_squashes_the_whole_image():
    image = noise(40, 60)
    view = HostTransform((24, 16)).evaluate(image)
    expected = np.asarray(Image.fromarray(image).resize((16, 24), Image.Resampling.BILINEAR))
    assert np.abs(view.astype(int) - expected).max() <= 1


def test_evaluation_view_is_centred():
    image, transform = smooth(32, 48), HostTransform((24, 24), resize=28)
    there, mirrored = transform.evaluate(image), transform.evaluate(image[::-1, ::-1])[::-1, ::-1]
    assert np.abs(there.astype(int) - mirrored).max() <= 1


def test_shrinking_antialiases():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for interpolation in ("bilinear", "bicubic"):
        view = resized(stripes, (8, 8), interpolation)[1:-1, 1:-1]
        assert np.abs(view.astype(int) - 127).max() <= 8
