"""Policies: what is drawn and how often, what is applied, and that the numbers given decide everything."""

import collections
import pickle
import random

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import enhance, operations, policy, warp
from vit_jax.data.order import draws
from vit_jax.data.policy import POLICIES, ColorJitter, Policy

FILL = (128, 128, 128)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_draws(count: int, each: int) -> np.ndarray:
    return draws(0, np.zeros(count, np.int64), np.arange(count), each)


def evenly(count: int) -> np.ndarray:
    """Returns the middles of `count` equal parts of [0, 1)."""
    return (np.arange(count) + 0.5) / count


def recorded(monkeypatch, table: dict) -> list:
    """Replaces a table's operations by ones that do nothing but note their name and arguments in the list returned."""
    calls = []
    for name in table:
        monkeypatch.setitem(
            table, name, lambda image, *arguments, name=name: (calls.append((name, *arguments)), image)[1]
        )
    return calls


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(ValueError, match=r"augment\.policy must be one of none, rand_augment, .*, not 'rand_augmnet'"):
        Policy("rand_augmnet")


@pytest.mark.parametrize("name", POLICIES)
def test_uint8_of_the_same_shape_decided_by_the_numbers_alone(name):
    augment = Policy(name, layers=3, magnitude=12.0, magnitude_std=2.0)
    copy = pickle.loads(pickle.dumps(augment))
    state, generator = random.getstate(), np.random.get_state()[1].copy()
    for shape in ((1, 1), (2, 3), (17, 24)):
        image = noise(*shape)
        image.setflags(write=False)
        for uniform in random_draws(40, augment.draws):
            result = augment(image, uniform)
            assert result.dtype == np.uint8
            assert result.shape == image.shape
            np.testing.assert_array_equal(copy(image, uniform.copy()), result)
        np.testing.assert_array_equal(image, noise(*shape))
    assert random.getstate() == state
    np.testing.assert_array_equal(np.random.get_state()[1], generator)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_outermost_numbers_are_allowed(name, number):
    augment = Policy(name, magnitude_std=0.5)
    assert augment(noise(8, 9), np.full(augment.draws, number)).shape == (8, 9, 3)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"none"}))
def test_images_are_changed_in_many_ways(name):
    augment, image = Policy(name, magnitude=9.0), noise(32, 32)
    results = {augment(image, uniform).tobytes() for uniform in random_draws(100, augment.draws)}
    assert len(results) > 20


def test_none_draws_nothing_and_does_nothing():
    image = noise(4, 5)
    assert Policy().draws == 0
    assert Policy()(image, np.empty(0)) is image


def test_rand_augment_applies_what_was_drawn_in_order():
    image = noise(20, 20)
    names = list(operations.GOOGLE)
    uniform = np.array([names.index("Invert") / 16, 0.3, 0.3, names.index("Posterize") / 16 + 0.01, 0.3, 0.3])
    np.testing.assert_array_equal(Policy("rand_augment")(image, uniform), (255 - image) & 0xF0)


def test_rand_augment_draws_its_sixteen_operations_equally_often(monkeypatch):
    calls = recorded(monkeypatch, operations.GOOGLE)
    augment = Policy("rand_augment", layers=1)
    for number in evenly(160):
        augment(noise(2, 2), np.array([number, 0.0, 0.0]))
    counts = collections.Counter(name for name, _ in calls)
    assert len(counts) == 16
    assert set(counts.values()) == {10}


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_rand_augment_applies_one_operation_a_layer_always(monkeypatch, layers):
    calls = recorded(monkeypatch, operations.GOOGLE)
    augment = Policy("rand_augment", layers=layers)
    for uniform in random_draws(50, augment.draws):
        augment(noise(2, 2), uniform)
    assert len(calls) == 50 * layers


def test_rand_augment_negates_half_the_levels_and_scales_all_by_ten(monkeypatch):
    calls = recorded(monkeypatch, operations.GOOGLE)
    augment = Policy("rand_augment", layers=1, magnitude=15.0, fill=(1, 2, 3))
    for number in evenly(100):
        augment(noise(2, 2), np.array([0.0, number, 0.25]))
    levels = [at for _, at in calls]
    assert {at.share for at in levels} == {1.5}
    assert collections.Counter(at.signed for at in levels) == {1.5: 50, -1.5: 50}
    assert {(at.fill, at.translate, at.cutout) for at in levels} == {((1, 2, 3), 100.0, 40.0)}
    assert {at.centre[1] for at in levels} == {0.25}
    np.testing.assert_allclose(sorted(at.centre[0] for at in levels), evenly(100))


