"""Explanations of a loaded model and pictures, as arrays over the places of each image."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.errors import UserError
from vit_jax.explanation.classes import Class, class_numbers
from vit_jax.explanation.distance import mean_distance
from vit_jax.explanation.filters import SHOWN, first_kernel, principal_filters
from vit_jax.explanation.methods import Options, asking, method_named, require_taken
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.patches import apart, cut
from vit_jax.explanation.positions import position_embeddings, position_similarity
from vit_jax.explanation.readout import POOL
from vit_jax.explanation.tokens import principal_colours, similarity
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.picture_model import Picture, PictureModel

BATCH = 8
"""Images at once: their attention, its gradients and what these are made of are held in memory."""


def heat_maps(
    model: LoadedModel,
    pictures: Picture | Sequence[Picture],
    method: str = "rollout",
    classes: Class | Sequence[Class] | None = None,
    **options,
) -> Float[np.ndarray, "pictures rows columns"]:
    """Returns one number for each place of each picture, by a method of `vit_jax.explanation.methods.METHODS`.

    Args:
      model: what `vit_jax.load_model` returns.
      pictures: paths, PIL images or uint8 arrays, as `predict` takes them.
      method: `attention`, `rollout`, `flow`, `attention_gradient`, `relevance` or `grad_cam`.
      classes: that a method of a class explains: one for all pictures, or one each; a name, or a number counted from
        0. None: for each picture the one that the model predicts.
      options: `layer`, `head`, `place`, `fusion`, `discard_ratio`, as far as the method takes them; see
        `vit_jax.explanation.methods.Options`.

    Raises:
      UserError: a picture cannot be read, or there is no such method, class, layer, head or place, or the model has not
        what the method needs, or the method does not take an option.
    """
    way, chosen = method_named(method), Options(**options)
    require_taken(chosen, [method])
    if classes is not None and not way.of_class:
        raise UserError(f"{method} explains no class; leave classes out, or take relevance")
    return np.concatenate(_observed(model, pictures, lambda seen: way.make(seen, chosen), classes))


def layer_attention(
    model: LoadedModel, pictures: Picture | Sequence[Picture]
) -> dict[str, Float[np.ndarray, "pictures heads rows columns"]]:
    """Returns for every layer and head the attention that each place receives from what the model reads.

    Raises:
      UserError: a picture cannot be read, or the model has no attention.
    """

    def received(seen: Observation):
        return {name: layer.asked(asking(seen, layer, None)) for name, layer in seen.layers.items()}

    return _joined(_observed(model, pictures, received))


def attention_distances(
    model: LoadedModel, pictures: Picture | Sequence[Picture]
) -> dict[str, Float[np.ndarray, "pictures heads"]]:
    """Returns for every block and head how far it looks, in pixels; see `vit_jax.explanation.distance.mean_distance`.

    Raises:
      UserError: a picture cannot be read, or the model has no attention.
    """

    def distances(seen: Observation):
        return {name: mean_distance(layer, seen.image_size) for name, layer in seen.layers.items() if name != POOL}

    return _joined(_observed(model, pictures, distances))


def feature_maps(
    model: LoadedModel, pictures: Picture | Sequence[Picture], layer: int | str | None = None
) -> Float[np.ndarray, "pictures rows columns width"]:
    """Returns the features of each place after a layer: its name, or its number among the blocks; None is the last.

    Raises:
      UserError: a picture cannot be read, or there is no such layer.
    """
    return np.concatenate(_observed(model, pictures, lambda seen: seen.features(layer)))


def token_colours(
    model: LoadedModel, pictures: Picture | Sequence[Picture], layer: int | str | None = None
) -> Float[np.ndarray, "pictures rows columns 3"]:
    """Returns the principal components of the features as colours, shared by all pictures (see `principal_colours`).

    Raises:
      UserError: a picture cannot be read, or there is no such layer.
    """
    return principal_colours(feature_maps(model, pictures, layer))


def token_similarity(
    model: LoadedModel,
    pictures: Picture | Sequence[Picture],
    place: tuple[int, int],
    layer: int | str | None = None,
) -> Float[np.ndarray, "pictures rows columns"]:
    """Returns the cosine of each place's features with those of a chosen row and column.

    Raises:
      UserError: a picture cannot be read, or there is no such layer or place.
    """
    return similarity(feature_maps(model, pictures, layer), place)


def embedding_filters(model: LoadedModel, count: int = SHOWN) -> Float[np.ndarray, "components height width 3"]:
    """Returns the principal components of the filters by which the model takes in pixels.

    Raises:
      UserError: it has no weights, or no such filters.
    """
    require_weights(model)
    return principal_filters(first_kernel(model.variables["params"]), count)


def position_similarities(model: LoadedModel) -> Float[np.ndarray, "rows columns rows columns"]:
    """Returns how alike the position embeddings of the places are, for the model's image size.

    Raises:
      UserError: it has no weights, or adds no positions to its tokens.
    """
    require_weights(model)
    size = model.preprocessing.size
    variables = model.on_device(size)
    return position_similarity(position_embeddings(model.module, variables, size))


def visualize_patches(model: LoadedModel, picture: Picture, gap: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture cut up as the model sees it, with white between the patches.

    They are those of the patch embedding; of a network in stages, what the places of its first map stand for.

    Args:
      gap: pixels between them; None is a tenth of a patch.

    Raises:
      UserError: the picture cannot be read.
    """
    require_weights(model)
    view = model.view(picture)
    seen = Observation(model, model.preprocessing.normalised(view[None]))
    patches = cut(view, seen.first_grid)
    return apart(patches, max(1, round(min(patches.shape[2:4]) / 10)) if gap is None else gap)


def require_weights(model: PictureModel) -> None:
    """Raises a `UserError` for a model of which only a compiled program is there."""
    if not isinstance(model, LoadedModel):
        raise UserError(f"{model.source} holds a compiled program, which shows nothing within; load its checkpoint")


def _observed(
    model: LoadedModel,
    pictures: Picture | Sequence[Picture],
    call: Callable[[Observation], object],
    classes: Class | Sequence[Class] | None = None,
) -> list:
    """Returns what a function makes of the pictures, a batch at a time."""
    require_weights(model)
    x = model.preprocess(pictures)
    chosen = class_numbers(model, classes, len(x))
    starts = range(0, len(x), BATCH)
    return [
        call(Observation(model, x[i : i + BATCH], None if chosen is None else chosen[i : i + BATCH])) for i in starts
    ]


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
