"""Whether a small model can learn 64 digits by heart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from tests.models.staged import QUICKLY
from vit_jax.models.variants import training_variants

STEPS = 150


def accuracy_by_heart(model, steps: int = STEPS) -> float:
    """Returns the share of 64 digits, 8x8 pixels, that a model of ten classes knows after training on them alone.

    Of a model with several variants, which take turns in training, the least.
    """
    digits, variants = load_digits(), training_variants(model)
    images = np.repeat(digits.images[:64, :, :, None] / 8 - 1, 3, axis=-1).astype(np.float32)
    labels, optimizer = digits.target[:64], optax.adam(optax.linear_schedule(3e-3, 3e-4, steps))

    def loss(params, others, key, model):
        options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        logits, updated = model.apply({**others, "params": params}, images, **options)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    def step(carried, number):
        params, others, state = carried
        gradients = [jax.grad(functools.partial(loss, model=variant), has_aux=True) for variant in variants]
        key = jax.random.fold_in(jax.random.key(1), number)
        gradient, others = jax.lax.switch(number % len(variants), gradients, params, others, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), others, state

    def start(key):
        variables = model.init(key, images)
        params = variables["params"]
        return params, {"batch_stats": variables.get("batch_stats", {})}, optimizer.init(params)

    def accuracy(params, others):
        found = [variant.apply({**others, "params": params}, images).argmax(-1) for variant in variants]
        return jnp.stack([(one == labels).mean() for one in found]).min()

    carried = jax.jit(start, compiler_options=QUICKLY)(jax.random.key(0))
    step = jax.jit(step)  # well compiled and not a scan, as convolutions are slow on CPUs otherwise
    for number in range(steps):
        carried = step(carried, number)
    return float(jax.jit(accuracy, compiler_options=QUICKLY)(*carried[:2]))
