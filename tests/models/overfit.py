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


def accuracy_by_heart(model) -> float:
    """Returns the share of 64 digits, 8x8 pixels, that a model of ten classes knows after training on them alone.

    Of a model with several variants, which take turns in training, the least.
    """
    digits, variants = load_digits(), training_variants(model)
    images = np.repeat(digits.images[:64, :, :, None] / 8 - 1, 3, axis=-1).astype(np.float32)
    labels, optimizer = digits.target[:64], optax.adam(optax.linear_schedule(3e-3, 3e-4, STEPS))

    def loss(params, others, key, model):
        options = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        logits, updated = model.apply({**others, "params": params}, images, **options)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    def step(carried, drawn):
        (params, others, state), (number, key) = carried, drawn
        gradients = [jax.grad(functools.partial(loss, model=variant), has_aux=True) for variant in variants]
        gradient, others = jax.lax.switch(number % len(variants), gradients, params, others, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), others, state), None

    def trained(key):
        variables = model.init(key, images)
        params, others = variables["params"], {"batch_stats": variables.get("batch_stats", {})}
        drawn = (jnp.arange(STEPS), jax.random.split(key, STEPS))
        (params, others, _), _ = jax.lax.scan(step, (params, others, optimizer.init(params)), drawn)
        found = [variant.apply({**others, "params": params}, images).argmax(-1) for variant in variants]
        return jnp.stack([(one == labels).mean() for one in found]).min()

    return float(jax.jit(trained, compiler_options=QUICKLY)(jax.random.key(0)))