def test_layers_are_drawn_independently(monkeypatch):
    calls = recorded(monkeypatch, operations.GOOGLE)
    augment = Policy("rand_augment")
    for uniform in random_draws(5000, augment.draws):
        augment(noise(1, 1), uniform)
    names = [name for name, _ in calls]
    pairs = collections.Counter(zip(names[::2], names[1::2], strict=True))
    assert len(pairs) == 256  # about 20 of each
    assert max(pairs.values()) < 50


def test_magnitude_zero_is_not_the_identity():
    image, names = noise(224, 224), list(operations.GOOGLE)
    augment = Policy("rand_augment", layers=1, magnitude=0.0)
    drawn = {name: np.array([number, 0.5, 0.5]) for name, number in zip(names, evenly(16), strict=True)}
    changed = {name for name, uniform in drawn.items() if (augment(image, uniform) != image).any()}
    unchanged = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"}
    # Noise spans all levels already, so that there is nothing for AutoContrast to stretch.
    assert changed == set(names) - unchanged - {"AutoContrast"}


def test_timm_draws_its_fifteen_operations_equally_often_and_applies_half(monkeypatch):
    calls = recorded(monkeypatch, operations.TIMM)
    augment = Policy("rand_augment_timm", layers=1, magnitude=9.0)
    assert augment.draws == 5
    for choice in evenly(150):
        for applies in evenly(10):
            augment(noise(2, 2), np.array([choice, applies, 0.5, 0.5, 0.5]))
    counts = collections.Counter(name for name, _ in calls)
    assert len(counts) == 15
    assert set(counts.values()) == {50}
    assert {at.share for _, at in calls} == {0.9}


def test_timm_negates_half_and_interpolates_either_way(monkeypatch):
    calls = recorded(monkeypatch, operations.TIMM)
    augment = Policy("rand_augment_timm", layers=1, magnitude=9.0, fill=(3, 2, 1))
    for sign in evenly(10):
        for resample in evenly(10):
            augment(noise(2, 2), np.array([0.5, 0.0, 0.5, sign, resample]))
    counts = collections.Counter((at.signed, at.resample) for _, at in calls)
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    assert counts == {(sign * 0.9, resample): 25 for sign in (-1, 1) for resample in filters}
    assert {at.fill for _, at in calls} == {(3, 2, 1)}


@pytest.mark.parametrize("magnitude", [5.0, 9.0, 14.0])
def test_timm_magnitudes_are_normal_and_end_at_zero_and_ten(monkeypatch, magnitude):
    calls = recorded(monkeypatch, operations.TIMM)
    augment = Policy("rand_augment_timm", layers=1, magnitude=magnitude, magnitude_std=2.0)
    for number in evenly(2000):
        augment(noise(1, 1), np.array([0.5, 0.0, number, 0.5, 0.5]))
    levels = np.array([at.share * 10 for _, at in calls])
    assert levels.min() >= 0
    assert levels.max() <= 10
    for quantile, deviations in ((0.0228, -2), (0.1587, -1), (0.5, 0), (0.8413, 1), (0.9772, 2)):
        expected = np.clip(magnitude + 2.0 * deviations, 0, 10)
        assert np.quantile(levels, quantile) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("name", "table", "known"),
    [
        ("auto_augment", policy.AUTO_AUGMENT, operations.GOOGLE),
        ("auto_augment_cifar", policy.AUTO_AUGMENT_CIFAR, operations.TORCHVISION),
    ],
)
def test_each_sub_policy_has_two_steps_and_its_share_of_the_images(monkeypatch, name, table, known):
    assert len(table) == 25
    for step in sum(table, ()):
        assert step.name in known
        assert 0 <= step.probability <= 1
        assert 0 <= step.level <= 10
    calls = recorded(monkeypatch, known)
    augment = Policy(name)
    for number in evenly(250):
        augment(noise(4, 4), np.array([number, 0.0, 0.5, 0.0, 0.5]))
    drawn = collections.Counter(step.name for steps in table for step in steps if step.probability > 0)
    assert collections.Counter(call[0] for call in calls) == {name: 10 * count for name, count in drawn.items()}


def test_steps_apply_with_their_probability(monkeypatch):
    calls = recorded(monkeypatch, operations.GOOGLE)
    for applies in evenly(100):  # the first sub-policy: Equalize and ShearY, both with probability 0.8
        Policy("auto_augment")(noise(2, 2), np.array([0.0, applies, 0.5, 1 - applies, 0.5]))
    assert collections.Counter(name for name, _ in calls) == {"Equalize": 80, "ShearY": 80}


