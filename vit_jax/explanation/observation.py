"""What a model computes of a batch of images: attention, gradients, features; each when it is first asked for."""

import functools
import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.errors import UserError, nearest
from vit_jax.explanation.attention import Sown, in_order
from vit_jax.explanation.gradients import Gradients, Tap, attention_gradients, layer_gradients, layer_values, plain
from vit_jax.explanation.placement import AttentionLayer, map_sides, patch_grid, placed
from vit_jax.explanation.readout import POOL, class_tokens_read
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.picture_model import PictureModel, probabilities
from vit_jax.layers.attention import ATTENTION
from vit_jax.models.stages import StagedClassifier

BLOCKS = re.compile(r"encoder/((?:stage_\d+/)?block_\d+|stage_\d+)/")
"""The layers whose features can be asked for, in the names of their parameters."""

TOKENS = "tokens"
"""The name of the layer before the first block: the embedded patches with their positions."""

EMBEDDED: Tap = ((), "placed_tokens")
"""The method that gives them."""


class Observation:
    """A model, a batch of preprocessed images, and what follows from them.

    Attributes:
      model: what `vit_jax.load_model` returns.
      x: the images.
      chosen: the class that each image is explained for, or None: the one that the model predicts.
    """

    def __init__(
        self,
        model: PictureModel,
        x: Float[np.ndarray, "batch height width 3"],
        chosen: Int[np.ndarray, "batch"] | None = None,
    ):
        """Takes a batch.

        Raises:
          UserError: the model has no weights to look at, or merges tokens.
        """
        if not isinstance(model, LoadedModel):
            raise UserError(f"{model.source} holds a compiled program, which shows nothing within; load its checkpoint")
        if model.merge_tokens:
            raise UserError(f"{model.source}: merged tokens are not shown on the image; load it with merge_tokens=0")
        self.model, self.x, self.chosen = model, x, chosen
        self.variables = model.on_device(x.shape[1:3])
        self.module = plain(model.module)
        self.image_size: tuple[int, int] = x.shape[1:3]
        self._features: dict[str, np.ndarray] = {}

    @property
    def kind(self) -> str:
        """What messages call the model."""
        return f"a {type(self.module).__name__}"

    @functools.cached_property
    def logits(self) -> Float[np.ndarray, "batch classes"]:
        """The class scores.

        Raises:
          UserError: the model has no classifier.
        """
        if not self.model.num_classes:
            raise UserError(f"{self.model.source} has no classifier; choose a method that needs no class")
        return self.model.logits(self.x)

    @functools.cached_property
    def probabilities(self) -> Float[np.ndarray, "batch classes"]:
        """Of every class."""
        return np.asarray(probabilities(self.logits, self.model.loss))

    @functools.cached_property
    def classes(self) -> Int[np.ndarray, "batch"]:
        """The class that each image is explained for."""
        return np.asarray(self.logits.argmax(-1) if self.chosen is None else self.chosen)

    @functools.cached_property
    def layers(self) -> dict[str, AttentionLayer]:
        """The attention of every layer, first to last.

        Raises:
          UserError: the model has none.
        """
        sown = jax.device_get(sown_weights(self.module, self.variables, jnp.asarray(self.x)))
        return self._placed(in_order(sown))

    @functools.cached_property
    def gradients(self) -> Gradients:
        """The gradients of the classes' logits by all attention weights."""
        self.layers  # noqa: B018 - says that there is no attention before any gradient is taken
        x, classes = jnp.asarray(self.x), jnp.asarray(self.classes)
        return attention_gradients(self.module, self.variables, x, classes)

    @functools.cached_property
    def gradient_layers(self) -> dict[str, AttentionLayer]:
        """The gradients by the attention weights, laid out as these are."""
        return self._placed(self.gradients.by_weights)

    def _placed(self, sown: Sown) -> dict[str, AttentionLayer]:
        if not sown:
            raise UserError(
                f"{self.model.source} holds {self.kind}, which has no attention; --method=grad_cam needs none"
            )
        return placed(self.module, self.variables, sown, self.image_size)

    @functools.cached_property
    def blocks(self) -> list[AttentionLayer]:
        """The attention of all blocks among the same tokens, first to last.

        Raises:
          UserError: the blocks do not all attend among all of the same tokens.
        """
        blocks = [layer for name, layer in self.layers.items() if name != POOL]
        if not all(layer.everywhere for layer in blocks) or len({layer.weights.shape[-1] for layer in blocks}) > 1:
            raise UserError(
                f"the layers of {self.kind} attend in windows or among different tokens: nothing can be followed "
                "through all of them; choose attention, attention_gradient or grad_cam"
            )
        return blocks

    @property
    def maps(self) -> list[Float[np.ndarray, "batch heads tokens tokens"]]:
        """The weights of `blocks`."""
        return [layer.weights[:, 0] for layer in self.blocks]

    @property
    def feature_layers(self) -> list[str]:
        """Names of the layers whose features can be looked at: blocks in their order, then stages, then `TOKENS`."""
        names = flax.traverse_util.flatten_dict(self.variables["params"], sep="/")
        found = {match[0] for name in names for match in [BLOCKS.findall(name)] if match}
        found |= {name.partition("/")[0] for name in found}
        blocks = [name for name in found if "block" in name]
        stages = [name for name in found if "block" not in name]
        before = [TOKENS] if hasattr(self.module, EMBEDDED[1]) else []
        return [*sorted(blocks, key=_numbers), *sorted(stages, key=_numbers), *before]

    def feature_tap(self, layer: int | str | None, read: bool = False) -> tuple[str, Tap]:
        """Returns a layer's name, and where its features are.

        Args:
          layer: its name, or its number among the blocks; None is the last one.
          read: only layers will do whose patches the classifier reads, in the end: after the last block of a model
            that classifies by its cls token alone it does not.

        Raises:
          UserError: there is no such layer.
        """
        names = self.feature_layers
        blocks = [name for name in names if "block" in name]
        unread = read and class_tokens_read(self.module) > 0
        if layer is None:
            name = (blocks[-2] if len(blocks) > 1 else TOKENS) if unread else blocks[-1]
        else:
            name = chosen_name(layer, names, len(blocks), self.kind)
        if unread and name == blocks[-1]:
            raise UserError(
                f"after {name}, the last block, the classifier reads the cls token alone, no patch; "
                "choose another layer"
            )
        return name, EMBEDDED if name == TOKENS else (("encoder", *name.split("/")), "__call__")

    def features(self, layer: int | str | None = None) -> Float[np.ndarray, "batch rows columns width"]:
        """Returns the features of the image's places after a layer (see `feature_tap`).

        Raises:
          UserError: there is no such layer.
        """
        name, tap = self.feature_tap(layer)
        if name not in self._features:
            values = np.asarray(layer_values(self.module, self.variables, jnp.asarray(self.x), tap))
            self._features[name] = self.on_grid(values)
        return self._features[name]

    def feature_gradients(self, layer: int | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features of the image's places after a layer, and the gradients of the classes' logits by them.

        Raises:
          UserError: there is no such layer.
        """
        _, tap = self.feature_tap(layer, read=True)
        x, classes = jnp.asarray(self.x), jnp.asarray(self.classes)
        values, gradients = layer_gradients(self.module, self.variables, x, classes, tap)
        return self.on_grid(np.asarray(values)), self.on_grid(np.asarray(gradients))

    def on_grid(self, values: Float[np.ndarray, "batch ..."]) -> Float[np.ndarray, "batch rows columns ..."]:
        """Returns tokens without those that are nowhere, row by row; a map as it is."""
        if values.ndim == 4:
            return values
        rows, columns = self.grid
        return values[:, values.shape[1] - rows * columns :].reshape(len(values), rows, columns, *values.shape[2:])

    @functools.cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of the image.

        Raises:
          UserError: the model has none.
        """
        if hasattr(self.module, "patches"):
            return patch_grid(self.module, self.variables, self.image_size)
        return self.blocks[-1].grid

    @property
    def first_grid(self) -> tuple[int, int]:
        """Rows and columns of the patches, or of the first map of a network in stages."""
        if isinstance(self.module, StagedClassifier):
            return map_sides(self.module, self.variables, self.image_size)[0]
        return self.grid


@functools.partial(jax.jit, static_argnames="module")
def sown_weights(module: nn.Module, variables: dict, images: Float[Array, "batch height width 3"]) -> dict:
    """Returns the attention weights of every layer as they are sown; nothing of a model without attention."""
    return module.apply(variables, images, mutable=[ATTENTION])[1].get(ATTENTION, {})


def chosen_name(layer: int | str, names: list[str], numbered: int, kind: str) -> str:
    """Returns the name of a layer that is given by its name, or by its number (negative ones from the end).

    Args:
      numbered: how many of the names, the first, have numbers.
      kind: what messages call the model.

    Raises:
      UserError: there is no such layer.
    """
    text = str(layer)
    if re.fullmatch(r"-?\d+", text):
        if -numbered <= int(text) < numbered:
            return names[:numbered][int(text)]
        raise UserError(
            f"{kind} has layers 0 to {numbered - 1} here ({names[0]} to {names[numbered - 1]}), no layer {text}"
        )
    if text not in names:
        raise UserError(f"{kind} has no layer {text!r} here{nearest(text, names)}; it has {', '.join(names)}")
    return text


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
