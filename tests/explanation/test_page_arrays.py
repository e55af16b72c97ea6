import base64
import importlib.resources

import numpy as np
import pytest

from tests.explanation.pages import NASTY, page_image, random_maps, small_page, unpacked
from vit_jax.explanation import page_document
from vit_jax.explanation.page_arrays import ALPHABET, Page, PageImage, base85, packed, quantised
from vit_jax.explanation.page_document import document


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1.0, 1e6])
def test_8_bits_are_right_to_half_a_step_of_each_rows_largest_number(magnitude):
    values = np.random.default_rng(0).random((5, 7, 11), np.float32) ** 4 * np.float32(magnitude)
    numbers, scales = quantised(values)
    assert numbers.dtype == np.uint8
    largest = values.max(-1)
    assert (scales >= largest).all()
    assert (scales <= largest * (1 + 2.0**-11)).all()
    off = np.abs(numbers * (scales / 255)[..., None] - values)
    assert (off <= 0.501 / 255 * scales[..., None]).all()
    assert (numbers.max(-1) >= 254).all()


def test_a_row_of_zeros_stays_zero():
    numbers, scales = quantised(np.zeros((2, 3)))
    assert not numbers.any()
    assert not scales.any()


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_numbers_that_are_no_shares_are_refused(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        quantised(np.array([0.5, bad]))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 255])
def test_base_85_gives_back_all_bytes_and_has_nothing_that_begins_a_tag(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    text = base85(data)
    assert len(text) % 5 == 0
    assert set(text) <= set(ALPHABET)
    assert not set(ALPHABET) & set("<&\"'\\")
    assert base64.b85decode(text.translate({ord(","): "<", ord("."): "&"}))[:size] == data


def test_packed_maps_are_the_quantised_ones():
    image = page_image()
    found = unpacked(*packed(image))
    for name, values in (("attention", image.attention), ("rollout", image.rollout)):
        numbers, scales = quantised(values)
        np.testing.assert_array_equal(found[name], numbers.ravel())
        np.testing.assert_array_equal(found[f"{name}_scales"], scales.ravel())
    assert found["relevance"].size == 2 * 12
    assert found["relevance_scales"].size == 2


def test_an_image_without_classes_has_no_relevance():
    assert not [name for name in unpacked(*packed(page_image(classes=()))) if name.startswith("relevance")]


def test_a_vit_b16_takes_at_most_8_mb_an_image_though_nothing_of_it_can_be_deflated():
    """Evenly spread random bytes are the worst that there can be, of the maps and of the image."""
    generator = np.random.default_rng(0)
    attention, rollout = (generator.random((12, *more, 197, 197), np.float32) for more in ((12,), ()))
    classes = [(index, f"a class with a long name {index}") for index in range(7)]
    image = page_image(classes=classes)
    pixels = generator.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    listed = [type(found)(found.index, found.name, 0.1, generator.random((14, 14))) for found in image.classes]
    page = Page("What vit_b16 sees", "", (14, 14), ["cls"], [PageImage("a.png", pixels, attention, rollout, listed)])
    assert 7e6 < len(document(page).encode()) <= 8e6


def test_maps_of_real_sharpness_take_less():
    even, _ = random_maps(heads=8, tokens=64)
    sharp = np.exp(8 * np.random.default_rng(0).normal(size=even.shape))
    sharp = (sharp / sharp.sum(-1, keepdims=True)).astype(np.float32)
    sizes = [packed(PageImage("", np.zeros((1, 1, 3), np.uint8), a, a[:, 0]))[1]["length"] for a in (even, sharp)]
    assert sizes[1] < 0.6 * sizes[0]


def test_no_name_can_end_the_script_that_holds_it():
    page = small_page(page_image(name=NASTY, classes=[(0, NASTY)]), title=NASTY, subtitle=NASTY, notes=[NASTY])
    written = document(page)
    plain = document(small_page(page_image(classes=[(0, "cat")])))
    written.encode()  # a file name may hold bytes that are no text
    for begin in ("<script", "</script", "<img", "<b"):
        assert written.count(begin) == plain.count(begin)
    assert "{{" not in written.split("<script>")[0].replace("{{title}}", "")


def test_the_page_asks_for_nothing_from_elsewhere():
    written = document(small_page())
    assert "default-src 'none'" in written
    assert "http:" not in written
    assert "https:" not in written


def test_every_file_of_the_page_is_in_it_and_no_import_is_left():
    folder = importlib.resources.files("vit_jax.explanation") / "page"
    files = {file.name for file in folder.iterdir()}
    scripts, styles = page_document.SCRIPTS, page_document.STYLES
    assert files == {"page.html", *(f"{name}.js" for name in scripts), *(f"{name}.css" for name in styles)}
    script = page_document.script()
    assert "\nimport " not in script
    assert "\nexport " not in script
