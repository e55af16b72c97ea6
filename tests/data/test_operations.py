"""Single image operations: hand-computed cases, agreement with Pillow, what holds for every one of them."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data import enhance, warp
from vit_jax.data.operations import (
    GOOGLE,
    SIGNED,
    TIMM,
    TORCHVISION,
    TRIVIAL_AUGMENT_RANGES,
    Google,
    Timm,
    auto_augment_ranges,
)

FILL = (1, 2, 3)
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(*rows: list[int]) -> np.ndarray:
    """Returns an image whose three channels all have these values."""
    return np.uint8(rows)[..., None].repeat(3, axis=2)


def channel(image: np.ndarray) -> list[list[int]]:
    """Returns the first channel, after checking that the other two are the same."""
    assert (image == image[..., :1]).all()
    return image[..., 0].tolist()


def every_operation():
    """Yields each operation at several strengths, as a function of the image alone."""
    for name, operation in GOOGLE.items():
        for share, signed in ((0.0, 0.0), (0.5, -0.5), (1.0, 1.0), (2.0, -2.0), (2.5, 2.5)):
            at = Google(share, signed, FILL, centre=(0.999, 0.0))
            yield pytest.param(lambda image, f=operation, at=at: f(image, at), id=f"google-{name}-{share}")
    for name, operation in TIMM.items():
        for share, signed, resample in ((0.0, 0.0, BILINEAR), (0.5, -0.5, BICUBIC), (1.0, 1.0, BILINEAR)):
            at = Timm(share, signed, FILL, resample)
            yield pytest.param(lambda image, f=operation, at=at: f(image, at), id=f"timm-{name}-{share}")
    for name, operation in TORCHVISION.items():
        for level in (0, 15, 30):
            magnitude = TRIVIAL_AUGMENT_RANGES.magnitude(name, level)
            yield pytest.param(lambda image, f=operation, m=magnitude: f(image, m, FILL), id=f"tv-{name}-{level}")


@pytest.mark.parametrize("operation", every_operation())
def test_uint8_of_the_same_shape_and_the_argument_as_it_was(operation):
    for shape in ((1, 1), (2, 7), (3, 3), (12, 9)):
        image = noise(*shape)
        image.setflags(write=False)
        result = operation(image)
        assert result.dtype == np.uint8
        assert result.shape == image.shape
        np.testing.assert_array_equal(image, noise(*shape))
        np.testing.assert_array_equal(operation(image), result)


@pytest.mark.parametrize("operation", every_operation())
def test_a_view_is_as_good_as_an_array(operation):
    view = noise(24, 9)[::2, ::-1]
    np.testing.assert_array_equal(operation(view), operation(view.copy()))


@pytest.mark.parametrize(
    ("name", "share"),
    [(name, 0.5) for name in ("Color", "Contrast", "Brightness", "Sharpness")]
    + [(name, 0.0) for name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd")]
    + [("Posterize", 2.0)],
)
def test_google_operations_that_do_nothing_at_one_level(name, share):
    image = noise(20, 30)
    np.testing.assert_array_equal(GOOGLE[name](image, Google(share, share, FILL)), image)
    assert (GOOGLE[name](image, Google(0.8, 0.8, FILL)) != image).any()


@pytest.mark.parametrize("name", sorted(set(TIMM) - {"AutoContrast", "Equalize", "Invert", "PosterizeIncreasing"}))
def test_increasing_operations_do_nothing_at_level_zero(name):
    image = noise(20, 30)
    np.testing.assert_array_equal(TIMM[name](image, Timm(0.0, 0.0, FILL, BILINEAR)), image)
    assert (TIMM[name](image, Timm(0.8, 0.8, FILL, BILINEAR)) != image).any()


@pytest.mark.parametrize("name", sorted({*SIGNED, "Identity", "Posterize"}))
def test_torchvision_operations_do_nothing_at_level_zero(name):
    image = noise(40, 50)
    np.testing.assert_array_equal(TORCHVISION[name](image, TRIVIAL_AUGMENT_RANGES.magnitude(name, 0), FILL), image)
    changed = TORCHVISION[name](image, TRIVIAL_AUGMENT_RANGES.magnitude(name, 20), FILL) != image
    assert changed.any() == (name != "Identity")


@pytest.mark.parametrize(
    "image", [noise(40, 50), noise(40, 50) // 3 + 40, RAMP, grey([7] * 9), noise(1, 1), noise(2, 9)]
)
def test_colours_as_pillow(image):
    picture = Image.fromarray(image)
    np.testing.assert_array_equal(enhance.autocontrast(image), ImageOps.autocontrast(picture))
    np.testing.assert_array_equal(enhance.equalize(image), ImageOps.equalize(picture))
    np.testing.assert_array_equal(enhance.invert(image), ImageOps.invert(picture))
    np.testing.assert_array_equal(enhance.grayscale(image), picture.convert("L").convert("RGB"))
    for threshold in (0, 1, 100, 127.5, 255, 256):
        np.testing.assert_array_equal(enhance.solarize(image, threshold), ImageOps.solarize(picture, threshold))
    for bits in range(1, 9):
        np.testing.assert_array_equal(enhance.posterize(image, bits), ImageOps.posterize(picture, bits))
    for factor in (0, 0.1, 0.55, 0.99, 1, 1.3, 1.9, 3.7):
        np.testing.assert_array_equal(
            enhance.brightness(image, factor), ImageEnhance.Brightness(picture).enhance(factor)
        )
        np.testing.assert_array_equal(enhance.contrast(image, factor), ImageEnhance.Contrast(picture).enhance(factor))
        np.testing.assert_array_equal(enhance.color(image, factor), ImageEnhance.Color(picture).enhance(factor))
        np.testing.assert_array_equal(enhance.sharpness(image, factor), ImageEnhance.Sharpness(picture).enhance(factor))


def test_a_blend_is_truncated_and_clipped():
    first, second = np.uint8([10, 13, 100, 200, 60]), np.uint8([13, 10, 200, 100, 60])
    assert enhance.blend(first, second, 0.5).tolist() == [11, 11, 150, 150, 60]
    assert enhance.blend(first, second, 1.9).tolist() == [15, 7, 255, 10, 60]
    assert enhance.blend(first, second, 3.7).tolist() == [21, 1, 255, 0, 60]
    np.testing.assert_array_equal(enhance.blend(first, second, 0.0), first)
    np.testing.assert_array_equal(enhance.blend(first, second, 1.0), second)


def test_google_posterize_keeps_one_bit_where_none_or_too_many_are_asked_for():
    values = grey([0, 100, 127, 128, 171, 255])
    assert channel(enhance.google_posterize(values, 4)) == [[0, 96, 112, 128, 160, 240]]
    np.testing.assert_array_equal(enhance.google_posterize(values, 8), values)
    for bits in (0, 1, 9, 10):
        assert channel(enhance.google_posterize(values, bits)) == [[0, 0, 0, 128, 128, 128]]
    assert not enhance.posterize(values, 0).any()


def test_google_solarize_takes_the_threshold_modulo_256():
    values = grey([0, 99, 100, 127, 128, 255])
    assert channel(enhance.google_solarize(values, 100)) == [[0, 99, 155, 128, 127, 0]]
    np.testing.assert_array_equal(enhance.google_solarize(values, 256), 255 - values)
    assert channel(enhance.google_solarize(values, 384)) == [[0, 99, 100, 127, 127, 0]]
    np.testing.assert_array_equal(enhance.solarize(values, 256), values)


def test_solarize_add_spares_the_bright_half():
    values = grey([0, 20, 127, 128, 255])
    assert channel(enhance.solarize_add(values, 110)) == [[110, 130, 237, 128, 255]]
    assert channel(enhance.solarize_add(values, 165)) == [[165, 185, 255, 128, 255]]
    assert channel(enhance.solarize_add(values, 2750)) == [[255, 255, 255, 128, 255]]


def test_greys_of_the_pure_colours():
    colours = np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]])
    # 255.5 times 0.2989, 0.587, 0.114 and 0.9999: 76.37, 149.98, 29.13 and 255.47.
    assert channel(enhance.google_grayscale(colours)) == [[76, 149, 29, 255, 0]]
    assert channel(enhance.grayscale(colours)) == [[76, 150, 29, 255, 0]]


def test_google_color_blends_with_its_grey():
    red = np.uint8([[[255, 0, 0]]])
    assert enhance.google_color(red, 0.1).tolist() == [[[93, 68, 68]]]  # 76 + 0.1 * 179 = 93.9, 76 - 7.6 = 68.4
    assert enhance.google_color(red, 1.9).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("height", "width", "mean"), [(15, 17, 0), (16, 16, 1), (32, 32, 4), (224, 224, 196), (300, 300, 255)]
)
def test_google_contrast_takes_the_number_of_pixels_for_their_mean(height, width, mean):
    image = np.full((height, width, 3), 100, np.uint8)
    np.testing.assert_array_equal(enhance.google_contrast(image, 0.0), np.full_like(image, mean))
    halfway = int(mean + 0.5 * (100 - mean))
    np.testing.assert_array_equal(enhance.google_contrast(image, 0.5), np.full_like(image, halfway))
    np.testing.assert_array_equal(enhance.contrast(image, 0.5), image)


def test_sharpness_smooths_the_inside_alone():
    image = grey([0, 0, 0, 0], [0, 101, 0, 0], [0, 0, 0, 0])
    # 5/13 of 101 is 38.8, 1/13 of it 7.8.
    assert channel(enhance.google_sharpness(image, 0)) == [[0, 0, 0, 0], [0, 38, 7, 0], [0, 0, 0, 0]]
    assert channel(enhance.sharpness(image, 0)) == [[0, 0, 0, 0], [0, 39, 8, 0], [0, 0, 0, 0]]
    assert channel(enhance.google_sharpness(image, 1.9)) == [[0, 0, 0, 0], [0, 157, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(enhance.google_sharpness(noise(2, 5), 0), noise(2, 5))
    white = np.full((5, 5, 3), 255, np.uint8)
    np.testing.assert_array_equal(enhance.google_sharpness(white, 0), white)


@pytest.mark.parametrize("autocontrast", [enhance.autocontrast, enhance.google_autocontrast])
def test_autocontrast_stretches_each_channel_by_itself(autocontrast):
    image = np.uint8([[[50, 7, 0], [100, 7, 1], [150, 7, 255]]])
    assert autocontrast(image).tolist() == [[[0, 7, 0], [127, 7, 1], [255, 7, 255]]]


def test_google_autocontrast_rounds_in_float32():
    # As TensorFlow gives it: seven times float32's 255 / 7 is just below 255, and truncated.
    assert channel(enhance.google_autocontrast(grey([0, 1, 3, 7]))) == [[0, 36, 109, 254]]
    assert channel(enhance.autocontrast(grey([0, 1, 3, 7]))) == [[0, 36, 109, 255]]
    assert channel(enhance.google_autocontrast(grey([0, 25]))) == [[0, 255]]
    assert channel(enhance.autocontrast(grey([0, 25]))) == [[0, 254]]


def test_equalize_spreads_the_levels_by_their_frequency():
    # The step is (765 + 510) // 255 = 5, so the levels go to (0 + 2) // 5, (765 + 2) // 5 and (1275 + 2) // 5.
    values = np.repeat(np.uint8([10, 20, 30]), [765, 510, 510]).reshape(35, 51)
    image = np.stack([values, values[::-1], np.full_like(values, 9)], -1)
    result = enhance.equalize(image)
    assert dict(zip(values.ravel().tolist(), result[..., 0].ravel().tolist(), strict=True)) == {10: 0, 20: 153, 30: 255}
    np.testing.assert_array_equal(result[::-1, :, 1], result[..., 0])
    np.testing.assert_array_equal(result[..., 2], image[..., 2])


def test_equalize_leaves_an_image_of_too_few_pixels():
    image = noise(12, 20)  # fewer than 255: not one pixel a level
    np.testing.assert_array_equal(enhance.equalize(image), image)


def test_blur_spreads_a_point_and_keeps_a_plane():
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 255
    narrow, wide = enhance.gaussian_blur(point, 0.1), enhance.gaussian_blur(point, np.float64(2.0))
    assert narrow[4, 4, 0] > wide[4, 4, 0] > 0
    assert (wide[2:7, 2:7] > 0).all()
    np.testing.assert_array_equal(wide, wide[::-1, ::-1])
    plane = np.full((9, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(enhance.gaussian_blur(plane, 2.0), plane)


def test_google_translation_rounds_halves_away_from_zero():
    row = grey([10, 20, 30, 40, 50])
    assert channel(warp.google_affine(row, warp.translate_x(2), (9, 9, 9))) == [[30, 40, 50, 9, 9]]
    # Column x comes from x - 1.5: -1.5, -0.5, 0.5, 1.5, 2.5 are the columns -2, -1, 1, 2, 3.
    assert channel(warp.google_affine(row, warp.translate_x(-1.5), (9, 9, 9))) == [[9, 9, 20, 30, 40]]
    assert channel(warp.google_affine(row, warp.translate_x(1.5), (9, 9, 9))) == [[30, 40, 50, 9, 9]]
    column = row.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        warp.google_affine(column, warp.translate_y(-1.5), FILL),
        warp.google_affine(row, warp.translate_x(-1.5), FILL).transpose(1, 0, 2),
    )


def test_google_shear_moves_each_row_by_its_number():
    image = grey([10, 20, 30, 40], [11, 21, 31, 41], [12, 22, 32, 42])
    assert channel(warp.google_affine(image, warp.shear_x(1.0), (9, 9, 9))) == [
        [10, 20, 30, 40],
        [21, 31, 41, 9],
        [32, 42, 9, 9],
    ]
    # The middle row comes from x - 0.5: -0.5 is outside, 0.5, 1.5 and 2.5 are the columns 1, 2 and 3.
    assert channel(warp.google_affine(image, warp.shear_x(-0.5), (9, 9, 9))) == [
        [10, 20, 30, 40],
        [9, 21, 31, 41],
        [9, 12, 22, 32],
    ]
    turned = image.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        warp.google_affine(turned, warp.shear_y(-0.5), FILL),
        warp.google_affine(image, warp.shear_x(-0.5), FILL).transpose(1, 0, 2),
    )


@pytest.mark.parametrize("rotate", [warp.rotate, warp.google_rotate])
def test_quarter_turns_are_exact_and_anticlockwise(rotate):
    image = noise(7, 7)
    for quarters in (-1, 1, 2):
        np.testing.assert_array_equal(rotate(image, 90 * quarters, FILL), np.rot90(image, quarters))
    half = rotate(noise(6, 4), 180, FILL)
    np.testing.assert_array_equal(half, noise(6, 4)[::-1, ::-1])


@pytest.mark.parametrize("rotate", [warp.rotate, warp.google_rotate])
def test_rotation_turns_about_the_centre_and_fills_the_corners(rotate):
    image = noise(41, 41)
    turned = rotate(image, 30, FILL)
    np.testing.assert_array_equal(turned[20, 20], image[20, 20])
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert tuple(turned[row, column]) == FILL
    # 15 columns right of the centre: 30 degrees anticlockwise it is 13 columns right and 7.5 rows up.
    marked = np.zeros_like(image)
    marked[19:22, 34:37] = 255
    rows, columns = np.nonzero(rotate(marked, 30, (0, 0, 0))[..., 0])
    assert abs(rows.mean() - 12.5) < 0.7
    assert abs(columns.mean() - 33) < 0.7


def test_maps_far_outside_show_the_fill_alone():
    image = noise(5, 6)
    for coefficients in (
        warp.translate_x(2.0**16),
        warp.translate_y(-(2.0**16)),
        warp.translate_x(-6),
        warp.translate_y(5),
    ):
        assert (warp.google_affine(image, coefficients, FILL) == FILL).all()


def test_cutout_covers_a_box_that_the_edges_cut():
    image = np.full((10, 12, 3), 200, np.uint8)
    covered = warp.cutout(image, 2, (0, 6), FILL)
    expected = image.copy()
    expected[0:2, 4:8] = FILL
    np.testing.assert_array_equal(covered, expected)
    np.testing.assert_array_equal(warp.cutout(image, 0, (5, 5), FILL), image)
    assert (warp.cutout(image, 40, (9, 11), FILL) == FILL).all()


def test_google_arguments_at_level_ten():
    image = noise(224, 224)
    at = Google(1.0, -1.0, FILL, centre=(0.5, 0.5))
    expected = {
        "Rotate": warp.google_rotate(image, -30, FILL),
        "Posterize": image & 0xF0,
        "Solarize": 255 - image,
        "SolarizeAdd": enhance.solarize_add(image, 110),
        "Color": enhance.google_color(image, 1.9),
        "Contrast": enhance.google_contrast(image, 1.9),
        "Brightness": enhance.brightness(image, 1.9),
        "Sharpness": enhance.google_sharpness(image, 1.9),
        "ShearX": warp.google_affine(image, warp.shear_x(-0.3), FILL),
        "ShearY": warp.google_affine(image, warp.shear_y(-0.3), FILL),
        "TranslateX": warp.google_affine(image, warp.translate_x(-100), FILL),
        "TranslateY": warp.google_affine(image, warp.translate_y(-100), FILL),
        "Cutout": warp.cutout(image, 40, (112, 112), FILL),
    }
    for name, result in expected.items():
        np.testing.assert_array_equal(GOOGLE[name](image, at), result, err_msg=name)
    far = GOOGLE["TranslateX"](image, at._replace(translate=250.0))
    assert (far == FILL).all()


def test_google_cutout_reaches_every_place():
    image = np.zeros((4, 8, 3), np.uint8)
    at = Google(0.025, 0.0, (255,) * 3)  # one pixel to each side
    corner = GOOGLE["Cutout"](image, at._replace(centre=(0.0, 0.0)))
    assert np.argwhere(corner[..., 0]).tolist() == [[0, 0]]
    last = GOOGLE["Cutout"](image, at._replace(centre=(0.999, 0.999)))
    assert np.argwhere(last[..., 0]).tolist() == [[2, 6], [2, 7], [3, 6], [3, 7]]


def test_timm_arguments_at_level_ten():
    image = noise(40, 60)
    up, down = Timm(1.0, 1.0, FILL, BILINEAR), Timm(1.0, -1.0, FILL, BICUBIC)
    assert not TIMM["PosterizeIncreasing"](image, up).any()
    np.testing.assert_array_equal(TIMM["SolarizeIncreasing"](image, up), 255 - image)
    np.testing.assert_array_equal(TIMM["SolarizeAdd"](image, up), enhance.solarize_add(image, 110))
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        enhancement = getattr(enhance, name.lower())
        np.testing.assert_array_equal(TIMM[f"{name}Increasing"](image, up), enhancement(image, 1.9), err_msg=name)
        np.testing.assert_array_equal(TIMM[f"{name}Increasing"](image, down), enhancement(image, 0.1), err_msg=name)
    assert down.factor == 0.1
    np.testing.assert_array_equal(TIMM["TranslateXRel"](image, up)[:, :33], image[:, 27:])
    np.testing.assert_array_equal(TIMM["TranslateYRel"](image, down)[18:], image[:22])
    picture = Image.fromarray(image)
    np.testing.assert_array_equal(TIMM["Rotate"](image, down), picture.rotate(-30, BICUBIC, fillcolor=FILL))
    for name, coefficients in (("ShearX", (1, -0.3, 0, 0, 1, 0)), ("ShearY", (1, 0, 0, -0.3, 1, 0))):
        expected = picture.transform((60, 40), Image.Transform.AFFINE, coefficients, BICUBIC, fillcolor=FILL)
        np.testing.assert_array_equal(TIMM[name](image, down), expected, err_msg=name)


def test_ranges_of_the_torchvision_policies():
    trivial, cifar = TRIVIAL_AUGMENT_RANGES, auto_augment_ranges(331, 662)
    highest = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32, "TranslateY": 32, "Rotate": 135, "Color": 0.99}
    assert {name: trivial.magnitude(name, 30) for name in highest} == pytest.approx(highest)
    assert {name: trivial.magnitude(name, 15) for name in highest} == pytest.approx(
        {name: value / 2 for name, value in highest.items()}
    )
    highest = {"ShearX": 0.3, "TranslateX": 300, "TranslateY": 150, "Rotate": 30, "Brightness": 0.9, "Sharpness": 0.9}
    assert {name: cifar.magnitude(name, 9) for name in highest} == pytest.approx(highest)
    assert [trivial.magnitude("Posterize", level) for level in (0, 2, 3, 15, 27, 28, 30)] == [8, 8, 7, 5, 3, 2, 2]
    assert [cifar.magnitude("Posterize", level) for level in (0, 6, 7, 9)] == [8, 5, 5, 4]
    assert [trivial.magnitude("Solarize", level) for level in (0, 10, 30)] == [255, 170, 0]
    assert [cifar.magnitude("Solarize", level) for level in (0, 3, 9)] == [255, 170, 0]


def test_torchvision_translates_by_whole_pixels():
    image = noise(8, 9)
    np.testing.assert_array_equal(TORCHVISION["TranslateX"](image, 2.9, FILL)[:, 2:], image[:, :-2])
    np.testing.assert_array_equal(TORCHVISION["TranslateY"](image, -2.9, FILL)[:-2], image[2:])
    assert (TORCHVISION["TranslateX"](image, 2.9, FILL)[:, :2] == FILL).all()
