"""Random crops: always inside the image, distributed as TensorFlow and torchvision draw them."""

import math

import numpy as np
import pytest
from scipy import stats

from vit_jax.data.crops import ATTEMPTS, DRAWS, inception_box, placed, random_resized_box, shifted
from vit_jax.data.order import draws

DRAWERS = [inception_box, random_resized_box]
AREA, ASPECT, SQUARE = (0.05, 1.0), (3 / 4, 4 / 3), (1.0, 1.0)
LAST = np.nextafter(1, 0)
SEEDS = 2000


def random_draws(count: int) -> np.ndarray:
    return draws(0, np.zeros(count, np.int64), np.arange(count), DRAWS)


def many(drawer, shape, area, aspect, count: int = SEEDS) -> tuple[np.ndarray, ...]:
    """Returns left, top, width and height of many boxes, after a look that all are inside."""
    boxes = np.array([drawer(shape, area, aspect, uniform) for uniform in random_draws(count)])
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0
    assert right.max() <= shape[1]
    assert bottom.max() <= shape[0]
    assert (right - left).min() >= 1
    assert (bottom - top).min() >= 1
    return left, top, right - left, bottom - top


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (3, 2), (7, 900), (37, 53), (300, 200)])
@pytest.mark.parametrize(
    ("area", "aspect"),
    [
        (AREA, ASPECT),
        ((0.08, 1.0), ASPECT),
        ((1e-6, 1e-6), ASPECT),
        (SQUARE, SQUARE),
        (AREA, (1e-3, 1e3)),
        (AREA, (3, 4)),
    ],
)
def test_boxes_are_inside_the_image_and_not_empty(drawer, shape, area, aspect):
    many(drawer, shape, area, aspect, 100)  # which looks
    for extreme in (np.zeros(DRAWS), np.full(DRAWS, LAST)):
        left, top, right, bottom = drawer(shape, area, aspect, extreme)
        assert 0 <= left < right <= shape[1]
        assert 0 <= top < bottom <= shape[0]


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("shape", [(150, 200), (200, 150), (37, 53)])
def test_area_and_aspect_keep_to_their_bounds(drawer, shape):
    area = (0.05, 0.6)  # the whole image, for want of a fit, would show
    _, _, w, h = many(drawer, shape, area, ASPECT)
    assert (w * h >= area[0] * shape[0] * shape[1] - (w + h)).all()  # up to the rounding of the sides
    assert (w * h <= area[1] * shape[0] * shape[1] + (w + h)).all()
    assert ((w + 0.5) / (h - 0.5) >= ASPECT[0]).all()
    assert ((w - 0.5) / (h + 0.5) <= ASPECT[1]).all()


def uniform_fit(values: np.ndarray, low: float, high: float) -> float:
    """Returns the p-value of the Kolmogorov-Smirnov test that values are uniform in [low, high]."""
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue


def test_random_resized_area_is_uniform():
    _, _, w, h = many(random_resized_box, (3000, 3000), (0.08, 1.0), SQUARE)
    np.testing.assert_array_equal(w, h)
    assert uniform_fit(w * h / 9e6, 0.08, 1) > 0.01
    assert uniform_fit(h / 3000, math.sqrt(0.08), 1) < 1e-6


def test_inception_height_is_uniform_and_its_area_smaller():
    _, _, w, h = many(inception_box, (3000, 3000), (0.08, 1.0), SQUARE)
    np.testing.assert_array_equal(w, h)
    assert uniform_fit(h / 3000, math.sqrt(0.08), 1) > 0.01
    mean = (1 - 0.08**1.5) / 3 / (1 - math.sqrt(0.08))  # of the square of a uniform number
    assert mean < 0.46 < (1 + 0.08) / 2
    assert abs((w * h / 9e6).mean() - mean) < 0.02


def test_aspect_is_uniform_in_tensorflow_and_log_uniform_in_torchvision():
    small, wide = (0.01, 0.02), (0.25, 4.0)  # so small that every first attempt fits
    _, _, w, h = many(inception_box, (3000, 3000), small, wide)
    assert uniform_fit(w / h, *wide) > 0.01
    assert uniform_fit(np.log(w / h), *np.log(wide)) < 1e-6
    _, _, w, h = many(random_resized_box, (3000, 3000), small, wide)
    assert uniform_fit(np.log(w / h), *np.log(wide)) > 0.01
    assert uniform_fit(w / h, *wide) < 1e-6


@pytest.mark.parametrize("drawer", DRAWERS)
def test_place_is_uniform_and_independent(drawer):
    left, top, w, h = many(drawer, (3000, 3000), (0.05, 0.5), ASPECT)
    down, right = top / (3000 - h), left / (3000 - w)
    assert uniform_fit(down, 0, 1) > 0.01
    assert uniform_fit(right, 0, 1) > 0.01
    for values in (right, h, w):
        assert abs(np.corrcoef(down, values)[0, 1]) < 4 / math.sqrt(SEEDS)


