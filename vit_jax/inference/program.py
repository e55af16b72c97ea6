"""A model as one function of a batch of images: what the formats of compiled programs write."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array

from vit_jax.inference.picture_model import probabilities
from vit_jax.pretrained.weights import variables_of


@dataclasses.dataclass(frozen=True)
class Program:
    """A function `program(params, images)`, and what belongs to it.

    Attributes:
      module: the model.
      params: by flat name.
      size: height and width of the images.
      input: their type, `uint8` or, normalised, `float32`.
      output: what the function gives, one of `vit_jax.pretrained.bundle.OUTPUTS`.
      dtype: in which it computes.
      mean, std: of the pixels, for a `uint8` input.
      loss: what makes probabilities of the logits.
    """

    module: nn.Module
    params: dict[str, np.ndarray]
    size: tuple[int, int]
    input: str
    output: str
    dtype: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    loss: str

    def __call__(self, params: Mapping[str, Array], images: Array) -> Array:
        """Returns the outputs of images `[batch, height, width, 3]`, float32 `[batch, outputs]`."""
        if self.input == "uint8":
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            images = (images.astype(jnp.float32) / 255 - mean) / std
        outputs = self.module.apply(variables_of(params), images).astype(jnp.float32)
        return probabilities(outputs, self.loss) if self.output == "probabilities" else outputs

    def images(self, batch: int | str) -> jax.ShapeDtypeStruct:
        """Returns the shape and type of the images, of a batch of so many or of any number by that name."""
        if isinstance(batch, str):
            (batch,) = jax.export.symbolic_shape(batch)
        return jax.ShapeDtypeStruct((batch, *self.size, 3), self.input)

    @property
    def bytes(self) -> int:
        """What the parameters take."""
        return sum(array.nbytes for array in self.params.values())


class Loaded(NamedTuple):
    """A program as it was read from a file.

    Attributes:
      function: the outputs of a batch of images.
      input: the type of the images.
      image: their shape: height, width, 3.
      outputs: how many numbers it gives for an image.
    """

    function: Callable[[np.ndarray], np.ndarray]
    input: str
    image: tuple[int, ...]
    outputs: int


def narrowed(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns parameters with the kernels in bfloat16, which is where a model that computes in it would round them.

    Norms, biases, tokens and positions, which are small and used in float32, keep their type.
    """
    return {
        name: array.astype(ml_dtypes.bfloat16) if name.endswith("/kernel") else array for name, array in params.items()
    }
