"""Explanations as matplotlib figures, which a notebook shows and `savefig` writes. No state of pyplot is touched."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from vit_jax.explanation.patches import enlarged

COLOURS = "inferno"
"""Equal steps of a value look equally large, in grey too."""

OVER = 0.68
"""How much of a heat map over an image is heat."""

GREYS = (0.25, 0.8)
"""What black and white of the image become beneath it, so that its own contrast is not taken for heat."""

ROBUST = 99.5
"""Percentile of the values where a sheet's colours end, so that one bright place does not darken all others."""


def figure_of_heat_map(
    image: UInt8[np.ndarray, "height width 3"],
    heat: Float[np.ndarray, "rows columns"],
    title: str = "",
    label: str = "",
    limits: tuple[float, float] | None = None,
    place: tuple[int, int] | None = None,
) -> Figure:
    """Returns an image, and beside it the heat map over the image in grey, with a colour bar.

    Args:
      label: what the numbers are.
      limits: of the colours; None is from 0, or the least value below it, to the greatest.
      place: row and column to mark.
    """
    low, high = limits or (min(0.0, float(heat.min())), float(heat.max()))
    high = high if high > low else low + 1.0
    height, width = image.shape[:2]
    tall = 3.0 * height / width
    figure = Figure(figsize=(7.0, tall + 0.55), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
    norm, colours = _scale(low, high)
    grey = np.interp(image.mean(-1, keepdims=True), (0, 255), GREYS)
    warm = colours(norm(enlarged(heat, (height, width))))[..., :3]
    right.imshow((1 - OVER) * grey + OVER * warm, interpolation="nearest", extent=(0, width, height, 0))
    if place is not None:
        _mark(right, place, heat.shape, (height, width))
    for axis in (left, right):
        axis.set_axis_off()
    _colour_bar(figure, right, norm, label)
    figure.suptitle(title, fontsize=11)
    return figure


def figure_of_layers(maps: Mapping[str, Float[np.ndarray, "heads rows columns"]], title: str = "") -> Figure:
    """Returns a sheet with a row for each layer and a column for each head.

    Values are multiples of an even share: 1 is what a place would receive if all received alike. So layers with few
    and with many places share one colour bar.

    Args:
      maps: what each place receives, by the name of the layer, all summing to 1.
    """
    heads = max(len(each) for each in maps.values())
    side = max(max(each.shape[1:]) for each in maps.values())
    side = max(side, 12)
    tiles = np.full((len(maps), heads, side, side), np.nan)
    for row, each in zip(tiles, maps.values(), strict=True):
        rows, columns = each.shape[1:]
        scale = side / max(rows, columns)
        sides = (max(1, round(rows * scale)), max(1, round(columns * scale)))
        for tile, one in zip(row, each * (rows * columns), strict=False):
            tile[: sides[0], : sides[1]] = enlarged(one, sides)
    top = float(np.nanpercentile(tiles, ROBUST))
    cell = 0.78 if heads <= 16 else 0.5
    figure = Figure(figsize=(1.9 + cell * heads, 0.9 + cell * len(maps)), layout="constrained")
    axis = figure.subplots()
    norm, _ = _scale(0.0, max(top, 1.0))
    axis.imshow(mosaic(tiles, 1 + side // 12), cmap=COLOURS, norm=norm, interpolation="nearest")
    step = side + 1 + side // 12
    axis.set_xticks(np.arange(heads) * step + side / 2, [str(i) for i in range(heads)], fontsize=8)
    axis.set_yticks(np.arange(len(maps)) * step + side / 2, list(maps), fontsize=8)
    axis.set_xlabel("head", fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    _colour_bar(figure, axis, norm, "attention, times an even share", extend="max", tall=len(maps) > 6)
    figure.suptitle(title, fontsize=11)
    return figure


def figure_of_distances(distances: Mapping[str, Float[np.ndarray, "heads"]], title: str = "") -> Figure:
    """Returns the mean attention distance of every head, by layer (Dosovitskiy et al. 2021, figure 7, right)."""
    figure = Figure(figsize=(max(4.6, 1.6 + 0.4 * len(distances)), 3.6), layout="constrained")
    axis = figure.subplots()
    for number, each in enumerate(distances.values()):
        axis.plot([number] * len(each), each, "o", color="#1f77b4", alpha=0.6, markersize=5)
    means = [float(np.mean(each)) for each in distances.values()]
    axis.plot(means, color="#d95f02", linewidth=1.5, label="mean of the heads")
    names = [name.removeprefix("block_") for name in distances]
    axis.set_xticks(range(len(names)), names, fontsize=8, rotation=0 if len(max(names, key=len)) < 4 else 60)
    axis.set(xlabel="layer", ylabel="mean attention distance (pixels)", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def figure_of_filters(filters: Float[np.ndarray, "components height width 3"], title: str = "") -> Figure:
    """Returns filters as pictures, mid-grey where they are zero, each scaled by its own largest number."""
    columns = min(7, len(filters))
    scaled = 0.5 + 0.5 * filters / np.abs(filters).max((1, 2, 3), keepdims=True)
    return _figure_of_tiles(_in_rows(scaled, columns), title, 0.85)


def figure_of_channels(features: Float[np.ndarray, "rows columns width"], count: int = 32, title: str = "") -> Figure:
    """Returns the maps of the channels that vary most over the image, each from its least to its greatest value."""
    flat = features.reshape(-1, features.shape[-1])
    order = np.argsort(-flat.std(0), kind="stable")[:count]
    maps = np.moveaxis(features[..., order], -1, 0)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    colours = _scale(0.0, 1.0)[1]
    warm = colours((maps - low) / np.where(high > low, high - low, 1))[..., :3]
    return _figure_of_tiles(_in_rows(warm, min(8, count)), title, 0.85)


def figure_of_positions(cosines: Float[np.ndarray, "rows columns rows columns"], title: str = "") -> Figure:
    """Returns a tile for each place: how alike its embedding is to all others (Dosovitskiy et al. 2021, figure 7)."""
    keep = [np.unique(np.linspace(0, side - 1, min(side, 14)).round().astype(int)) for side in cosines.shape[:2]]
    tiles = cosines[np.ix_(*keep)]
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axis = figure.subplots()
    norm, _ = _scale(float(min(0.0, tiles.min())), 1.0)
    gap = max(1, tiles.shape[2] // 10)
    axis.imshow(mosaic(tiles, gap), cmap=COLOURS, norm=norm, interpolation="nearest")
    for side, numbers, size in ((axis.xaxis, keep[1], tiles.shape[3]), (axis.yaxis, keep[0], tiles.shape[2])):
        side.set_ticks(np.arange(len(numbers)) * (size + gap) + size / 2, [str(i) for i in numbers], fontsize=8)
    axis.set(xlabel="column", ylabel="row")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    _colour_bar(figure, axis, norm, "cosine similarity", tall=True)
    figure.suptitle(title, fontsize=11)
    return figure


def figure_of_pictures(pictures: Sequence[np.ndarray], titles: Sequence[str] = (), title: str = "") -> Figure:
    """Returns pictures side by side, of pixels from 0 to 255 or of colours from 0 to 1."""
    height, width = max((picture.shape[:2] for picture in pictures), key=lambda sides: sides[0] / sides[1])
    figure = Figure(figsize=(3.0 * len(pictures), 3.0 * height / width + 0.6), layout="constrained")
    for number, (axis, picture) in enumerate(
        zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True)
    ):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(titles[number] if number < len(titles) else "", fontsize=9)
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure


def mosaic(tiles: Float[np.ndarray, "rows columns height width ..."], gap: int) -> Float[np.ndarray, "h w ..."]:
    """Returns tiles as one picture with `gap` pixels of nothing (NaN) between them."""
    rows, columns, height, width = tiles.shape[:4]
    framed = np.full((rows, height + gap, columns, width + gap, *tiles.shape[4:]), np.nan)
    framed[:, :height, :, :width] = np.moveaxis(tiles, 1, 2)
    whole = framed.reshape(rows * (height + gap), columns * (width + gap), *tiles.shape[4:])
    return whole[:-gap, :-gap]


def _in_rows(tiles: Float[np.ndarray, "tiles height width 3"], columns: int) -> np.ndarray:
    missing = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.full((missing, *tiles.shape[1:]), np.nan)])
    return tiles.reshape(-1, columns, *tiles.shape[1:])


def _figure_of_tiles(tiles: Float[np.ndarray, "rows columns height width 3"], title: str, cell: float) -> Figure:
    rows, columns, height, width = tiles.shape[:4]
    figure = Figure(figsize=(cell * columns + 0.2, cell * rows * height / width + 0.5), layout="constrained")
    axis = figure.subplots()
    picture = mosaic(tiles, math.ceil(width / 12))
    axis.imshow(np.nan_to_num(picture, nan=1.0), interpolation="nearest")
    axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure


def _scale(low: float, high: float):
    """Returns what makes numbers colours."""
    import matplotlib
    from matplotlib.colors import Normalize

    return Normalize(low, high, clip=True), matplotlib.colormaps[COLOURS]


def _colour_bar(figure: Figure, axis, norm, label: str, extend: str = "neither", tall: bool = False) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=axis, fraction=0.05, pad=0.02, extend=extend, shrink=0.6 if tall else 1.0
    )
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.ax.ticklabel_format(style="sci", scilimits=(-3, 4), useMathText=True)
    bar.outline.set_visible(False)


def _mark(axis, place: tuple[int, int], grid: tuple[int, int], sides: tuple[int, int]) -> None:
    """Draws a frame around a place."""
    from matplotlib.patches import Rectangle

    height, width = (side / count for side, count in zip(sides, grid, strict=True))
    axis.add_patch(
        Rectangle((place[1] * width, place[0] * height), width, height, fill=False, edgecolor="#00e5ff", linewidth=1.8)
    )
