"""Pages with random maps, and what a browser shows of them."""

import base64
import functools
import json
import zlib

import numpy as np
from jaxtyping import Float

from tests.explanation.browser import Browser
from vit_jax.explanation.page_arrays import ClassMap, Page, PageImage
from vit_jax.explanation.page_document import colours

GRID = (3, 4)
PREFIX = ("cls", "register 0")
TOKENS = len(PREFIX) + GRID[0] * GRID[1]
LAYERS, HEADS = 3, 2

NASTY = '</script><img src=x onerror="window.harmed=1">&amp;{{title}} \u2028\udcff'
"""A file name or a name of a class that would do harm where it is taken for anything but text."""


def random_maps(seed: int = 0, layers: int = LAYERS, heads: int = HEADS, tokens: int = TOKENS):
    """Returns attention and rollout, random shares that sum to 1 in each row."""
    generator = np.random.default_rng(seed)
    attention = generator.random((layers, heads, tokens, tokens), np.float32) ** 3
    rollout = generator.random((layers, tokens, tokens), np.float32)
    return attention / attention.sum(-1, keepdims=True), rollout / rollout.sum(-1, keepdims=True)


def page_image(seed: int = 0, name: str = "a.png", classes=((3, "cat"), (5, "dog"))) -> PageImage:
    """Returns a small image and its maps."""
    generator = np.random.default_rng(100 + seed)
    pixels = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    listed = [
        ClassMap(index, name, 0.5**i, generator.random(GRID).astype(np.float32) * 10.0 ** -(3 * i))
        for i, (index, name) in enumerate(classes)
    ]
    return PageImage(name, pixels, *random_maps(seed), listed)


def small_page(*images: PageImage, **fields) -> Page:
    """Returns a page of one image, or of those given."""
    fields = {"title": "What a model sees", "subtitle": "24x32 pixels", "grid": GRID, "prefix": PREFIX, **fields}
    return Page(images=images or (page_image(),), **fields)


def unpacked(text: str, reading: dict) -> dict[str, np.ndarray]:
    """Returns the arrays of a packed image, read by Python's own decoders."""
    deflated = base64.b85decode(text.translate({ord(","): "<", ord("."): "&"}))[: reading["length"]]
    raw, at, arrays = zlib.decompress(deflated), 0, {}
    for part in reading["parts"]:
        kind = np.dtype(part["type"]).newbyteorder("<")
        arrays[part["name"]] = np.frombuffer(raw, kind, part["size"], at)
        assert at % kind.itemsize == 0
        at += part["size"] * kind.itemsize
    assert at == len(raw)
    return arrays


FIRST, SECOND = page_image(0, "a.png"), page_image(1, "b.png", classes=[(5, "dog"), (7, "eel")])
"""The images of the pages that the tests share: with one class in common."""


