"""A loaded model: weights, preprocessing and class names in one object."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError, named
from vit_jax.explanation.attention import attention_maps
from vit_jax.inference.exported import ExportedModel, load_exported
from vit_jax.inference.picture_model import PictureModel
from vit_jax.layers.token_merging import MergedTokens
from vit_jax.models.registry import check_field, field_types
from vit_jax.pretrained.bundle import PROGRAMS, bundle_folder, read_bundle
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.surgery import Surgery, fit
from vit_jax.pretrained.weights import Weights, flat, parameter_shapes, variables_of

MERGE = "merge_tokens"
"""The field of models whose tokens can be merged."""


def load_model(
    checkpoint: str | pathlib.Path, image_size: tuple[int, int] | int | None = None, **overrides
) -> "LoadedModel | ExportedModel":
    """Returns the model of a CHECKPOINT (see `vit_jax.pretrained.load.load_weights` for what that may be).

    Of a bundle that holds a compiled program (`vit_jax.export --format=stablehlo` or `onnx`) it is an `ExportedModel`,
    which has no weights and takes no overrides.

    Args:
      image_size: height and width that the model shall see; positions are resized to it. None is what the
        preprocessing says that comes with the weights, as a rule the size that they were trained at.
      overrides: model fields: those that the file cannot tell (`heads=3`), or others (`dtype="bfloat16"`;
        `merge_tokens=8` merges tokens that are alike, see `vit_jax.layers.token_merging`).

    Raises:
      UserError: the checkpoint cannot be read, or does not fit the overrides.
    """
    folder = bundle_folder(pathlib.Path(checkpoint).expanduser())
    if folder is not None and (bundle := read_bundle(folder)).format in PROGRAMS:
        return load_exported(folder, bundle, _sides(image_size), overrides)
    return load_with_weights(checkpoint, image_size, **overrides)


def load_with_weights(
    checkpoint: str | pathlib.Path, image_size: tuple[int, int] | int | None = None, **overrides
) -> "LoadedModel":
    """Returns what `load_model` does, of a CHECKPOINT that holds weights.

    Raises:
      UserError: the checkpoint cannot be read, holds no weights, or does not fit the overrides.
    """
    size = _sides(image_size)
    read = functools.partial(_weights, str(checkpoint), **overrides)
    try:
        weights = read()
    except UserError:
        if size is None:
            raise
        weights = None
    if size is not None and (weights is None or weights.image_size is None):
        weights = read(size)  # the size settles what the file leaves open
    return LoadedModel(weights, size, read)


def _weights(
    checkpoint: str, image_size: tuple[int, int] | None = None, merge_tokens: int | None = None, **overrides
) -> Weights:
    """Returns weights whose model merges so many tokens a block; None is what the checkpoint says, as a rule none."""
    weights = load_weights(checkpoint, image_size, **overrides)
    if merge_tokens is None:
        return weights
    known = field_types(type(weights.module))
    if MERGE not in known:
        name = type(weights.module).__name__
        raise UserError(f"{weights.source} holds a {name}, whose tokens cannot be merged; leave merge_tokens out")
    if check_field(weights.name, known, MERGE, merge_tokens) < 0:
        raise UserError(f"merge_tokens must be a whole number from 0 up, not {merge_tokens}")
    return dataclasses.replace(weights, fields={**weights.fields, MERGE: merge_tokens})


class LoadedModel(PictureModel):
    """A model with its weights, its preprocessing and its class names.

    Attributes:
      module: the Linen module; `module.apply(variables, x)` returns logits.
      variables: `{"params": …}`, and `batch_stats` where there are batch norms, as NumPy arrays.
      preprocessing: from a picture to what the model takes.
      class_names: in the order of the logits, or None where they are not known.
      weights: what was read, with notes and what was not used.
    """

    def __init__(
        self,
        weights: Weights,
        image_size: tuple[int, int] | None = None,
        read_for: Callable[[tuple[int, int]], Weights] | None = None,
    ):
        """Makes a model of weights.

        Args:
          image_size: height and width that the model shall see; None is what the weights' preprocessing says.
          read_for: reads the weights again, as trained at a given size, where nothing told that size.
        """
        self.read_for = read_for
        self.loss: str = weights.loss
        self.class_names: list[str] | None = weights.class_names
        self.preprocessing: Preprocessing = weights.preprocessing
        self._take(weights, image_size)

    def _take(self, weights: Weights, image_size: tuple[int, int] | None) -> None:
        """Takes over weights and all that follows from them."""
        self.weights = weights
        self.source: str = weights.source
        self.module: nn.Module = weights.module
        if image_size is not None and image_size != self.preprocessing.size:
            self.preprocessing = self.preprocessing.at_size(image_size)
        known = weights.image_size is not None
        self.variables = self.variables_for(self.preprocessing.size) if known else weights.variables
        self._apply = jax.jit(self.module.apply, static_argnames=("method", "layers"))
        self._on_device = {}  # by image size; the model is asked for few

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where there is no classifier."""
        return self.module.num_classes

    @property
    def merge_tokens(self) -> int:
        """How many tokens each block merges at most; 0 also of a model that merges none ever."""
        return getattr(self.module, MERGE, 0)

    @property
    def notes(self) -> list[str]:
        """What a person should know: what was assumed of the weights, and whether tokens are merged."""
        merging = f"each block merges up to {self.merge_tokens} tokens into others: faster, with slightly other answers"
        return [*self.weights.notes, *([merging] if self.merge_tokens else [])]

    def weights_in_use(self) -> Weights:
        """Returns the weights for the image size of the preprocessing, as they are used: positions resized to it.

        Raises:
          UserError: the model takes no images of that size.
        """
        size = tuple(self.preprocessing.size)
        variables = jax.device_get(self.on_device(size))
        return dataclasses.replace(
            self.weights, params=flat(variables), image_size=size, preprocessing=self.preprocessing
        )

    def variables_for(self, size: tuple[int, int]) -> dict:
        """Returns the variables for images of a height and width, positions resized where their grid is another.

        Raises:
          UserError: the model takes no images of that size.
        """

        def initial():
            image = jnp.zeros((1, *size, 3))
            return flat(jax.device_get(jax.jit(self.module.init)(jax.random.key(0), image)))

        with named(self.source):
            if _fits(self.weights, size):
                return self.weights.variables
            params, _ = fit(self.weights, self.module, tuple(size), initial, Surgery())
        return variables_of(params)

    def logits(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch classes"]:
        """Returns the logits of images that are already preprocessed; of a model without classes, the embedding."""
        return self._call(x)

    def embeddings(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch width"]:
        """Returns the pooled vectors before the head of images that are already preprocessed."""
        return self._call(x, method="embed")

    def features(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch tokens width"]:
        """Returns the tokens before pooling of images that are already preprocessed.

        With `merge_tokens` they are fewer; `merged_features` tells which patches each stands for.
        """
        return self._call(x, method="features")

    def merged_features(self, x: Float[Array, "batch height width 3"]) -> MergedTokens:
        """Returns the tokens before pooling, as NumPy arrays, their sizes and which patches each stands for.

        Raises:
          UserError: the model merges no tokens.
        """
        if not self.merge_tokens:
            raise UserError(f"{self.source} merges no tokens; load it with merge_tokens=R, or ask for its features")
        return self._call(x, method="merged_features")

    def intermediates(
        self, x: Float[Array, "batch height width 3"], layers: Sequence[int] | None = None
    ) -> list[Float[np.ndarray, "batch tokens width"]]:
        """Returns the tokens after each of `layers` (None: all) of images that are already preprocessed."""
        layers = tuple(range(self.module.depth)) if layers is None else tuple(layers)
        return self._call(x, method="intermediates", layers=layers)

    def attention(self, x: Float[Array, "batch height width 3"]) -> list[Float[np.ndarray, "batch heads q k"]]:
        """Returns the attention weights of every block of images that are already preprocessed."""
        variables = self.on_device(x.shape[1:3])
        if not hasattr(self.module, "heads"):
            raise UserError(f"{self.weights.source} holds a {type(self.module).__name__}, which has no attention")
        if self.merge_tokens:
            raise UserError(f"{self.source}: attention between merged tokens is not shown; load it with merge_tokens=0")
        return jax.device_get(attention_maps(self.module, variables, jnp.asarray(x)))

    def on_device(self, size: tuple[int, int]) -> dict:
        """Returns what `variables_for` does, as arrays on the device, made once for each size.

        Raises:
          UserError: the model takes no images of that size.
        """
        size = tuple(size)
        unknown = self.weights.image_size is None and self.read_for is not None
        if unknown and not _fits(self.weights, size):
            self._take(self.read_for(size), size)
        if size not in self._on_device:
            same = unknown or size == tuple(self.preprocessing.size)
            self._on_device[size] = jax.device_put(self.variables if same else self.variables_for(size))
        return self._on_device[size]

    def _call(self, x, **options):
        variables = self.on_device(x.shape[1:3])
        return jax.device_get(self._apply(variables, jnp.asarray(x), **options))


def _sides(image_size: tuple[int, int] | int | None) -> tuple[int, int] | None:
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def _fits(weights: Weights, size: tuple[int, int]) -> bool:
    """Returns whether weights fit images of a size as they are."""
    if weights.image_size is not None:
        return tuple(weights.image_size) == tuple(size)
    shapes = parameter_shapes(weights.module, tuple(size))
    return all(weights.params[name].shape == shape for name, shape in shapes.items())
