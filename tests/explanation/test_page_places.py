"""The interactive page in a headless Chromium: other files, other screens, other ways of use."""

import json

import numpy as np

from tests.explanation.pages import (
    FIRST,
    NASTY,
    SECOND,
    assert_shows,
    assert_shows_row,
    page_image,
    patches,
    small_page,
    token,
)
from vit_jax.explanation.page_document import document

ROLES = {"application", "button", "checkbox", "combobox", "radio", "slider"}
"""What a person can use, as screen readers call it."""


def set_file(browser, path):
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="input[type=file]")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def test_an_image_of_another_page_is_compared(view, files):
    set_file(view.browser, files["other"])
    view.browser.until("document.querySelectorAll('.stage').length == 2 && document.querySelectorAll('h2')[1].title")
    assert view.text(".stage h2", 1) == "b.png"
    view.choose("head", 0)
    view.hover(0, 2, slot=1)
    assert_shows(view, patches(SECOND.attention[-1, 0, token(0, 2)]), SECOND.attention[-1, 0, token(0, 2)].max(), 1)


def test_a_file_that_cannot_be_compared_is_said(view, tmp_path):
    stranger = tmp_path / "stranger.html"
    other = small_page(page_image(), prefix=("cls", "dist"), title="What deit sees")
    for text, line in {
        "<p>hello</p>": "stranger.html is no page like this one.",
        document(
            other
        ): "stranger.html cannot be compared: its maps have another shape (What deit sees, 24x32 pixels).",
    }.items():
        stranger.write_text(text, "utf-8")
        set_file(view.browser, stranger)
        view.browser.until(f"document.querySelector('[role=status]').textContent == {json.dumps(line)}")
    assert view.browser.value("document.querySelectorAll('.stage').length") == 1


def test_names_are_text_whatever_they_hold(view, tmp_path):
    path = tmp_path / "nasty.html"
    shown = NASTY.replace("\udcff", "\ufffd")
    page = small_page(page_image(name=NASTY, classes=[(0, NASTY)]), title=NASTY, subtitle=NASTY, notes=[NASTY])
    path.write_text(document(page), "utf-8")
    view.open(path)
    for selector in ("h1", ".stage h2", ".class .name"):
        assert view.text(selector).replace("\udcff", "\ufffd") == shown
    assert view.browser.value("window.harmed") is None
    assert view.browser.value("document.querySelectorAll('img').length") == 2  # large and small
    assert view.browser.requests == [path.as_uri()]


def contrast(first, second):
    """Returns the contrast of two colours as WCAG 2.2 defines it."""

    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def colours_of(browser):
    names = ("paper", "raised", "ink", "muted", "accent", "on-accent")
    script = (
        f"JSON.stringify({json.dumps(names)}.map((n) => getComputedStyle(document.body).getPropertyValue('--' + n)))"
    )
    return dict(zip(names, map(str.strip, json.loads(browser.value(script))), strict=True))


def test_both_colour_schemes_are_readable_and_the_button_turns_them(view):
    found = {}
    for scheme in ("light", "dark"):
        view.browser.scheme(scheme)
        found[scheme] = colours_of(view.browser)
        for ink in ("ink", "muted", "accent"):
            for paper in ("paper", "raised"):
                assert contrast(found[scheme][ink], found[scheme][paper]) >= 4.5, (scheme, ink, paper)
        assert contrast(found[scheme]["on-accent"], found[scheme]["accent"]) >= 4.5
    assert found["light"] != found["dark"]
    view.browser.value("document.querySelector('header button').click()")
    assert colours_of(view.browser) == found["light"]
    view.browser.value("document.querySelector('header button').click()")
    assert colours_of(view.browser) == found["dark"]


def test_fits_a_phone_and_takes_taps(view, files):
    view.open(files["two"], 360, 740, touch=True)
    assert view.browser.value("document.documentElement.scrollWidth") == 360
    view.choose("head", 0)
    view.browser.tap(*view.middle_of_patch(2, 1))
    view.settle()
    assert_shows_row(view, FIRST.attention[-1, 0], token(2, 1))
    small = "[...document.querySelectorAll('label, button, select')].filter((e) => e.getClientRects().length)"
    sizes = json.loads(
        view.browser.value(
            f"JSON.stringify({small}.map((e) => e.getBoundingClientRect()).map((b) => [b.width, b.height]))"
        )
    )
    assert min(min(size) for size in sizes) >= 24  # WCAG 2.2, criterion 2.5.8


def test_whatever_can_be_used_has_a_name_for_screen_readers(view, files):
    view.open(files["two"])
    nodes = view.browser.call("Accessibility.getFullAXTree")["nodes"]
    used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in ROLES]
    assert {node["role"]["value"] for node in used} == ROLES
    assert not [node for node in used if not node.get("name", {}).get("value", "").strip()]


def test_works_in_a_frame_without_rights_as_notebooks_show_it(view, files, tmp_path):
    frame = tmp_path / "frame.html"
    source = files["one"].read_text("utf-8").replace("&", "&amp;").replace('"', "&quot;")
    spy = "<script>addEventListener('message', (event) => (window.said = event.data))</script>"
    line = "document.querySelector('.readout')?.textContent"
    tell = f"<script>setInterval(() => parent.postMessage({line}, '*'), 20)</script>"
    frame.write_text(f'{spy}<iframe sandbox="allow-scripts" srcdoc="{source}{tell}"></iframe>', "utf-8")
    view.browser.open(frame)
    view.browser.until("window.said?.startsWith('cls attends most to patch ')")


def test_a_browser_that_cannot_inflate_is_told_so_in_one_line(view, files):
    script = "delete window.DecompressionStream"
    number = view.browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)["identifier"]
    view.browser.open(files["one"])
    view.browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=number)
    assert view.text("#vit-page").startswith("This browser cannot inflate the page's data")
    assert view.browser.value("document.querySelectorAll('#vit-page > *').length") == 1
