"""Class-specific relevance: attention times its gradient, through all layers or in one (Chefer et al. 2021).

The rule is that of "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers"
(ICCV 2021), eqs. 5 and 6, for self-attention. It is also that of "Transformer Interpretability Beyond Attention
Visualization" (CVPR 2021), eqs. 13 and 14, with the attention weights in place of their layer-wise relevance.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def weighted(
    weights: Float[Array, "*batch heads queries keys"], gradients: Float[Array, "*batch heads queries keys"]
) -> Float[Array, "*batch queries keys"]:
    """Returns the mean over the heads of what speaks for the class: the positive part of ∇A ⊙ A (eq. 5).

    Args:
      gradients: of the class's logit by the weights.
    """
    return jnp.maximum(jnp.asarray(gradients) * jnp.asarray(weights), 0).mean(-3)


def relevance(
    weights: Sequence[Float[Array, "batch heads tokens tokens"]],
    gradients: Sequence[Float[Array, "batch heads tokens tokens"]],
) -> Float[Array, "layers batch tokens tokens"]:
    """Returns how relevant each input token (a column) is to each token (a row) for a class, after each layer.

    R starts as the identity, and every layer, from the first to the last, adds Ā·R (eq. 6).

    Args:
      weights: the attention weights of the layers, first to last.
      gradients: of the class's logit by them.
    """
    total, found = jnp.eye(weights[0].shape[-1]), []
    for one, gradient in zip(weights, gradients, strict=True):
        total = total + weighted(one, gradient) @ total
        found.append(total)
    return jnp.stack(found)
