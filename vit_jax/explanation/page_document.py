"""The interactive page as one HTML file: its template, style and scripts, with a page's numbers laid in."""

import base64
import html
import importlib.resources
import io
import json
import re

import matplotlib
import numpy as np
from PIL import Image

from vit_jax.explanation.figures import COLOURS
from vit_jax.explanation.page_arrays import ALPHABET, Page, PageImage, packed

STYLES = ("base", "stage", "choices", "layout")
"""The parts of the page's style, each before those that have the last word over it."""

SCRIPTS = (
    *("codec", "colours", "words", "dom", "maps", "state", "stage", "panel", "classes"),
    *("other", "options", "keys", "main"),
)
"""The modules of the page's script, each after those that it imports."""


def document(page: Page) -> str:
    """Returns the page as an HTML document that needs nothing beside itself.

    Every name goes in as JSON whose `<` are escaped and is shown as text, so that none can be taken for HTML.
    """
    blocks, images = [], []
    for i, image in enumerate(page.images):
        text, reading = packed(image)
        blocks.append(f'<script type="text/plain" id="vit-data-{i}">{text}</script>')
        images.append({"data": f"vit-data-{i}", **reading, **_described(image)})
    layers, heads = page.images[0].attention.shape[:2]
    layout = {
        "title": page.title,
        "subtitle": page.subtitle,
        "grid": list(page.grid),
        "prefix": list(page.prefix),
        "layers": layers,
        "heads": heads,
        "notes": list(page.notes),
        "colours": colours(),
        "alphabet": ALPHABET,
        "images": images,
    }
    filling = {
        "title": html.escape(page.title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
        "style": "\n".join(asset(f"{name}.css") for name in STYLES),
        "layout": json.dumps(layout).replace("<", "\\u003c"),
        "data": "\n".join(blocks),
        "script": script(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filling[found[1]], asset("page.html"))


def script() -> str:
    """Returns the modules as one script: one after the other in a function, without their imports and exports."""
    bodies = [re.sub(r"(?m)^import .*;\n|^export ", "", asset(f"{name}.js")).strip() for name in SCRIPTS]
    return '(() => {\n"use strict";\n\n' + "\n\n".join(bodies) + "\n})();"


def asset(name: str) -> str:
    """Returns the text of one of the page's files."""
    return importlib.resources.files("vit_jax.explanation").joinpath("page", name).read_text("utf-8")


def colours() -> str:
    """Returns the 256 colours of the maps as hexadecimal digits, six a colour."""
    table = matplotlib.colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]
    return table.tobytes().hex()


def _described(image: PageImage) -> dict[str, object]:
    height, width = image.pixels.shape[:2]
    file = io.BytesIO()
    Image.fromarray(image.pixels).save(file, "png", optimize=True)
    classes = [{"index": c.index, "name": c.name, "probability": float(c.probability)} for c in image.classes]
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"name": image.name, "width": width, "height": height, "source": source, "classes": classes}
