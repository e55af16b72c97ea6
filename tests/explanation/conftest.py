"""A headless browser, and pages that it opens; tests that take them are skipped where there is none."""

import pytest

from tests.explanation.browser import NAMES, find_browser, running_browser
from tests.explanation.pages import FIRST, SECOND, Viewer, small_page
from vit_jax.explanation.page_document import document


@pytest.fixture(scope="package")
def browser(tmp_path_factory):
    """One browser for all tests."""
    if find_browser() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH (Debian's package: chromium)")
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="package")
def files(tmp_path_factory):
    """Pages of one image, of the other, and of both."""
    folder = tmp_path_factory.mktemp("pages")
    written = {}
    for name, images in {"one": [FIRST], "other": [SECOND], "two": [FIRST, SECOND]}.items():
        written[name] = folder / f"{name}.html"
        written[name].write_text(document(small_page(*images)), "utf-8")
    return written


@pytest.fixture
def view(browser, files):
    """The page of one image; afterwards, nothing must stand in the console."""
    browser.scheme("light")
    viewer = Viewer(browser).open(files["one"])
    yield viewer
    assert browser.messages == []
