"""Resizing: Pillow's filters exactly, or OpenCV's of fixed support; boxes, and sizes as torchvision rounds them."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.resize import ANTIALIASED, PLAIN, centre_cropped, grown_to, resized

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
SIZES = [(7, 5), (20, 31), (45, 60), (1, 1), (20, 5), (3, 90)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_filter_has_both_kinds():
    assert tuple(ANTIALIASED) == tuple(PLAIN) == FILTERS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_antialiased_is_what_pillow_does(interpolation, size):
    image = noise(20, 31)
    method = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], method))
    found = resized(image, size, interpolation)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def linear(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Returns the image with one side of another size, linear between the two nearest centres of pixels."""
    image = np.moveaxis(image, axis, 0)
    place = np.clip((np.arange(size) + 0.5) * len(image) / size - 0.5, 0, len(image) - 1)
    before = np.floor(place).astype(int)
    after, share = np.minimum(before + 1, len(image) - 1), (place - before).reshape(-1, 1, 1)
    return np.moveaxis((1 - share) * image[before] + share * image[after], 0, axis)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(20, 31), (2, 2), (1, 9)])
def test_plain_bilinear_takes_the_two_nearest_centres(shape, size):
    image = noise(*shape)
    expected = linear(linear(image.astype(float), size[0], 0), size[1], 1)
    assert np.abs(resized(image, size, "bilinear", antialias=False) - expected).max() <= 1


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(10, 14), (3, 4), (20, 14), (7, 9), (1, 1), (33, 50), (5, 28)])
def test_nearest_takes_the_pixel_at_the_centre(size, antialias):
    image = noise(10, 14)
    rows, columns = (
        np.floor((np.arange(want) + 0.5) * have / want).astype(int)
        for want, have in zip(size, image.shape, strict=False)
    )
    np.testing.assert_array_equal(resized(image, size, "nearest", antialias), image[rows][:, columns])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_antialiasing_averages_what_plain_filters_skip(interpolation):
    stripes = np.zeros((63, 63, 3), np.uint8)
    stripes[:, ::2] = 255
    averaged = resized(stripes, (9, 9), interpolation)[:, 1:-1]
    assert np.abs(averaged.astype(int) - 127).max() <= 40
    sampled = resized(stripes, (9, 9), interpolation, antialias=False)[:, 1:-1]
    assert np.isin(sampled, (0, 255)).all()  # centres of the new pixels are centres of old ones


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("box", [(3, 4, 20, 15), (0, 0, 31, 20), (30, 19, 31, 20), (3.0, 4.0, 20.0, 15.0)])
def test_box_of_whole_pixels_is_a_slice(box, interpolation, antialias):
    image = noise(20, 31)
    left, top, right, bottom = map(int, box)
    for size in [(7, 9), (40, 30), (11, 17), (20, 31), (1, 1)]:
        np.testing.assert_array_equal(
            resized(image, size, interpolation, antialias, box),
            resized(image[top:bottom, left:right].copy(), size, interpolation, antialias),
        )


FRACTIONAL = [(3.5, 4.25, 20.125, 15.5), (0, 0.5, 31, 20), (0.25, 0, 0.75, 20), (28.5, 17.5, 31, 20)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("box", FRACTIONAL)
def test_fractional_box_is_what_pillow_does(box, interpolation):
    image = noise(20, 31)
    for size in [(7, 9), (40, 30), (20, 31)]:
        method = getattr(Image.Resampling, interpolation.upper())
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], method, box=box))
        np.testing.assert_array_equal(resized(image, size, interpolation, box=box), expected)
        assert (expected != resized(image, size, interpolation)).any()


@pytest.mark.parametrize("box", FRACTIONAL)
def test_fractional_box_without_antialias_is_widened_to_whole_pixels(box):
    image = noise(20, 31)
    top, bottom = int(np.floor(box[1])), int(np.ceil(box[3]))
    left, right = int(np.floor(box[0])), int(np.ceil(box[2]))
    np.testing.assert_array_equal(
        resized(image, (7, 9), "bilinear", False, box),
        resized(image[top:bottom, left:right].copy(), (7, 9), "bilinear", False),
    )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("box", [None, (0, 0, 31, 20), (2, 1, 9, 8), (2.5, 1, 9, 8)])
@pytest.mark.parametrize("size", [(20, 31), (7, 7), (40, 62)])
def test_result_has_memory_of_its_own(size, box, interpolation, antialias):
    image = noise(20, 31)
    found = resized(image, size, interpolation, antialias, box)
    assert found.shape == (*size, 3)
    assert not np.shares_memory(found, image)
    np.testing.assert_array_equal(image, noise(20, 31))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_equal_size_changes_nothing(interpolation, antialias):
    image = noise(20, 31)
    np.testing.assert_array_equal(resized(image, (20, 31), interpolation, antialias), image)
    inside = resized(image, (5, 6), interpolation, antialias, (4, 3, 10, 8))
    np.testing.assert_array_equal(inside, image[3:8, 4:10])


@pytest.mark.parametrize(
    ("shape", "short", "size", "expected"),
    [
        ((300, 400), 256, (224, 224), (256, 341)),  # 341.33
        ((400, 300), 256, (224, 224), (341, 256)),
        ((500, 333), 256, (224, 224), (384, 256)),  # 384.38
        ((375, 500), 248, (224, 224), (248, 330)),  # 330.67, cut
        ((3, 4), 8, (8, 8), (8, 10)),  # 10.67, cut
        ((257, 512), 256, (224, 224), (256, 510)),  # 510.007
        ((100, 100), 256, (224, 224), (256, 256)),
        ((1, 1000), 8, (8, 8), (8, 8000)),
        ((31, 31), 7, (7, 7), (7, 7)),
        ((300, 400), 224, (224, 448), (224, 448)),  # 298 columns would not do
        ((400, 300), 224, (448, 112), (448, 224)),
    ],
)
def test_short_side_is_exact_and_long_side_is_cut(shape, short, size, expected):
    assert grown_to(shape, short, size) == expected


def test_every_short_side_is_exact():
    for side in range(1, 700):
        assert grown_to((side, side + 300), 256, (1, 1))[0] == 256
        assert grown_to((side, side + 300), 256, (1, 1))[1] == 256 * (side + 300) // side


@pytest.mark.parametrize(
    ("shape", "size", "corner"),
    [
        ((8, 12), (4, 4), (2, 4)),
        ((5, 7), (4, 4), (0, 2)),  # halves go to the even side, as Python and torchvision round
        ((9, 7), (4, 6), (2, 0)),
        ((256, 341), (224, 224), (16, 58)),
        ((5, 7), (5, 7), (0, 0)),
        ((3, 3), (1, 2), (1, 0)),
    ],
)
def test_centre(shape, size, corner):
    places = np.stack(np.indices(shape), -1)
    cropped = centre_cropped(places, size)
    assert cropped.shape[:2] == size
    assert tuple(cropped[0, 0]) == corner
    assert tuple(cropped[-1, -1]) == (corner[0] + size[0] - 1, corner[1] + size[1] - 1)
