"""Classification losses, one number an example, float32."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vit_jax.errors import UserError


def smooth(labels: Float[Array, "batch classes"], smoothing: float) -> Float[Array, "batch classes"]:
    """Returns labels of which a share is spread evenly over all classes (Szegedy et al. 2016, section 7)."""
    return (1 - smoothing) * labels + smoothing / labels.shape[-1]


def softmax_loss(logits: Float[Array, "batch classes"], labels: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """Returns the cross-entropy of the softmax."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), labels)


def sigmoid_loss(logits: Float[Array, "batch classes"], labels: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """Returns the sum over classes of the binary cross-entropies, as big_vision has it."""
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels).sum(-1)


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


def make_loss(name: str):
    """Returns the loss of that name.

    Raises:
      UserError: there is none.
    """
    if name not in LOSSES:
        raise UserError(f"train.loss must be one of {', '.join(LOSSES)}, not {name!r}")
    return LOSSES[name]
