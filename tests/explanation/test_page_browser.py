"""The interactive page in a headless Chromium, against the arrays that it was written from."""

import numpy as np
import pytest

from tests.explanation.pages import (
    FIRST,
    HEADS,
    LAYERS,
    SECOND,
    assert_shows,
    assert_shows_mean,
    assert_shows_row,
    patches,
    token,
)


def test_opens_with_nothing_in_the_console_and_asks_for_nothing_else(view, files):
    assert view.browser.requests == [files["one"].as_uri()]
    assert view.browser.value("document.title") == "What a model sees"
    assert view.text(".readout").startswith("cls attends most to patch ")
    assert_shows_mean(view, FIRST.attention[-1], 0)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (1, 2)])
def test_hovering_shows_where_a_patch_attends(view, row, column):
    view.choose("head", 1)
    view.hover(row, column)
    assert_shows_row(view, FIRST.attention[-1, 1], token(row, column))
    view.choose("head", -1)
    view.hover(row, column)
    assert_shows_mean(view, FIRST.attention[-1], token(row, column))


def test_the_map_follows_the_pointer_and_goes_back_when_it_leaves(view):
    maps = []
    for place in [(0, 0), (0, 1), None]:
        view.hover(*place) if place else view.browser.mouse("mouseMoved", 5, 5)
        view.settle()
        maps.append(view.shown())
    assert np.abs(maps[0] - maps[1]).max() > 0.01
    assert_shows_mean(view, FIRST.attention[-1], 0)


def test_who_attends_to_a_patch_is_the_column_of_the_matrix(view):
    view.choose("head", 0)
    view.choose("direction", "true")
    view.hover(1, 1)
    matrix = FIRST.attention[-1, 0]
    assert_shows(view, patches(matrix[:, token(1, 1)]), patches(matrix.max(-1)))
    assert "gets most attention from" in view.text(".readout")


def test_every_layer_and_head_by_mouse_and_by_key(view):
    view.hold(1, 1)
    for layer in range(LAYERS):
        for head in range(HEADS):
            view.choose("layer", layer)
            view.choose("head", head)
            assert_shows_row(view, FIRST.attention[layer, head], token(1, 1))
    view.press("m")
    assert_shows_mean(view, FIRST.attention[LAYERS - 1], token(1, 1))
    view.press("h")
    view.press("l")
    assert_shows_row(view, FIRST.attention[0, 0], token(1, 1))
    view.press("L", shift=True)
    view.press("H", shift=True)
    assert_shows_mean(view, FIRST.attention[LAYERS - 1], token(1, 1))


def test_tokens_before_the_patches_are_queries_too(view):
    view.choose("head", 0)
    view.choose("token-0", 1)
    assert_shows_row(view, FIRST.attention[-1, 0], 1)
    assert view.text(".readout").startswith("register 0, held, attends most to ")
    view.press("p")
    assert_shows_row(view, FIRST.attention[-1, 0], 0)
    shares = [float(view.text(".token b", i).removesuffix(" %")) / 100 for i in range(2)]
    np.testing.assert_allclose(shares, FIRST.attention[-1, 0, 0, :2], atol=1.1 / 255 * FIRST.attention[-1, 0, 0].max())


def test_a_click_holds_the_query_and_the_pointer_then_reads_numbers(view):
    view.choose("head", 0)
    view.hold(2, 0)
    view.hover(0, 3)
    matrix = FIRST.attention[-1, 0]
    assert_shows_row(view, matrix, token(2, 0))
    said = view.text(".readout")
    assert said.startswith("Patch 2, 0, held, attends most to ")
    assert "patch 0, 3: " in said
    read = float(said.rsplit(": ", 1)[1].removesuffix(" %")) / 100
    np.testing.assert_allclose(read, matrix[token(2, 0), token(0, 3)], atol=0.6 / 255 * matrix[token(2, 0)].max())
    view.press("Escape")
    assert_shows_row(view, matrix, token(0, 3))


def test_arrow_keys_move_the_query_and_stop_at_the_edges(view):
    view.choose("head", 0)
    view.browser.value("document.querySelector('.picture').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        view.press(key)  # the first leaves the cls token for the first patch
    assert_shows_row(view, FIRST.attention[-1, 0], token(0, 0))
    view.press("ArrowDown")
    assert_shows_row(view, FIRST.attention[-1, 0], token(1, 0))
    assert view.browser.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_rollout_slides_through_the_depth(view):
    view.choose("mode", "rollout")
    view.hold(1, 3)
    view.browser.value("document.querySelector('input[type=range]').focus()")
    for layer in reversed(range(LAYERS)):
        assert view.browser.value("document.querySelector('input[type=range]').value") == str(layer)
        assert_shows_row(view, FIRST.rollout[layer], token(1, 3))
        view.press("ArrowLeft")
    view.press("t")
    matrix = FIRST.rollout[0]
    assert_shows(view, patches(matrix[:, token(1, 3)]), patches(matrix.max(-1)))


def test_choosing_a_class_shows_its_relevance(view):
    for place, found in [*enumerate(FIRST.classes)][::-1]:
        view.choose("class-0", place)
        assert view.browser.value("document.querySelector('input[name=mode]:checked').value") == "relevance"
        assert_shows(view, found.relevance, found.relevance.max())
        assert view.text(".readout").startswith(f"{found.name}: most relevant is patch ")
    view.press("c")
    assert_shows(view, FIRST.classes[1].relevance, FIRST.classes[1].relevance.max())
    assert view.text(".class", 0).endswith("100 %")


def test_colours_can_begin_at_the_smallest_number(view):
    view.choose("mode", "rollout")
    view.hold(0, 0)
    row, most = patches(FIRST.rollout[-1, token(0, 0)]), FIRST.rollout[-1, token(0, 0)].max()
    assert view.limits()[0] == 0
    view.browser.value("[...document.querySelectorAll('input[type=checkbox]')].at(-1).click()")
    view.settle()
    np.testing.assert_allclose(view.limits(), (row.min(), row.max()), atol=0.6 / 255 * most)
    assert_shows(view, row, most)


def test_two_images_side_by_side_share_the_query_and_the_colours(view, files):
    view.open(files["two"])
    view.choose("head", 1)
    view.hover(2, 2, slot=1)
    matrices = [image.attention[-1, 1] for image in (FIRST, SECOND)]
    for slot, matrix in enumerate(matrices):
        query = matrix[token(2, 2)]
        assert_shows(view, patches(query), query.max(), slot)
    assert view.limits(0) == view.limits(1)
    view.browser.value("document.querySelector('input[type=checkbox]').click()")
    view.settle()
    assert view.limits(0) != view.limits(1)
    boxes = [view.box(".picture", slot) for slot in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    view.choose("class-0", 1)  # the dog of one image is the dog of the other
    for slot, found in enumerate((FIRST.classes[1], SECOND.classes[0])):
        assert found.name == "dog"
        assert_shows(view, found.relevance, found.relevance.max(), slot)


def test_the_second_image_can_be_changed_and_left_out(view, files):
    view.open(files["two"])
    choose = "(() => {const s = document.querySelectorAll('select')[%d]; s.value = '%s'; s.onchange?.(); %s})()"
    fire = "s.dispatchEvent(new Event('change'))"
    view.browser.value(choose % (1, "", fire))
    view.settle()
    assert view.browser.value("document.querySelectorAll('.stage').length") == 1
    view.browser.value(choose % (0, "1", fire))
    view.settle()
    assert view.text(".stage h2") == "b.png"
    assert_shows_mean(view, SECOND.attention[-1], 0)