@pytest.mark.parametrize(
    ("drawer", "numbers", "size"),
    [
        # Heights from sqrt(500 / ratio) to the least of sqrt(10,000 / ratio), 100 and 100.5 / ratio; width by ratio.
        (inception_box, (0, LAST), (19, 25)),
        (inception_box, (0.5, LAST), (47, 63)),
        (inception_box, (LAST, LAST), (75, 100)),
        (inception_box, (0, 0), (26, 20)),
        (inception_box, (LAST, 0), (100, 75)),
        # Height sqrt(area / ratio), width sqrt(area * ratio).
        (random_resized_box, (0, LAST), (19, 26)),
        (random_resized_box, (0.5, 0), (84, 63)),
        (random_resized_box, (0.5, 0.5), (72, 72)),
    ],
)
def test_sizes_worked_out_by_hand(drawer, numbers, size):
    uniform = np.full(DRAWS, 0.25)
    uniform[2:4] = numbers
    left, top, right, bottom = drawer((100, 100), AREA, ASPECT, uniform)
    assert (bottom - top, right - left) == size
    assert (top, left) == tuple(int((101 - side) / 4) for side in size)


@pytest.mark.parametrize("drawer", DRAWERS)
def test_a_later_attempt_is_taken_where_the_first_does_not_fit(drawer):
    uniform = np.full(DRAWS, 0.5)
    uniform[2:4] = LAST, LAST  # the largest area at the widest aspect, which is too wide
    later = drawer((100, 100), (0.9, 1.0), ASPECT, uniform)
    uniform[2:4] = 0.5
    assert later == drawer((100, 100), (0.9, 1.0), ASPECT, uniform) != (0, 0, 100, 100)
    assert len(uniform) == 2 + 2 * ATTEMPTS


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (1, 50), (3, 7)])
def test_inception_falls_back_to_the_whole_image(shape):
    for uniform in random_draws(20):
        assert inception_box(shape, SQUARE, SQUARE, uniform) == (0, 0, shape[1], shape[0])


@pytest.mark.parametrize(
    ("shape", "aspect", "box"),
    [
        ((10, 1000), SQUARE, (495, 0, 505, 10)),
        ((1000, 10), SQUARE, (0, 495, 10, 505)),
        ((30, 1000), ASPECT, (480, 0, 520, 30)),  # 30 * 4/3 columns
        ((1000, 30), ASPECT, (0, 480, 30, 520)),  # 30 / (3/4) rows
        ((1, 50), SQUARE, (24, 0, 25, 1)),
        ((50, 1), SQUARE, (0, 24, 1, 25)),
        ((3, 7), SQUARE, (2, 0, 5, 3)),
        ((1, 50), (1 / 1000, 1 / 500), (24, 0, 25, 1)),  # no column is narrow enough
        ((90, 100), (2.0, 3.0), (0, 20, 100, 70)),
    ],
)
def test_random_resized_falls_back_to_the_largest_centred_crop_that_is_allowed(shape, aspect, box):
    for uniform in random_draws(20):
        assert random_resized_box(shape, SQUARE, aspect, uniform) == box


def test_random_resized_falls_back_to_the_whole_image_where_its_aspect_is_allowed():
    uniform = np.full(DRAWS, 0.0)  # the narrowest crop of all the area is higher than the image
    assert random_resized_box((100, 120), SQUARE, ASPECT, uniform) == (0, 0, 120, 100)


def test_placed_covers_every_position_equally():
    each = (np.arange(300) + 0.5) / 300
    uniform = np.stack(np.meshgrid(each, each), -1).reshape(-1, 2)
    corners = [placed((5, 7), (3, 4), numbers)[:2] for numbers in uniform]
    places, counts = np.unique(corners, axis=0, return_counts=True)
    assert places.tolist() == [[left, top] for left in range(4) for top in range(3)]
    assert set(counts) == {300 * 300 // 12}


def test_placed_reaches_both_ends_and_no_further():
    assert placed((5, 7), (3, 4), np.zeros(2)) == (0, 0, 4, 3)
    assert placed((5, 7), (3, 4), np.full(2, LAST)) == (3, 2, 7, 5)
    assert placed((5, 7), (3, 4), np.array([LAST, 0])) == (0, 2, 4, 5)
    assert placed((5, 7), (5, 7), np.full(2, LAST)) == (0, 0, 7, 5)
    for side in (10**4, 12345, 2**20 - 1):
        assert placed((side, side), (1, 1), np.full(2, LAST)) == (side - 1, side - 1, side, side)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_shifted_is_padding_and_cropping(pad):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 8, 3), dtype=np.uint8)
    kept, rows = images.copy(), np.array([3, 0, 3, 5, 1, 1, 2] * 30)
    uniform = random_draws(len(rows))
    batch = shifted(images, rows, pad, uniform)
    assert (batch.shape, batch.dtype) == ((len(rows), 5, 8, 3), np.uint8)
    corners = set()
    for view, row, numbers in zip(batch, rows, uniform, strict=True):
        padded = np.pad(images[row], ((pad, pad), (pad, pad), (0, 0)))
        left, top, right, bottom = placed(padded.shape[:2], (5, 8), numbers)
        np.testing.assert_array_equal(view, padded[top:bottom, left:right])
        corners.add((top, left))
    assert len(corners) > 0.8 * (2 * pad + 1) ** 2
    np.testing.assert_array_equal(images, kept)
    assert not np.shares_memory(batch, images)
