"""From pixels to tokens by small convolutions (Hassani et al. 2021, "Escaping the Big Data Paradigm")."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.conv import conv
from vit_jax.layers.patch_embed import places
from vit_jax.layers.types import DTypeLike

INNER_CHANNELS = 64
"""Channels between the convolutions, as in the authors' models."""


def halvings(patch_size: tuple[int, int], kind: str) -> int:
    """Returns how often an image's sides are halved until a place stands for a patch.

    Raises:
      ValueError: the patch is no square, or its side no power of two.
    """
    side = patch_size[0]
    if patch_size != (side, side) or side < 2 or side & (side - 1):
        raise ValueError(f"patch_embed {kind!r} halves the map: patch_size must be 2, 4, 8, …, not {patch_size}")
    return side.bit_length() - 1


class ConvTokenizer(nn.Module):
    """The compact transformers' tokenizer (section 3.3): 3x3 convolution, ReLU and 3x3 max pooling, once or more.

    Each of the layers `conv_0`, `conv_1`, … halves the map, so that a token stands for `patch_size` pixels, but sees
    those around them too. Maps `[batch, height, width, channels]` to `[batch, rows * columns, width]`, row by row,
    for images of any size: rows are ceil(height / patch height). The tokens are float32, as the residual stream is.

    Attributes:
      patch_size: 2 pixels each way is one layer, 4 are two, and so on.
      use_bias: of the last convolution; the authors' have none.

    Raises:
      ValueError: the patch is no square, or its side no power of two.
    """

    patch_size: tuple[int, int]
    width: int
    use_bias: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @property
    def layers(self) -> int:
        """The number of convolutions."""
        return halvings(self.patch_size, "cct")

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens."""
        return places(image_shape, self.patch_size)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.patch_size

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height_px width_px channels"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens, the same in training as in evaluation."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, last = images, self.layers - 1
        for i in range(self.layers):
            channels, bias = (self.width, self.use_bias) if i == last else (INNER_CHANNELS, False)
            layer = conv(channels, 3, bias=bias, name=f"conv_{i}", kernel_init=nn.initializers.he_normal(), **types)
            # Padded by itself, as jax2onnx knows no padding of a pooling; after ReLU zeros are never the largest.
            x = jnp.pad(nn.relu(layer(x)), ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
        batch, rows, columns, width = x.shape
        return x.astype(jnp.float32).reshape(batch, rows * columns, width)
