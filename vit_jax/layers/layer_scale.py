"""LayerScale: a learned gain for each channel of a residual branch."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike


class LayerScale(nn.Module):
    """Multiplies each channel by a learned gain that starts at `init` (Touvron et al. 2021, CaiT, eq. 3)."""

    init: float
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, branch: Float[Array, "... width"]) -> Float[Array, "... width"]:
        gamma = self.param("gamma", nn.initializers.constant(self.init), branch.shape[-1:], self.param_dtype)
        return branch * gamma.astype(branch.dtype)
