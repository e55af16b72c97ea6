"""What the tests of several models share."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_params():
    """`random_params(model, *arguments)`: parameters of the model's shapes and types, none of them zero or one.

    Cheaper than an initialisation, and the head, the cls token and the biases have an effect.
    """

    def fill(model, *arguments, **named):
        shapes = jax.eval_shape(lambda key: model.init(key, *arguments, **named), jax.random.key(0))["params"]
        generator = np.random.default_rng(0)
        return jax.tree.map(lambda leaf: (generator.normal(size=leaf.shape) / 3).astype(leaf.dtype), shapes)

    return fill
