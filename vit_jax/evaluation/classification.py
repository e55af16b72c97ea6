"""Top-1, top-5 and loss over a whole set, every example counted once."""

import dataclasses
from collections.abc import Callable, Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vit_jax.data.device import Normalisation

NO_RANK = 2**31 - 1
"""The rank of the true class where a logit is NaN: wrong by every measure."""


@dataclasses.dataclass(frozen=True)
class EvalStep:
    """Maps (variables, batch) to the loss, the rank of the true class and the predicted class of every row.

    Label and mask are handed on, so that every host gets those of the whole batch.
    """

    model: nn.Module
    normalisation: Normalisation
    loss: Callable[[Array, Array], Array]

    def __call__(self, variables: dict, batch: dict[str, Array]) -> dict[str, Array]:
        logits = self.model.apply(variables, self.normalisation(batch["image"]), train=False)
        logits = logits.astype(jnp.float32)
        true = jnp.take_along_axis(logits, batch["label"][:, None], axis=-1)
        labels = jax.nn.one_hot(batch["label"], logits.shape[-1])
        classes = jnp.arange(logits.shape[-1])
        # Of equal logits the class that comes first ranks first, as argmax has it: a model that tells nothing apart
        # does not get every example right.
        ahead = (logits > true) | ((logits == true) & (classes < batch["label"][:, None]))
        predicted = ~jnp.isnan(logits).any(-1)
        return {
            "loss": self.loss(logits, labels),
            "rank": jnp.where(predicted, ahead.sum(-1), NO_RANK),
            "predicted": jnp.where(predicted, jnp.argmax(logits, -1), -1),
            "label": batch["label"],
            "mask": batch["mask"],
        }


@dataclasses.dataclass
class Results:
    """Per-example results of a set, in no particular order.

    Attributes:
      loss: float64 `[examples]`.
      rank: int `[examples]`, number of classes that score above the true one.
      predicted: int `[examples]`; -1 where a logit is NaN.
      label: int `[examples]`.
      unreadable: examples that could not be read, and are in none of the others.
    """

    loss: np.ndarray
    rank: np.ndarray
    predicted: np.ndarray
    label: np.ndarray
    unreadable: int = 0

    def metrics(self) -> dict[str, float]:
        """Returns `top1` and `top5` as shares of 1, `loss`, and how many `examples` were counted and `unreadable`."""
        return {
            "top1": float((self.rank < 1).mean()),
            "top5": float((self.rank < 5).mean()),
            "loss": float(self.loss.mean()),
            "examples": len(self.rank),
            "unreadable": self.unreadable,
        }

    def confusion(self, classes: int) -> np.ndarray:
        """Returns counts int `[true class, predicted class]`, of the examples for which something was predicted."""
        counts = np.zeros((classes, classes), np.int64)
        some = self.predicted >= 0
        np.add.at(counts, (self.label[some], self.predicted[some]), 1)
        return counts


def evaluate(step: Callable, variables: dict, batches: Iterable[dict[str, Array]]) -> Results:
    """Runs a jitted `EvalStep`, with results replicated, over batches on the device. Padding does not count."""
    parts = []
    for batch in batches:
        # A batch late, so that the device has work while this one's results are read.
        parts.append(step(variables, batch))
        if len(parts) > 1:
            parts[-2] = _counted(parts[-2])
    parts[-1] = _counted(parts[-1])
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Results(columns["loss"].astype(np.float64), columns["rank"], columns["predicted"], columns["label"])


def _counted(outputs: dict[str, Array]) -> dict[str, np.ndarray]:
    rows = jax.device_get(outputs)
    mask = rows.pop("mask")
    return {name: value[mask] for name, value in rows.items()}
