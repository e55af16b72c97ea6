"""What every loaded model does with pictures, whatever computes its answers."""

import abc
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vit_jax.data.decode import UnreadableImage, as_seen
from vit_jax.data.folder_tables import shown
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError

BATCH = 32
"""Images that go through the model at once."""

Picture = str | pathlib.Path | Image.Image | np.ndarray


class PictureModel(abc.ABC):
    """A model with its preprocessing and its class names.

    Attributes:
      preprocessing: from a picture to what the model takes.
      class_names: in the order of the logits, or None where they are not known.
      source: where it comes from, for messages.
      loss: what makes probabilities of its logits: `softmax`, or `sigmoid` where each class is judged by itself.
    """

    preprocessing: Preprocessing
    class_names: list[str] | None
    source: str
    loss: str

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of classes, 0 where there is no classifier."""

    @abc.abstractmethod
    def logits(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch classes"]:
        """Returns the logits of images that are already preprocessed; of a model without classes, the embedding."""

    @abc.abstractmethod
    def embeddings(self, x: Float[Array, "batch height width 3"]) -> Float[np.ndarray, "batch width"]:
        """Returns the pooled vectors before the head of images that are already preprocessed."""

    def predict(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "images classes"]:
        """Returns the class probabilities of pictures: paths, PIL images or uint8 arrays, of any size.

        Raises:
          UserError: a picture cannot be read, or the model has no classes.
        """
        if not self.num_classes:
            raise UserError(f"{self.source} has no classifier; embed(images) gives its vectors")
        return np.asarray(probabilities(self._in_batches(images, self.logits), self.loss))

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
        except (UnreadableImage, OSError, SyntaxError, MemoryError) as error:  # SyntaxError: Pillow's for a broken PNG
            name = image if isinstance(image, str | pathlib.Path) else getattr(image, "filename", "") or "an image"
            reason = getattr(error, "strerror", None) or str(error) or "it needs more memory than there is"
            raise UserError(f"cannot read {shown(str(name))}: {reason}") from error

    def _in_batches(self, images: Picture | Sequence[Picture], call: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        images = _listed(images)
        parts = []
        for first in range(0, len(images), BATCH):
            x = self.preprocess(images[first : first + BATCH])
            filled = min(BATCH, len(images)) - len(x)
            x = np.concatenate([x, np.zeros((filled, *x.shape[1:]), x.dtype)])
            parts.append(call(x)[: len(x) - filled])
        return np.concatenate(parts)


def probabilities(logits: Float[Array, "batch classes"], loss: str) -> Float[Array, "batch classes"]:
    """Returns the class probabilities of logits: their softmax, or their sigmoid where the training's loss was that."""
    return jax.nn.sigmoid(logits) if loss == "sigmoid" else jax.nn.softmax(logits, axis=-1)


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
