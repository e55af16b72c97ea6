"""Figures: what their numbers are, and that nothing of pyplot's is touched."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.explanation import figures
from vit_jax.explanation.figures import (
    figure_of_channels,
    figure_of_distances,
    figure_of_filters,
    figure_of_heat_map,
    figure_of_layers,
    figure_of_pictures,
    figure_of_positions,
    mosaic,
)

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (8, 12, 3), dtype=np.uint8)
HEAT = GENERATOR.random((2, 3))


def drawn(figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


FIGURES = {
    "heat map": lambda: figure_of_heat_map(IMAGE, HEAT, "a title", "attention", place=(1, 2)),
    "nothing": lambda: figure_of_heat_map(IMAGE, 0 * HEAT),
    "layers": lambda: figure_of_layers({"block_0": HEAT[None].repeat(2, 0), "map_pool": HEAT[None, :1]}),
    "distances": lambda: figure_of_distances({"block_0": np.array([3.0, 4.0]), "block_1": np.array([5.0])}),
    "filters": lambda: figure_of_filters(GENERATOR.normal(size=(9, 4, 4, 3))),
    "channels": lambda: figure_of_channels(GENERATOR.normal(size=(2, 3, 40))),
    "positions": lambda: figure_of_positions(GENERATOR.uniform(-1, 1, (3, 20, 3, 20))),
    "pictures": lambda: figure_of_pictures([IMAGE, IMAGE / 255], ["one", "other"], "both"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_drawn(name):
    picture = drawn(FIGURES[name]())
    assert len(set(picture.convert("L").getdata())) > 10
    assert "matplotlib.pyplot" not in sys.modules


def test_the_colours_of_a_heat_map_are_those_of_its_bar():
    figure = figure_of_heat_map(IMAGE, HEAT, label="attention")
    left, right, bar = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array(), IMAGE)
    assert bar.get_ylim() == (0, HEAT.max())
    assert bar.get_ylabel() == "attention"
    shown = np.asarray(right.images[0].get_array())
    norm, colours = figures._scale(0, HEAT.max())
    grey = np.interp(IMAGE[5, 10].mean(), (0, 255), figures.GREYS)
    expected = (1 - figures.OVER) * grey + figures.OVER * np.array(colours(norm(HEAT[1, 2]))[:3])
    np.testing.assert_allclose(shown[5, 10], expected, atol=1e-6)
    assert figure_of_heat_map(IMAGE, HEAT - 2).axes[2].get_ylim() == (HEAT.min() - 2, HEAT.max() - 2)


def test_a_sheet_shows_multiples_of_an_even_share():
    even = np.full((1, 3, 4), 1 / 12)
    figure = figure_of_layers({"stage_0": even, "stage_1": np.full((2, 1, 2), 1 / 2)})
    tiles = np.asarray(figure.axes[0].images[0].get_array(), np.float64)
    assert np.nanmin(np.ma.filled(tiles, np.nan)) == pytest.approx(1)
    assert np.nanmax(np.ma.filled(tiles, np.nan)) == pytest.approx(1)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["stage_0", "stage_1"]


def test_a_mosaic_holds_its_tiles_row_by_row():
    tiles = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    whole = mosaic(tiles, 2)
    assert whole.shape == (2 * 4 + 2, 3 * 5 + 4)
    np.testing.assert_array_equal(whole[6:10, 7:12], tiles[1, 1])
    assert np.isnan(whole[4:6]).all()
