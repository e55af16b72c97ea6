"""The training step: one pure function of state and batch."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from vit_jax.data.device import DeviceAugment
from vit_jax.models.lora import merge
from vit_jax.models.variants import training_variants
from vit_jax.training.distillation import Distillation
from vit_jax.training.frozen import joined, split
from vit_jax.training.losses import smooth, thresholded
from vit_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """Maps (state, batch) to (state, metrics); jit it once with shardings and donate the state.

    Attributes:
      augment: what happens to the batch on the device.
      loss: (logits, label weights) to one number an example.
      label_threshold: mixed labels above it become 1 and the others 0, or None.
      accumulate: micro-batches; gradients of their summed losses are added, then divided by the number of examples,
        which equals the gradient of the large batch.
      ema_decay: of the parameters' average, or None.
      frozen: regular expression of the parameters that are not trained, or None. The optimizer and its state know of
        the others only.
      lora_scale: of the factors among the parameters (see `vit_jax.training.lora`).
      distillation: what is learned from a teacher, or None. Then the step also takes the teacher's variables.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augment: DeviceAugment
    loss: Callable[[Array, Array], Array]
    label_threshold: float | None = None
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema_decay: float | None = None
    frozen: str | None = None
    lora_scale: float = 0.0
    distillation: Distillation | None = None

    def __call__(
        self, state: TrainState, batch: dict[str, Array], teacher: dict | None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        augment_key, dropout_key = jax.random.split(state.key)
        images, labels = self.augment(augment_key, batch["image"], batch["label"], batch["mask"])
        labels = smooth(thresholded(labels, self.label_threshold), self.label_smoothing)
        trained, frozen = split(state.params, self.frozen)
        taught = None if self.distillation is None else self.distillation.taught(teacher, images)
        parts = (images, labels, batch["mask"], taught)
        total, gradients, batch_stats = self.gradients(trained, frozen, state.batch_stats, dropout_key, *parts)
        count = jnp.maximum(batch["mask"].sum(), 1)
        gradients = jax.tree.map(lambda g: g / count, gradients)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        params = joined(trained, frozen)
        ema_params = ema_batch_stats = None
        if self.ema_decay is not None:
            average, same = split(state.ema_params, self.frozen)
            ema_params = joined(optax.incremental_update(trained, average, 1 - self.ema_decay), same)
            ema_batch_stats = optax.incremental_update(batch_stats, state.ema_batch_stats, 1 - self.ema_decay)
        metrics = {
            "loss": total / count,
            "gradient_norm": optax.global_norm(gradients),
            "parameter_norm": optax.global_norm(params),
            "learning_rate": jnp.asarray(self.schedule(state.step), jnp.float32),
        }
        new = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=ema_params,
            ema_batch_stats=ema_batch_stats,
        )
        return new, metrics

    def losses(self, model, variables, key, images, labels, mask, taught):
        """Returns the loss of every example, and the collections that the model has updated."""
        rngs = {"dropout": key}
        if self.distillation is None:
            logits, updated = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
            return self.loss(logits, labels), updated
        outputs, updated = self.distillation.outputs(model, variables, images, rngs=rngs)
        return self.distillation.losses(outputs, taught, self.loss(outputs[0], labels), mask), updated

    def gradients(self, trained, frozen, batch_stats, key, images, labels, mask, taught):
        """Returns the summed loss over the batch, its gradient by what is trained, and the new running statistics.

        Micro-batches come one after the other, each normalised by its own statistics. Of a model with several
        `training_variants` each draws one.
        """

        def summed(model, trained, batch_stats, key, images, labels, mask, taught):
            variables = {"params": merge(joined(trained, frozen), self.lora_scale), "batch_stats": batch_stats}
            losses, updated = self.losses(model, variables, key, images, labels, mask, taught)
            return jnp.where(mask, losses, 0.0).sum(), updated.get("batch_stats", batch_stats)

        def value_and_grad(trained, batch_stats, key, *parts):
            variants = training_variants(self.model)
            of_each = [jax.value_and_grad(functools.partial(summed, model), has_aux=True) for model in variants]
            if len(of_each) == 1:
                return of_each[0](trained, batch_stats, key, *parts)
            # The gradient is inside each branch: around the switch it would keep what all of them leave for it.
            drawn, key = jax.random.split(key)
            number = jax.random.randint(drawn, (), 0, len(of_each))
            return jax.lax.switch(number, of_each, trained, batch_stats, key, *parts)

        if self.accumulate == 1:
            (loss, batch_stats), gradients = value_and_grad(trained, batch_stats, key, images, labels, mask, taught)
            return loss, gradients, batch_stats

        def micro(x):
            # Interleaved, so that each device keeps its own rows: the batch axis stays the one that is split.
            return x.reshape(x.shape[0] // self.accumulate, self.accumulate, *x.shape[1:]).swapaxes(0, 1)

        def add(carry, scanned):
            loss, gradients, batch_stats = carry
            number, *part = scanned
            (more, batch_stats), added = value_and_grad(trained, batch_stats, jax.random.fold_in(key, number), *part)
            return (loss + more, jax.tree.map(jnp.add, gradients, added), batch_stats), None

        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained), batch_stats)
        parts = (jnp.arange(self.accumulate), *jax.tree.map(micro, (images, labels, mask, taught)))
        return jax.lax.scan(add, start, parts)[0]
