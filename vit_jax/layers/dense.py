"""Dense products: the one mechanism by which all layers multiply activations with weights."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.product import affine
from vit_jax.layers.types import DTypeLike, Initializer


def flat_fan(initializer: Initializer, in_axes: int) -> Initializer:
    """Initialises a kernel of many axes as the matrix `[inputs, outputs]` that it stands for.

    Without it, fan-in and fan-out of `[width, heads, head_dim]` would be counted as those of a convolution.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        matrix = (math.prod(shape[:in_axes]), math.prod(shape[in_axes:]))
        return initializer(key, matrix, dtype).reshape(shape)

    return init


class Dense(nn.Module):
    """Affine map of the last `in_axes` axes to `features`.

    The kernel has shape `[*inputs, *features]`, so that an attention projection keeps its heads apart:
    `[width, heads, head_dim]`. The product runs in `dtype`; its result has that type too, unless `out_dtype` says
    otherwise, as it does where a branch joins the float32 residual stream.
    """

    features: int | tuple[int, ...]
    in_axes: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    out_dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self, x: Float[Array, "... inputs"], product: bool = True
    ) -> Float[Array, "... features"] | tuple[Float[Array, "inputs features"], Float[Array, "features"] | None]:
        """Returns the affine map of `x`; without `product` the kernel and the bias (or None) that it would use."""
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        inputs = x.shape[-self.in_axes :]
        kernel = self.param("kernel", flat_fan(self.kernel_init, self.in_axes), (*inputs, *features), self.param_dtype)
        bias = self.param("bias", self.bias_init, features, self.param_dtype) if self.use_bias else None
        if not product:
            return kernel, bias
        dtype = jnp.dtype(self.dtype or x.dtype)
        return affine(x, kernel, bias, dtype, jnp.dtype(self.out_dtype or dtype), self.in_axes)
