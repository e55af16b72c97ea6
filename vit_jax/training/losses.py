"""Classification losses, one number an example, float32."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from vit_jax.errors import UserError

Loss = Callable[[Float[Array, "batch classes"], Float[Array, "batch classes"]], Float[Array, "batch"]]


def smooth(labels: Float[Array, "batch classes"], smoothing: float) -> Float[Array, "batch classes"]:
    """Returns labels of which a share is spread evenly over all classes (Szegedy et al. 2016, section 7)."""
    return (1 - smoothing) * labels + smoothing / labels.shape[-1]


def thresholded(labels: Float[Array, "batch classes"], threshold: float | None) -> Float[Array, "batch classes"]:
    """Returns 1 where a label is above the threshold, else 0; None leaves the labels as they are.

    Both images of a mixed pair are then there for certain, as the sigmoid loss may have it (Wightman et al. 2021,
    section 4.1; Touvron et al. 2022, section 3.2).
    """
    return labels if threshold is None else (labels > threshold).astype(labels.dtype)


def softmax_loss(logits: Float[Array, "batch classes"], labels: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """Returns the cross-entropy of the softmax."""
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), labels)


def sigmoid_loss(logits: Float[Array, "batch classes"], labels: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """Returns the sum over classes of the binary cross-entropies, as big_vision has it."""
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), labels).sum(-1)


def mean_sigmoid_loss(
    logits: Float[Array, "batch classes"], labels: Float[Array, "batch classes"]
) -> Float[Array, "batch"]:
    """Returns the mean over classes of the binary cross-entropies, as PyTorch has it."""
    return sigmoid_loss(logits, labels) / logits.shape[-1]


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


def weighted(loss: Loss, weights: Float[np.ndarray, "classes"]) -> Loss:
    """Returns the loss times the weight of each example's class; of a mixed label, both by their shares."""

    def weighted_loss(logits, labels):
        return loss(logits, labels) * (labels @ jnp.asarray(weights, jnp.float32))

    return weighted_loss


def class_weights(text: str, labels: Int[np.ndarray, "rows"], classes: int) -> Float[np.ndarray, "classes"]:
    """Returns one weight a class, whose mean over the training examples is 1: the learning rate keeps its sense.

    Args:
      text: `balanced` (every class counts the same, however many examples it has), or a number for each class.
      labels: of the training examples; those that could not be read, which are -1, do not count.

    Raises:
      UserError: the text is neither, or has another number of classes.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if text == "balanced":
        weights = 1 / np.maximum(counts, 1)
    else:
        try:
            weights = np.array([float(word) for word in text.strip("()[] ").split(",")])
        except ValueError:
            weights = np.array([])
        if len(weights) != classes or not (np.isfinite(weights).all() and weights.min() >= 0 and counts @ weights > 0):
            raise UserError(
                f"train.class_weights must be 'balanced' or {classes} numbers from 0 up, one a class with commas "
                f"between, not {text!r}"
            )
    return weights * counts.sum() / (counts @ weights)


def make_loss(train: ConfigDict) -> Loss:
    """Returns the loss of a config's `train` group, without its class weights.

    Raises:
      UserError: there is none of that name, or what is set beside it is not for that loss.
    """
    if train.loss not in LOSSES:
        raise UserError(f"train.loss must be one of {', '.join(LOSSES)}, not {train.loss!r}")
    if train.loss != "sigmoid":
        for key, off in (("class_mean", False), ("label_threshold", None)):
            if train[key] != off:
                raise UserError(f"train.{key} is set to {train[key]!r}, but only the sigmoid loss has such a thing")
    if train.label_threshold is not None and train.class_weights is not None:
        raise UserError("train.class_weights share out mixed labels, which train.label_threshold makes whole; set one")
    return mean_sigmoid_loss if train.class_mean else LOSSES[train.loss]
