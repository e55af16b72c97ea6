"""What the command draws of an image or of a model, by name."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from vit_jax.explanation import figures
from vit_jax.explanation.distance import mean_distance
from vit_jax.explanation.filters import first_kernel, principal_filters
from vit_jax.explanation.methods import METHODS, ONE_LAYER, Options, asking, chosen_layer, method_named
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.patches import apart, cut
from vit_jax.explanation.positions import position_embeddings, position_similarity
from vit_jax.explanation.readout import POOL
from vit_jax.explanation.tokens import principal_colours, similarity


@dataclasses.dataclass(frozen=True)
class Sight:
    """One image and what a model computes of it.

    Attributes:
      image: as the model sees it, before normalisation.
      seen: a batch of it alone.
      options: what a person chose.
      explained: the class that is explained, with its probability; "" of a model without classes.
      predicted: the class that the model predicts, likewise.
    """

    image: UInt8[np.ndarray, "height width 3"]
    seen: Observation
    options: Options
    explained: str = ""
    predicted: str = ""

    def titled(self, what: str, of_class: bool = False) -> str:
        """Returns a title: what is drawn, and for which class, or what the model says."""
        if of_class:
            return f"{what} for {self.explained}"
        return f"{what} · predicted: {self.predicted}" if self.predicted else what

    @property
    def centre(self) -> tuple[int, int]:
        """The chosen place, or the middle of the grid."""
        rows, columns = self.seen.features(self.options.layer).shape[1:3]
        return self.options.place or (rows // 2, columns // 2)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A way from an image to a figure.

    Attributes:
      draw: the way itself.
      caption: what it shows, with its source.
      takes: the options that it takes.
      of_class: it explains one class.
      of_model: it shows the model alone, whatever the image.
    """

    draw: Callable[[Sight], Figure]
    caption: str
    takes: frozenset[str] = frozenset()
    of_class: bool = False
    of_model: bool = False


def heat_map_of(name: str) -> Callable[[Sight], Figure]:
    """Returns what draws the heat map of a method."""

    def draw(sight: Sight) -> Figure:
        method = method_named(name)
        heat = method.make(sight.seen, sight.options)[0]
        what = method.title
        if "layer" in method.takes and name != "grad_cam":
            what += f", {chosen_layer(sight.seen, sight.options.layer).name}"
            what += ", mean of the heads" if sight.options.head is None else f", head {sight.options.head}"
        elif name == "grad_cam":
            what += f", {sight.seen.feature_tap(sight.options.layer, read=True)[0]}"
        place = sight.options.place if "place" in method.takes else None
        return figures.figure_of_heat_map(
            sight.image, heat, sight.titled(what, method.of_class), method.says, place=place
        )

    return draw


def heads(sight: Sight) -> Figure:
    """Draws every layer and head."""
    layers = sight.seen.layers
    maps = {name: layer.asked(asking(sight.seen, layer, None))[0] for name, layer in layers.items()}
    return figures.figure_of_layers(maps, sight.titled("attention of each layer and head"))


def distance(sight: Sight) -> Figure:
    """Draws how far heads look."""
    blocks = {name: layer for name, layer in sight.seen.layers.items() if name != POOL}
    distances = {name: mean_distance(layer, sight.seen.image_size)[0] for name, layer in blocks.items()}
    return figures.figure_of_distances(distances, "how far each head looks")


def patches(sight: Sight) -> Figure:
    """Draws the image cut up."""
    pieces = cut(sight.image, sight.seen.first_grid)
    rows, columns, height, width = pieces.shape[:4]
    picture = apart(pieces, max(1, round(min(height, width) / 10)))
    return figures.figure_of_pictures(
        [sight.image, picture], title=f"as the model sees it: {rows} x {columns} patches of {height} x {width} pixels"
    )


def features(sight: Sight) -> Figure:
    """Draws the channels that vary most."""
    name, _ = sight.seen.feature_tap(sight.options.layer)
    return figures.figure_of_channels(
        sight.seen.features(sight.options.layer)[0], title=f"{name}: the channels that vary most"
    )


def pca(sight: Sight) -> Figure:
    """Draws the tokens' principal components as colours."""
    name, _ = sight.seen.feature_tap(sight.options.layer)
    colours = principal_colours(sight.seen.features(sight.options.layer))[0]
    title = f"{name}: three principal components of the tokens"
    return figures.figure_of_pictures([sight.image, colours], title=title)


def similar(sight: Sight) -> Figure:
    """Draws how alike all tokens are to one."""
    name, _ = sight.seen.feature_tap(sight.options.layer)
    alike = similarity(sight.seen.features(sight.options.layer), sight.centre)[0]
    title = f"{name}: how alike the tokens are to that at {sight.centre[0]},{sight.centre[1]}"
    return figures.figure_of_heat_map(sight.image, alike, title, "cosine similarity", place=sight.centre)


def filters(sight: Sight) -> Figure:
    """Draws what the first layer looks for."""
    components = principal_filters(first_kernel(sight.seen.variables["params"]))
    return figures.figure_of_filters(components, f"first {len(components)} principal components of the filters")


def positions(sight: Sight) -> Figure:
    """Draws how alike positions are."""
    seen = sight.seen
    cosines = position_similarity(position_embeddings(seen.module, seen.variables, seen.image_size))
    return figures.figure_of_positions(cosines, "similarity of the position embeddings")


CAPTIONS = {
    "attention": "Attention of one layer to each place (Vaswani et al. 2017).",
    "rollout": "Attention rollout through all layers (Abnar & Zuidema 2020).",
    "flow": "Attention flow through all layers (Abnar & Zuidema 2020).",
    "attention_gradient": "Attention times its gradient in one layer (Chefer et al. 2021).",
    "relevance": "Relevance to the class through all layers (Chefer et al. 2021).",
    "grad_cam": "Grad-CAM (Selvaraju et al. 2017).",
}

LAYER = frozenset({"layer"})

DRAWINGS: dict[str, Drawing] = {
    **{
        name: Drawing(heat_map_of(name), CAPTIONS[name], method.takes, method.of_class)
        for name, method in METHODS.items()
    },
    "heads": Drawing(heads, "Attention of each layer (rows) and head (columns)."),
    "distance": Drawing(distance, "Mean attention distance of each head (Dosovitskiy et al. 2021, figure 7)."),
    "patches": Drawing(patches, "The image cut up as the model sees it."),
    "features": Drawing(features, "Feature maps of one layer.", LAYER),
    "pca": Drawing(pca, "Token features as colours (Oquab et al. 2023).", LAYER),
    "similarity": Drawing(similar, "Similarity of all tokens to the marked one.", ONE_LAYER - {"head"}),
    "filters": Drawing(filters, "What the first layer looks for (Dosovitskiy et al. 2021, figure 7).", of_model=True),
    "positions": Drawing(positions, "Position embeddings (Dosovitskiy et al. 2021, figure 7).", of_model=True),
}
"""In the order in which they are drawn."""
