"""Heat maps over images, by the name of the method that makes them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError, nearest
from vit_jax.explanation.flow import attention_flow
from vit_jax.explanation.grad_cam import grad_cam
from vit_jax.explanation.observation import Observation, chosen_name
from vit_jax.explanation.placement import AttentionLayer
from vit_jax.explanation.readout import POOL, class_tokens_read, readout
from vit_jax.explanation.relevance import relevance, weighted
from vit_jax.explanation.rollout import rollout

HeatMaps = Float[np.ndarray, "batch rows columns"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a person may choose of a method; None is its default.

    Attributes:
      layer: of one layer: its name, or its number. Attention has one for each layer that attends, attention pooling
        the last; Grad-CAM for each block.
      head: of one head, counted from 0; None is the mean.
      place: row and column of the place that attends; None is what the model reads (see `attention`).
      fusion, discard_ratio: see `vit_jax.explanation.rollout.rollout`.
    """

    layer: int | str | None = None
    head: int | None = None
    place: tuple[int, int] | None = None
    fusion: str | None = None
    discard_ratio: float | None = None

    def given(self) -> set[str]:
        """Returns the names of those that were chosen."""
        return {field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None}


@dataclasses.dataclass(frozen=True)
class Method:
    """A way from what a model computes to one number for each place of an image.

    Attributes:
      make: the way itself.
      takes: which of the options it takes.
      of_class: it explains one class.
      says: what a place's number is, for a colour bar.
      title: what it is called in print.
    """

    make: Callable[[Observation, Options], HeatMaps]
    takes: frozenset[str]
    of_class: bool
    says: str
    title: str


def chosen_layer(seen: Observation, layer: int | str | None) -> AttentionLayer:
    """Returns one layer's attention; None is the last.

    Raises:
      UserError: there is no such layer.
    """
    names = list(seen.layers)
    return seen.layers[names[-1] if layer is None else chosen_name(layer, names, len(names), seen.kind)]


def one_head(maps: Float[np.ndarray, "batch heads rows columns"], head: int | None, layer: str) -> HeatMaps:
    """Returns the map of one head, or the mean of all.

    Raises:
      UserError: there is no such head.
    """
    if head is None:
        return maps.mean(1)
    if not 0 <= head < maps.shape[1]:
        raise UserError(f"{layer} has heads 0 to {maps.shape[1] - 1}, no head {head}")
    return maps[:, head]


def asking(
    seen: Observation, layer: AttentionLayer, place: tuple[int, int] | None
) -> Float[np.ndarray, "1 groups queries"]:
    """Returns the weights of the queries whose attention is shown.

    They are those of one place, or else of what the model reads: its cls token (and dist token, half each), or all
    places alike; with attention pooling its probe.
    """
    if place is not None:
        return layer.only(*place)
    if class_tokens_read(seen.module) and layer.everywhere:
        return readout(seen.module, {}, 1, layer.weights.shape[-1])[:, None]
    return layer.all_alike()


def attention(seen: Observation, options: Options) -> HeatMaps:
    """Returns the attention in one layer that each place receives from what `asking` says."""
    layer = chosen_layer(seen, options.layer)
    return one_head(layer.asked(asking(seen, layer, options.place)), options.head, layer.name)


def attention_gradient(seen: Observation, options: Options) -> HeatMaps:
    """Returns what in one layer's attention speaks for the class, received from what `asking` says.

    That is the positive part of ∇A ⊙ A (Chefer et al. 2021, eq. 5).
    """
    layer = chosen_layer(seen, options.layer)
    by_weights = seen.gradient_layers[layer.name]
    positive = np.maximum(layer.weights * by_weights.weights, 0)
    maps = dataclasses.replace(layer, weights=positive).asked(asking(seen, layer, options.place))
    return one_head(maps, options.head, layer.name)


def attention_rollout(seen: Observation, options: Options) -> HeatMaps:
    """Returns how much of what the model reads comes from each place, through all layers."""
    maps = seen.maps
    last = rollout(maps, options.fusion or "mean", options.discard_ratio or 0.0)[-1]
    read = readout(seen.module, seen.layers, len(maps[0]), maps[0].shape[-1])
    return seen.on_grid(np.einsum("bq,bqk->bk", read, np.asarray(last)))


def flow(seen: Observation, options: Options) -> HeatMaps:
    """Returns the greatest flow from what the model reads to each place, through all layers."""
    maps = seen.maps
    read = readout(seen.module, seen.layers, len(maps[0]), maps[0].shape[-1])
    return seen.on_grid(attention_flow(maps, read, options.fusion or "mean", seen.blocks[0].prefix))


def class_relevance(seen: Observation, options: Options) -> HeatMaps:
    """Returns how relevant each place is to the class, through all layers, for what the model reads.

    The rows of relevance are those of the cls token, or the mean of the patches' where a mean of them is read; the
    identity that it starts from, each token's relevance to itself, is left out. With attention pooling the rows are
    weighted as its probe attends, by the same rule (see `relevance.weighted`).
    """
    maps = seen.maps
    by_maps = [seen.gradient_layers[layer.name].weights[:, 0] for layer in seen.blocks]
    last = np.asarray(relevance(maps, by_maps)[-1])
    if POOL in seen.layers:
        probe = weighted(seen.layers[POOL].weights[:, 0], seen.gradient_layers[POOL].weights[:, 0])[:, 0]
        read = np.pad(probe, ((0, 0), (last.shape[-1] - probe.shape[1], 0)))
    else:
        read, last = readout(seen.module, seen.layers, len(last), last.shape[-1]), last - np.eye(last.shape[-1])
    return seen.on_grid(np.einsum("bq,bqk->bk", read, last).astype(np.float32))


def class_activation(seen: Observation, options: Options) -> HeatMaps:
    """Returns the Grad-CAM of a layer's features, the last whose places the classifier reads unless one is chosen."""
    return np.asarray(grad_cam(*seen.feature_gradients(options.layer)))


ROLLOUT = frozenset({"fusion", "discard_ratio"})
ONE_LAYER = frozenset({"layer", "head", "place"})

METHODS: dict[str, Method] = {
    "attention": Method(attention, ONE_LAYER, False, "attention", "attention"),
    "rollout": Method(attention_rollout, ROLLOUT, False, "share of what is read", "attention rollout"),
    "flow": Method(flow, frozenset({"fusion"}), False, "greatest flow", "attention flow"),
    "attention_gradient": Method(
        attention_gradient, ONE_LAYER, True, "attention times gradient", "attention times gradient"
    ),
    "relevance": Method(class_relevance, frozenset(), True, "relevance to the class", "class-specific relevance"),
    "grad_cam": Method(class_activation, frozenset({"layer"}), True, "Grad-CAM", "Grad-CAM"),
}
"""Raw attention; Abnar & Zuidema 2020 (two); Chefer et al. 2021 (two); Selvaraju et al. 2017."""


def method_named(name: str) -> Method:
    """Returns a method.

    Raises:
      UserError: there is none of that name.
    """
    if name not in METHODS:
        raise UserError(f"there is no method {name!r}{nearest(name, list(METHODS))}; known are {', '.join(METHODS)}")
    return METHODS[name]


def require_taken(options: Options, names: Sequence[str]) -> None:
    """Raises a `UserError` for an option that none of the methods takes."""
    for option in sorted(options.given()):
        if not any(option in METHODS[name].takes for name in names):
            users = ", ".join(name for name, method in METHODS.items() if option in method.takes)
            raise UserError(f"{option} means nothing to {', '.join(names)}; it is an option of {users}")
