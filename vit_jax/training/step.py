"""The training step: one pure function of state and batch."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from vit_jax.data.device import DeviceAugment
from vit_jax.models.lora import merge
from vit_jax.training.frozen import joined, split
from vit_jax.training.losses import smooth
from vit_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """Maps (state, batch) to (state, metrics); jit it once with shardings and donate the state.

    Attributes:
      augment: what happens to the batch on the device.
      loss: (logits, label weights) to one number an example.
      accumulate: micro-batches; gradients of their summed losses are added, then divided by the number of examples,
        which equals the gradient of the large batch.
      ema_decay: of the parameters' average, or None.
      frozen: regular expression of the parameters that are not trained, or None. The optimizer and its state know of
        the others only.
      lora_scale: of the factors among the parameters (see `vit_jax.training.lora`).
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augment: DeviceAugment
    loss: Callable[[Array, Array], Array]
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema_decay: float | None = None
    frozen: str | None = None
    lora_scale: float = 0.0

    def __call__(self, state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        augment_key, dropout_key = jax.random.split(state.key)
        images, labels = self.augment(augment_key, batch["image"], batch["label"], batch["mask"])
        labels = smooth(labels, self.label_smoothing)
        trained, frozen = split(state.params, self.frozen)
        total, gradients = self.gradients(trained, frozen, dropout_key, images, labels, batch["mask"])
        count = jnp.maximum(batch["mask"].sum(), 1)
        gradients = jax.tree.map(lambda g: g / count, gradients)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        params = joined(trained, frozen)
        ema_params = None
        if self.ema_decay is not None:
            average, same = split(state.ema_params, self.frozen)
            ema_params = joined(optax.incremental_update(trained, average, 1 - self.ema_decay), same)
        metrics = {
            "loss": total / count,
            "gradient_norm": optax.global_norm(gradients),
            "parameter_norm": optax.global_norm(params),
            "learning_rate": jnp.asarray(self.schedule(state.step), jnp.float32),
        }
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params)
        return new, metrics

    def gradients(self, trained, frozen, key, images, labels, mask):
        """Returns the summed loss over the batch and its gradient by what is trained, micro-batch by micro-batch."""

        def summed(trained, key, images, labels, mask):
            params = merge(joined(trained, frozen), self.lora_scale)
            logits = self.model.apply({"params": params}, images, train=True, rngs={"dropout": key})
            return jnp.where(mask, self.loss(logits, labels), 0.0).sum()

        value_and_grad = jax.value_and_grad(summed)
        if self.accumulate == 1:
            return value_and_grad(trained, key, images, labels, mask)

        def micro(x):
            # Interleaved, so that each device keeps its own rows: the batch axis stays the one that is split.
            return x.reshape(x.shape[0] // self.accumulate, self.accumulate, *x.shape[1:]).swapaxes(0, 1)

        def add(total, scanned):
            number, *part = scanned
            return jax.tree.map(jnp.add, total, value_and_grad(trained, jax.random.fold_in(key, number), *part)), None

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        parts = (jnp.arange(self.accumulate), micro(images), micro(labels), micro(mask))
        return jax.lax.scan(add, start, parts)[0]