def test_auto_augment_in_full():
    image = noise(40, 40)
    augment = Policy("auto_augment", fill=(9, 8, 7))
    both, first, neither = (np.array([0.01, u, 0.9, v, 0.1]) for u, v in ((0.0, 0.0), (0.0, 0.9), (0.9, 0.9)))
    equalized = enhance.equalize(image)
    np.testing.assert_array_equal(augment(image, both), warp.google_affine(equalized, warp.shear_y(-0.12), (9, 8, 7)))
    np.testing.assert_array_equal(augment(image, first), equalized)
    np.testing.assert_array_equal(augment(image, neither), image)
    # The sixteenth: Rotate at level 7, then TranslateY at level 9, which is 225 pixels.
    assert (augment(noise(200, 200), np.array([15.5 / 25, 0.0, 0.5, 0.0, 0.5])) == (9, 8, 7)).all()


def test_auto_augment_cifar_in_full():
    image = noise(32, 32)
    augment = Policy("auto_augment_cifar")
    # The second: Rotate at level 2 of 9, then TranslateX at level 9, which is 14.5 of 32 pixels, truncated.
    rotated = warp.rotate(image, 30 * 2 / 9, FILL)
    np.testing.assert_array_equal(
        augment(image, np.array([1.5 / 25, 0.0, 0.9, 0.0, 0.1])), warp.affine(rotated, warp.translate_x(14), FILL)
    )


def test_trivial_augment_draws_operation_level_and_sign_evenly(monkeypatch):
    calls = recorded(monkeypatch, operations.TORCHVISION)
    augment = Policy("trivial_augment")
    for choice in evenly(14):
        for level in evenly(31):
            for sign in evenly(2):
                augment(noise(1, 1), np.array([choice, level, sign]))
    counts = collections.Counter(name for name, *_ in calls)
    assert len(counts) == 14
    assert set(counts.values()) == {62}
    assert "Invert" not in counts
    turns = sorted(magnitude for name, magnitude, _ in calls if name == "Rotate")
    np.testing.assert_allclose(turns, np.sort(np.concatenate([np.arange(31) * 4.5, np.arange(31) * -4.5])))
    thresholds = collections.Counter(magnitude for name, magnitude, _ in calls if name == "Solarize")
    assert thresholds == {8.5 * level: 2 for level in range(31)}
    assert {magnitude for name, magnitude, _ in calls if name == "Posterize"} == {8, 7, 6, 5, 4, 3, 2}


def test_three_augment_takes_each_of_three_for_a_third_of_the_images():
    augment, image = Policy("three_augment"), noise(12, 12)
    expected = [enhance.grayscale(image), np.where(image < 128, image, 255 - image), enhance.gaussian_blur(image, 1.05)]
    for third, result in enumerate(expected):
        for number in (third / 3 + 1e-9, (third + 1) / 3 - 1e-9):
            np.testing.assert_array_equal(augment(image, np.array([number, 0.5])), result)
    for number, radius in ((0.0, 0.1), (1 - 1e-9, 2.0)):
        blurred = augment(image, np.array([0.9, number]))
        np.testing.assert_array_equal(blurred, enhance.gaussian_blur(image, radius))


def test_no_jitter_is_the_identity():
    image = noise(4, 4)
    assert ColorJitter().draws == 0
    assert ColorJitter()(image, np.empty(0)) is image


@pytest.mark.parametrize(("strength", "darkest", "brightest"), [(0.3, 70, 130), (1.4, 0, 240)])
def test_jitter_factors_are_uniform_within_the_strength(strength, darkest, brightest):
    # Contrast and saturation leave an image of one grey as it is: what remains is the brightness.
    image, jitter = np.full((2, 2, 3), 100, np.uint8), ColorJitter(strength)
    values = [jitter(image, np.array([0.0, number, 0.2, 0.8]))[0, 0, 0] for number in evenly(500)]
    assert min(values) == darkest
    assert brightest - 1 <= max(values) <= brightest
    assert np.median(values) == pytest.approx((darkest + brightest) / 2, abs=1)


def test_jitter_takes_each_order_equally_often():
    image, jitter = noise(16, 16), ColorJitter(0.8)
    results = collections.Counter(jitter(image, np.array([number, 0.9, 0.9, 0.9])).tobytes() for number in evenly(60))
    assert sorted(results.values()) == [10] * 6
    brighter = enhance.brightness(image, 0.2 + 1.6 * 0.9)
    forward = enhance.color(enhance.contrast(brighter, 0.2 + 1.6 * 0.9), 0.2 + 1.6 * 0.9)
    assert forward.tobytes() in results


def test_jitter_is_pure_and_can_be_sent_to_another_process():
    image, jitter = noise(5, 6), ColorJitter(0.4)
    copy = pickle.loads(pickle.dumps(jitter))
    for uniform in random_draws(10, jitter.draws):
        result = jitter(image, uniform)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(copy(image, uniform), result)
    np.testing.assert_array_equal(image, noise(5, 6))
