"""From pixels to tokens by a few convolutions (Xiao et al. 2021, "Early Convolutions Help Transformers See Better")."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.conv_norm import ConvNorm
from vit_jax.layers.conv_tokenizer import halvings
from vit_jax.layers.dense import Dense
from vit_jax.layers.patch_embed import places
from vit_jax.layers.types import DTypeLike


class ConvStem(nn.Module):
    """3x3 convolutions with stride 2, each with batch norm and ReLU, then a 1x1 convolution (section 4 of the paper).

    Each of the layers `conv_0`, `conv_1`, … halves the map and doubles the channels, up to `width` at the last; `proj`,
    the 1x1 convolution, has neither norm nor ReLU. That is the paper's stem of ViT_C-1GF and 4GF (24, 48, 96, 192 and
    48, 96, 192, 384 channels for patches of 16 pixels), which takes about the work of one block: leave one block out
    for a fair comparison. Maps `[batch, height, width, channels]` to `[batch, rows * columns, width]`, row by row, for
    images of any size: rows are ceil(height / patch height). The tokens are float32, as the residual stream is.

    Batch norms keep running statistics in the collection `batch_stats`, which training makes mutable.

    Attributes:
      patch_size: 2 pixels each way is one halving, 4 are two, and so on.
      use_bias: of the last convolution.

    Raises:
      ValueError: the patch is no square, or its side no power of two; or the width is no multiple of 2^(halvings - 1).
    """

    patch_size: tuple[int, int]
    width: int
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.patch_size

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens."""
        return places(image_shape, self.patch_size)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height_px width_px channels"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens; in training normalised by the batch's statistics, else by the running ones."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers = halvings(self.patch_size, "conv_stem")
        first = self.width // 2 ** (layers - 1)
        if first * 2 ** (layers - 1) != self.width:
            raise ValueError(
                f"patch_embed 'conv_stem' doubles channels: width {self.width} / 2^{layers - 1} is not whole"
            )
        x = images.astype(self.dtype or images.dtype)
        for i in range(layers):
            x = ConvNorm(first * 2**i, 3, 2, activation=nn.relu, name=f"conv_{i}", **types)(x, train)
        tokens = x.reshape(x.shape[0], x.shape[1] * x.shape[2], self.width)
        return Dense(self.width, use_bias=self.use_bias, out_dtype="float32", name="proj", **types)(tokens)
