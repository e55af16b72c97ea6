"""The interactive page: attention, rollout and class relevance of images in one HTML file that needs nothing else."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.errors import UserError, explained_writes
from vit_jax.explanation.classes import class_number
from vit_jax.explanation.methods import Options, class_relevance
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.page_arrays import ClassMap, Page, PageImage
from vit_jax.explanation.page_document import document
from vit_jax.explanation.rollout import rollout
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.picture_model import Picture

TOP = 5
"""Classes of an image whose relevance is shown whether or not they are asked for."""

MOST_NUMBERS = 25_000_000
"""Of an image's attention and rollout, a byte each: beyond it the page holds the mean of the heads alone. A ViT-B/16
has 6 million at 224 pixels, a ViT-L/16 16 million; at 384 pixels a ViT-B/16 has 52 million."""


def write_page(
    path: pathlib.Path,
    model: LoadedModel,
    pictures: Sequence[Picture],
    names: Sequence[str],
    classes: Sequence[int] = (),
) -> None:
    """Writes a page on which attention, rollout and class relevance of pictures can be explored.

    It is one HTML file: it opens from disk, in a notebook's output and without any network. Of a ViT-B/16 at 224 pixels
    it takes at most 8 MB a picture.

    Args:
      pictures: as `predict` takes them.
      names: what each is called on the page.
      classes: whose relevance is shown beside that of each picture's five most probable.

    Raises:
      UserError: the model has no attention among all patches, merges tokens, or has more attention than a page can
        hold; a class does not exist; a picture cannot be read; or the file cannot be written.
      ValueError: the names are not as many as the pictures.
    """
    if not len(pictures):
        raise UserError("there are no images to look at")
    if len(names) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures have {len(names)} names")
    images, notes = [], []
    for picture, name in zip(pictures, names, strict=True):
        pixels = model.view(picture)
        seen = Observation(model, model.preprocessing.normalised(pixels[None]))
        attention, note = page_attention(seen)
        images.append(page_image(seen, name, pixels, attention, classes))
        if note and note not in notes:
            notes.append(note)
            warnings.warn(note, stacklevel=2)
    rows, columns = seen.grid
    layers, heads = len(seen.maps), seen.maps[0].shape[1]
    height, width = seen.image_size
    page = Page(
        f"What {model.weights.name} sees",
        f"{height}x{width} pixels · {rows}x{columns} patches · {layers} layers · {heads} heads",
        seen.grid,
        prefix_names(seen),
        images,
        notes,
    )
    _write(path, document(page))


def page_attention(seen: Observation) -> tuple[Float[np.ndarray, "layers heads tokens tokens"], str | None]:
    """Returns the attention of one image as the page holds it, and what is to be said of it.

    Raises:
      UserError: the model does not attend among all of the same tokens in all layers, or the page cannot hold it.
    """
    try:
        attention = np.concatenate(seen.maps)
    except UserError as error:
        raise UserError(f"the interactive page shows attention among all patches alone: {error}") from error
    layers, heads, tokens, _ = attention.shape
    if (heads + 1) * layers * tokens**2 <= MOST_NUMBERS:
        return attention, None
    if 2 * layers * tokens**2 > MOST_NUMBERS:
        raise UserError(
            f"{seen.model.source}: {layers} layers of attention among {tokens} tokens are too much for one page; "
            "choose a smaller --image_size"
        )
    note = f"The page holds the mean of the {heads} heads alone: all of them among {tokens} tokens would be too large."
    return attention.mean(1, keepdims=True), note


def page_image(
    seen: Observation,
    name: str,
    pixels: UInt8[np.ndarray, "height width 3"],
    attention: Float[np.ndarray, "layers heads tokens tokens"],
    classes: Sequence[int],
) -> PageImage:
    """Returns the maps of one image.

    Raises:
      UserError: a class does not exist.
    """
    rolled = np.asarray(rollout(seen.maps))[:, 0]
    return PageImage(name, pixels, attention, rolled, class_maps(seen, classes))


def class_maps(seen: Observation, classes: Sequence[int]) -> list[ClassMap]:
    """Returns the relevance for an image's most probable classes and for those given, the most probable first.

    Raises:
      UserError: a class does not exist.
    """
    given = [class_number(seen.model, i) for i in classes]
    count = seen.model.num_classes
    if not count:
        return []
    probabilities = seen.probabilities[0]
    order = np.argsort(-probabilities, kind="stable")
    chosen = [int(i) for rank, i in enumerate(order) if rank < TOP or i in given]
    names = seen.model.class_names or [f"class {i}" for i in range(count)]
    return [ClassMap(i, names[i], float(probabilities[i]), _relevance(seen, i)) for i in chosen]


def _relevance(seen: Observation, index: int) -> Float[np.ndarray, "rows columns"]:
    one = Observation(seen.model, seen.x, np.array([index]))
    return class_relevance(one, Options())[0]


def prefix_names(seen: Observation) -> list[str]:
    """Returns what the tokens before the patches are called."""
    named = list(getattr(seen.module, "class_token_names", ()))
    return named + [f"register {i}" for i in range(seen.blocks[0].prefix - len(named))]


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        with explained_writes(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, "utf-8")
            os.replace(part, path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another path") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there any more, or never was
            part.unlink()
