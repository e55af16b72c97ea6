import cv2
import numpy as np
import pytest
from PIL import Image

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def levels_apart(a, b) -> int:
    """Returns the largest difference in grey levels."""
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b).max()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_short_side_is_resized_and_the_centre_cropped(interpolation):
    view = Preprocessing((16, 24), resize=32, interpolation=interpolation).transform().evaluate(PICTURE)
    method = getattr(Image.Resampling, interpolation.upper())
    expected = Image.fromarray(PICTURE).resize((48, 32), method).crop((12, 8, 36, 24))
    assert view.dtype == np.uint8
    assert levels_apart(view, np.asarray(expected)) <= 1


def test_without_resize_the_whole_image_is_squashed():
    view = Preprocessing((24, 16)).transform().evaluate(PICTURE)
    expected = Image.fromarray(PICTURE).resize((16, 24), Image.Resampling.BILINEAR)
    assert levels_apart(view, np.asarray(expected)) <= 1


def test_without_antialias_the_filter_keeps_its_support():
    """Every second pixel in both directions: bilinear between the four nearest is their mean."""
    view = Preprocessing((20, 30), antialias=False).transform().evaluate(PICTURE)
    expected = PICTURE.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert levels_apart(view, np.round(expected).astype(int)) <= 1
    assert levels_apart(Preprocessing((20, 30)).transform().evaluate(PICTURE), np.round(expected).astype(int)) > 10


def test_bicubic_without_antialias_is_opencvs():
    view = Preprocessing((10, 15), interpolation="bicubic", antialias=False).transform().evaluate(PICTURE)
    np.testing.assert_array_equal(view, cv2.resize(PICTURE, (15, 10), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize("shape", [(3,), (4, 5, 3), (2, 4, 5, 3)])
def test_normalised_is_pixel_less_mean_over_std(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    x = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD).normalised(pixels)
    assert x.dtype == np.float32
    expected = (pixels.astype(np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_default_is_from_minus_one_to_one():
    pixels = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(Preprocessing().normalised(pixels), [[-1, -1, -1], [1, 1, 1]])


def test_channels_are_red_green_blue():
    x = Preprocessing(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25)).normalised(np.full((1, 1, 3), 255, np.uint8))
    np.testing.assert_array_equal(x[0, 0], [1, 1, 0])


@pytest.mark.parametrize(
    ("size", "resize", "other", "expected"),
    [
        ((224, 224), 256, (384, 384), 439),
        ((224, 224), 256, (112, 112), 128),
        ((224, 224), 256, (448, 336), 384),
        ((32, 64), 40, (64, 32), 40),
        ((224, 224), None, (384, 384), None),
    ],
)
def test_at_size_keeps_the_share_of_the_image_that_is_seen(size, resize, other, expected):
    seen = Preprocessing(size, resize, "bicubic", False, IMAGENET_MEAN, IMAGENET_STD)
    moved = seen.at_size(other)
    assert moved == Preprocessing(other, expected, "bicubic", False, IMAGENET_MEAN, IMAGENET_STD)
    assert seen == Preprocessing(size, resize, "bicubic", False, IMAGENET_MEAN, IMAGENET_STD)
    assert seen.at_size(size) == seen


def test_at_size_sees_the_same_part_of_a_picture():
    """A bright square that fills the view of one size fills that of twice the size."""
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[10:70, 10:70] = 255
    seen = Preprocessing((24, 24), 32, "nearest")
    for view in (seen, seen.at_size((48, 48)), seen.at_size((12, 12))):
        assert (view.transform().evaluate(picture) == 255).all()
    assert not (Preprocessing((48, 48), 50, "nearest").transform().evaluate(picture) == 255).all()


def test_every_size_that_at_size_makes_is_one_that_can_be_cropped():
    for resize in (224, 225, 248, 256):
        for side in range(1, 600, 7):
            view = Preprocessing((224, 224), resize).at_size((side, side + 5))
            assert view.transform().size == (side, side + 5)
            assert view.resize >= side


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="resize 20 is less than the image size 24x24"):
        Preprocessing((24, 24), resize=20).transform()
    with pytest.raises(ValueError, match=r"interpolation must be one of .*bicubic.*, not 'cubic'"):
        Preprocessing(interpolation="cubic").transform()


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, "x", 0.5)},
        {"mean": (float("nan"), 0.5, 0.5)},
        {"mean": ((0.5,), 0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
        {"std": (1e300, 0.5, 0.5)},
        {"size": (0, 8)},
        {"size": (8, -8)},
        {"size": (8,)},
        {"size": (8.0, 8)},
        {"size": (10**12, 8)},
    ],
)
def test_values_that_no_image_has_are_refused(fields):
    with pytest.raises(UserError, match="must be"):
        Preprocessing(**fields)