class Viewer:
    """What a person sees and does on a page that is open in a browser."""

    def __init__(self, browser: Browser):
        self.browser = browser

    def open(self, path, width: int = 1200, height: int = 1000, touch: bool = False) -> "Viewer":
        """Opens a page's file in a window of that size and waits until it is drawn."""
        self.browser.size(width, height, touch)
        self.browser.open(path)
        self.browser.until("Number(document.getElementById('vit-page').dataset.drawn) > 0")
        return self

    def settle(self) -> None:
        """Waits until what was done is drawn."""
        self.browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def box(self, selector: str, number: int = 0) -> dict[str, float]:
        """Returns where an element is, after scrolling to it."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        self.browser.value(f"{found}.scrollIntoView({{block: 'nearest'}})")
        return json.loads(self.browser.value(f"JSON.stringify({found}.getBoundingClientRect())"))

    def middle_of_patch(self, row: int, column: int, slot: int = 0) -> tuple[float, float]:
        """Returns where on the window a patch is."""
        box = self.box(".picture", slot)
        return box["x"] + (column + 0.5) * box["width"] / GRID[1], box["y"] + (row + 0.5) * box["height"] / GRID[0]

    def hover(self, row: int, column: int, slot: int = 0) -> None:
        """Moves the mouse over a patch."""
        self.browser.mouse("mouseMoved", *self.middle_of_patch(row, column, slot))
        self.settle()

    def hold(self, row: int, column: int) -> None:
        """Clicks on a patch."""
        self.browser.click(*self.middle_of_patch(row, column))
        self.settle()

    def choose(self, group: str, value: object) -> None:
        """Clicks on one of a group of choices."""
        box = self.box(f'label:has(input[name="{group}"][value="{value}"])')
        self.browser.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.settle()

    def press(self, key: str, shift: bool = False) -> None:
        """Presses a key."""
        self.browser.key(key, shift)
        self.settle()

    def text(self, selector: str, number: int = 0) -> str:
        """Returns an element's text."""
        return self.browser.value(f"document.querySelectorAll({json.dumps(selector)})[{number}].textContent")

    def limits(self, slot: int = 0) -> tuple[float, float]:
        """Returns the numbers at the ends of the colour bar."""
        found = json.loads(
            self.browser.value(f"JSON.stringify(document.querySelectorAll('.scale canvas')[{slot}].dataset)")
        )
        return float(found["low"]), float(found["high"])

    def shown(self, slot: int = 0) -> Float[np.ndarray, "rows columns"]:
        """Returns the numbers that the colours of the heat map stand for."""
        script = """(() => {
          const canvas = document.querySelectorAll(".picture canvas")[%d];
          const copy = new OffscreenCanvas(canvas.width, canvas.height);
          const context = copy.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
          return JSON.stringify({ data: [...data], columns: canvas.width });
        })()"""
        found = json.loads(self.browser.value(script % slot))
        pixels = np.array(found["data"], np.uint8).reshape(-1, found["columns"], 4)
        assert (pixels[..., 3] == 255).all()
        numbers = np.array([[colour_numbers()[tuple(pixel[:3])] for pixel in row] for row in pixels])
        low, high = self.limits(slot)
        return low + numbers / 255 * (high - low)


@functools.cache
def colour_numbers() -> dict[tuple[int, int, int], int]:
    """Returns the place of each colour in the table of colours."""
    table = np.frombuffer(bytes.fromhex(colours()), np.uint8).reshape(256, 3)
    numbers = {tuple(colour): number for number, colour in enumerate(table)}
    assert len(numbers) == 256
    return numbers


def token(row: int, column: int) -> int:
    """Returns the number of a patch's token."""
    return len(PREFIX) + row * GRID[1] + column


def patches(values: Float[np.ndarray, "... tokens"]) -> Float[np.ndarray, "... rows columns"]:
    """Returns the numbers of the patches, row by row."""
    return values[..., len(PREFIX) :].reshape(*values.shape[:-1], *GRID)


def assert_shows(view: Viewer, expected, steps, slot: int = 0) -> None:
    """Asserts that the map shows numbers: to half a step of their rows and half a step of the colours.

    Args:
      steps: the largest number of the row that each is of, or the mean of those where a mean is shown.
    """
    shown = view.shown(slot)
    low, high = view.limits(slot)
    tolerance = (0.501 * np.broadcast_to(steps, expected.shape) + 0.501 * (high - low)) / 255
    assert (np.abs(shown - expected) <= tolerance).all(), np.abs(shown - expected).max() / tolerance.min()


def assert_shows_row(view: Viewer, matrix, query: int, slot: int = 0) -> None:
    """Asserts that the map shows where a token attends: to 1/255 of the largest number of its row."""
    assert_shows(view, patches(matrix[query]), matrix[query].max(), slot)
    np.testing.assert_allclose(view.shown(slot), patches(matrix[query]), rtol=0, atol=1.01 / 255 * matrix[query].max())


def assert_shows_mean(view: Viewer, matrices, query: int, slot: int = 0) -> None:
    """Asserts that the map shows where a token attends in the mean of all heads."""
    assert_shows(view, patches(matrices[:, query].mean(0)), matrices[:, query].max(-1).mean(), slot)
