"""The windows of Swin Transformers: what files tell of them, and where libraries choose others."""

import math
import re
from collections.abc import Mapping, Sequence

from vit_jax.errors import UserError
from vit_jax.layers.window_attention import window_of
from vit_jax.pretrained.weights import Weights

PUBLISHED_WINDOW = 8
"""Of most published models of version 2, where nothing tells it."""


def chosen_windows(
    fields: Mapping[str, object], tables: Sequence[int], image_size: tuple[int, int] | None
) -> tuple[dict[str, object], list[str]]:
    """Returns the fields that say how windows are chosen, and a note where their size was assumed.

    Args:
      fields: what else is known; `window_size` is as `config.json` or the caller states it, or None.
      tables: of version 1, the number of relative positions in each stage.
      image_size: that the tables were learned for, or None where nothing tells.

    Raises:
      UserError: a table is that of no window.
    """
    stated, square = fields.get("window_size"), bool(fields.get("square_windows"))
    if fields["version"] == 2:
        built = huggingface_windows(fields, image_size) if square and image_size else {}
        return {**built, "window_size": stated or PUBLISHED_WINDOW}, [] if stated else [assumption(PUBLISHED_WINDOW)]
    each = stated if isinstance(stated, tuple) and len(stated) == len(tables) else (stated,) * len(tables)
    if image_size is None:
        found = [square_window(i, rows) for i, rows in enumerate(tables)]
        told = square or found == list(each)  # Hugging Face's tables are square whatever the maps are
        return {"window_size": alike(found)}, [] if told else [assumption(alike(found))]
    maps = [map_of(fields["patch_size"], image_size, i) for i in range(len(tables))]
    found = [window_on_map(i, *of, square) for i, of in enumerate(zip(tables, each, maps, strict=True))]
    if stated is None and all(positions(max(found), of, square) == rows for rows, of in zip(tables, maps, strict=True)):
        return {"window_size": max(found)}, []  # the smaller ones are all of a map
    return {"window_size": alike(found)}, []


def map_of(patch_size: tuple[int, int], image_size: tuple[int, int], stage: int) -> tuple[int, int]:
    """Returns rows and columns of a stage's map."""
    return tuple(-(-side // (patch * 2**stage)) for side, patch in zip(image_size, patch_size, strict=True))


def positions(window: int, sides: tuple[int, int], square: bool) -> int:
    """Returns the number of relative positions in the windows of a map."""
    return math.prod(2 * side - 1 for side in window_of(sides, window, False, square)[0])


def window_on_map(stage: int, rows: int, stated: int | None, sides: tuple[int, int], square: bool) -> int:
    """Returns the window that has so many relative positions on a map: the stated one, if it has.

    Raises:
      UserError: none has.
    """
    for window in (stated, *range(1, max(sides) + 1)):
        if window and positions(window, sides, square) == rows:
            return window
    raise UserError(
        f"stage {stage} has {rows} relative positions, which are those of no window on a map of {sides[0]}x{sides[1]} "
        "places; image_size=... tells the size that they were learned for"
    )


def square_window(stage: int, rows: int) -> int:
    """Returns the window that has so many relative positions where it is no larger than its map: square.

    Raises:
      UserError: none has.
    """
    side = math.isqrt(rows)
    if side**2 == rows and side % 2:
        return (side + 1) // 2
    raise UserError(
        f"stage {stage} has {rows} relative positions, which are those of no square window; image_size=..., "
        "window_size=..., or config.json beside the file, tell what they are"
    )


def alike(windows: Sequence[int]) -> int | tuple[int, ...]:
    """Returns the windows of all stages as one number where they are the same."""
    return windows[0] if len(set(windows)) == 1 else tuple(windows)


def assumption(window: int | tuple[int, ...]) -> str:
    """Returns the note of a window that was assumed."""
    return f"nothing tells the windows: {window} places a side are assumed (window_size=N and image_size settle it)"


def huggingface_windows(fields: Mapping[str, object], image_size: tuple[int, int]) -> dict[str, object]:
    """Returns the fields that say how Hugging Face chooses windows in a model that is built for an image size.

    Version 1 looks at each image's maps. Version 2 goes by the rows of the maps that it was built for, and counts them
    down where its maps are rounded up.

    Raises:
      UserError: no row is left.
    """
    if fields["version"] == 1:
        return {"square_windows": True, "deciding_rows": 0}
    first = image_size[0] // fields["patch_size"][0]
    rows = tuple(first // 2**i for i in range(len(fields["depths"])))
    if not rows[-1]:
        height, width = image_size
        raise UserError(f"images of {height}x{width} are too small for Hugging Face's Swin V2 of {len(rows)} stages")
    return {"square_windows": True, "deciding_rows": rows}


def require_same_windows(weights: Weights, kind: str, **theirs: object) -> None:
    """Raises a `UserError` where a library has other windows for images of the model's size, or pads them otherwise.

    Args:
      theirs: the fields that say how the library chooses windows.
    """
    module, size = weights.module, weights.image_size or weights.preprocessing.size
    images = f"{size[0]}x{size[1]} images"
    try:
        same = module.clone(**theirs).windows(size) == module.windows(size)
    except ValueError as error:
        raise UserError(f"the {kind} format has no Swin Transformers for {images}: {error}") from error
    if not same:
        others = {field: value for field, value in theirs.items() if getattr(module, field) != value}
        advice = " ".join(f"--model.{field}={written(value)}" for field, value in others.items())
        raise UserError(
            f"the {kind} format cannot express square_windows={module.square_windows} with deciding_rows="
            f"{written(module.deciding_rows)} for {images}, whose windows or shift would be others; {advice} writes it "
            "all the same, as another model"
        )


def written(value: object) -> str:
    """Returns a field's value as a command line has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def told_by_architecture(name: str) -> dict[str, object]:
    """Returns timm's arguments that the name of an architecture tells, such as `swinv2_base_window12to16_192to256`."""
    found = re.search(r"window(\d+)(?:to(\d+)_(\d+)to)?", name)
    if found is None:
        return {}
    window, larger, size = (int(number) if number else None for number in found.groups())
    if larger is None:
        return {"window_size": window}
    return {"window_size": larger, "pretrained_window_sizes": [min(window, size // 4 // 2**i) for i in range(4)]}


def stated_windows(stated: object) -> int | tuple[int, ...] | None:
    """Returns timm's windows, one or one for each stage; a pair is the rows and columns of one window.

    Raises:
      UserError: a window is not square.
    """
    if stated is None or isinstance(stated, int):
        return stated
    if len(stated) == 2 and all(isinstance(side, int) for side in stated):
        stated = [stated]
    each = [list(window) if isinstance(window, Sequence) else [window, window] for window in stated]
    if any(rows != columns for rows, columns in each):
        raise UserError(f"config.json: window_size {stated} is not square; the windows here are")
    windows = tuple(int(rows) for rows, _ in each)
    return windows[0] if len(set(windows)) == 1 else windows
