"""A loaded model: weights, preprocessing and class names in one object."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vit_jax.data.decode import UnreadableImage, as_seen
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.explanation.attention import attention_maps
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.surgery import Surgery, fit
from vit_jax.pretrained.weights import Weights, flat, parameter_shapes

BATCH = 32
"""Images that go through the model at once."""

Picture = str | pathlib.Path | Image.Image | np.ndarray


def load_model(
    checkpoint: str | pathlib.Path, image_size: tuple[int, int] | int | None = None, **overrides
) -> "LoadedModel":
    """Returns the `LoadedModel` of a CHECKPOINT (see `vit_jax.pretrained.load.load_weights` for what that may be).

    Args:
      image_size: height and width that the model shall see; positions are resized to it. None is what the
        preprocessing says that comes with the weights, as a rule the size that they were trained at.
      overrides: model fields: those that the file cannot tell (`heads=3`), or others (`dtype="bfloat16"`).

    Raises:
      UserError: the checkpoint cannot be read, or does not fit the overrides.
    """
    read = functools.partial(load_weights, str(checkpoint), **overrides)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    try:
        weights = read()
    except UserError:
        if size is None:
            raise
        weights = None
    if size is not None and (weights is None or weights.image_size is None):
        weights = read(size)  # the size settles what the file leaves open
    return LoadedModel(weights, size, read)


class LoadedModel:
    """A model with its weights, its preprocessing and its class names.

    Attributes:
      module: the Linen module; `module.apply(variables, x)` returns logits.
      variables: `{"params": …}`, as NumPy arrays.
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
        self.class_names: list[str] | None = weights.class_names
        self.preprocessing: Preprocessing = weights.preprocessing
        self._take(weights, image_size)

    def _take(self, weights: Weights, image_size: tuple[int, int] | None) -> None:
        """Takes over weights and all that follows from them."""
        self.weights = weights
        self.module: nn.Module = weights.module
        if image_size is not None and image_size != self.preprocessing.size:
            self.preprocessing = self.preprocessing.at_size(image_size)
        known = weights.image_size is not None
        self.variables = self.variables_for(self.preprocessing.size) if known else weights.variables
        self._apply = jax.jit(self.module.apply, static_argnames=("method", "layers"))
        self._on_device = {}  # by image size; the model is asked for few

    def variables_for(self, size: tuple[int, int]) -> dict:
        """Returns the variables for images of a height and width, positions resized where their grid is another.

        Raises:
          UserError: the model takes no images of that size.
        """
        if _fits(self.weights, size):
            return self.weights.variables

        def initial():
            image = jnp.zeros((1, *size, 3))
            return flat(jax.device_get(jax.jit(self.module.init)(jax.random.key(0), image))["params"])

        params, _ = fit(self.weights, self.module, tuple(size), initial, Surgery())
        return {"params": flax.traverse_util.unflatten_dict(params, sep="/")}

    def logits(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch classes"]:
        """Returns the logits of images that are already preprocessed; of a model without classes, the embedding."""
        return self._call(x)

    def embeddings(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch width"]:
        """Returns the pooled vectors before the head of images that are already preprocessed."""
        return self._call(x, method="embed")

    def features(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch tokens width"]:
        """Returns the tokens before pooling of images that are already preprocessed."""
        return self._call(x, method="features")

    def intermediates(
        self, x: Float[Array, "batch height width 3"], layers: Sequence[int] | None = None
    ) -> list[Float[np.ndarray, "batch tokens width"]]:
        """Returns the tokens after each of `layers` (None: all) of images that are already preprocessed."""
        layers = tuple(range(self.module.depth)) if layers is None else tuple(layers)
        return self._call(x, method="intermediates", layers=layers)

    def attention(self, x: Float[Array, "batch height width 3"]) -> list[Float[np.ndarray, "batch heads q k"]]:
        """Returns the attention weights of every block of images that are already preprocessed."""
        variables = self._variables(x.shape[1:3])
        if not hasattr(self.module, "heads"):
            raise UserError(f"{self.weights.source} holds a {type(self.module).__name__}, which has no attention")
        return jax.device_get(attention_maps(self.module, variables, jnp.asarray(x)))

    def predict(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "images classes"]:
        """Returns the class probabilities of pictures: paths, PIL images or uint8 arrays, of any size.

        Raises:
          UserError: a picture cannot be read, or the model has no classes.
        """
        if not self.module.num_classes:
            raise UserError(f"{self.weights.source} has no classifier; embed(images) gives its vectors")
        logits = self._in_batches(images, self.logits)
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "images width"]:
        """Returns the pooled vectors before the head of pictures: paths, PIL images or uint8 arrays, of any size.

        Raises:
          UserError: a picture cannot be read.
        """
        return self._in_batches(images, self.embeddings)

    def preprocess(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "images height width 3"]:
        """Returns pictures as the model takes them.

        Raises:
          UserError: a picture cannot be read.
        """
        return self.preprocessing.normalised(np.stack([self.view(image) for image in _listed(images)]))

    def view(self, image: Picture) -> UInt8[np.ndarray, "height width 3"]:
        """Returns what the model sees of a picture, before normalisation.

        Raises:
          UserError: the picture cannot be read.
        """
        try:
            return self.preprocessing.transform().evaluate(_pixels(image))
        except (UnreadableImage, OSError, SyntaxError) as error:  # the last is what Pillow calls a broken PNG file
            name = image if isinstance(image, str | pathlib.Path) else getattr(image, "filename", "") or "an image"
            raise UserError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from error

    def _in_batches(self, images, call) -> np.ndarray:
        images = _listed(images)
        parts = []
        for first in range(0, len(images), BATCH):
            x = self.preprocess(images[first : first + BATCH])
            filled = min(BATCH, len(images)) - len(x)
            x = np.concatenate([x, np.zeros((filled, *x.shape[1:]), x.dtype)])
            parts.append(call(x)[: len(x) - filled])
        return np.concatenate(parts)

    def _variables(self, size: tuple[int, int]) -> dict:
        size = tuple(size)
        unknown = self.weights.image_size is None and self.read_for is not None
        if unknown and not _fits(self.weights, size):
            self._take(self.read_for(size), size)
        if size not in self._on_device:
            same = unknown or size == tuple(self.preprocessing.size)
            self._on_device[size] = jax.device_put(self.variables if same else self.variables_for(size))
        return self._on_device[size]

    def _call(self, x, **options):
        variables = self._variables(x.shape[1:3])
        return jax.device_get(self._apply(variables, jnp.asarray(x), **options))


def _fits(weights: Weights, size: tuple[int, int]) -> bool:
    """Returns whether weights fit images of a size as they are."""
    if weights.image_size is not None:
        return tuple(weights.image_size) == tuple(size)
    shapes = parameter_shapes(weights.module, tuple(size))
    return all(weights.params[name].shape == shape for name, shape in shapes.items())


def _listed(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """Returns pictures as a sequence, where one stands alone too."""
    single = images.ndim != 4 if isinstance(images, np.ndarray) else isinstance(images, Picture)
    images = [images] if single else images
    if not len(images):
        raise UserError("there are no images to look at")
    return images


def _pixels(image: Picture) -> np.ndarray | bytes:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"an image must be uint8 [height, width, 3], not {image.dtype} {image.shape}")
        return image
    if isinstance(image, Image.Image):
        return as_seen(image)
    return pathlib.Path(image).read_bytes()
