"""What the tests of networks in stages share."""

import jax
import numpy as np

QUICKLY = {"xla_backend_optimization_level": 0}


def random_variables(model, images) -> dict:
    """Returns random parameters and running statistics, so that every branch counts."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    generator = np.random.default_rng(0)
    return {
        "params": jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype) / 3, shapes["params"]),
        "batch_stats": jax.tree.map(
            lambda leaf: generator.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype), shapes["batch_stats"]
        ),
    }


def apply(model, variables, images, **named):
    """Returns what `model.apply` does, compiled quickly."""
    return jax.jit(lambda variables, x: model.apply(variables, x, **named), compiler_options=QUICKLY)(variables, images)


def outputs(model, variables, images) -> dict:
    """Returns what the model's methods give, by their names, compiled together."""

    def every(module, x):
        names = ["__call__", "embed", "features", "first_map"]
        names += ["token_logits"] if getattr(module, "dist_classifier", False) and module.num_classes else []
        stages = module.intermediates(x, range(module.depth))
        return {name: getattr(module, name)(x) for name in names} | {"stages": stages}

    return apply(model, variables, images, method=every)


def output_and_gradients(model, variables, images) -> tuple:
    """Returns logits and new statistics of a training pass, always with the same key, and the parameters' gradients."""
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}

    def loss(params):
        given = {**variables, "params": params}
        logits, updated = model.apply(given, images, train=True, rngs=rngs, mutable=["batch_stats"])
        return (logits**2).mean(), (logits, updated)

    graded = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICKLY)
    (_, found), gradients = graded(variables["params"])
    return found, gradients


def assert_trees_close(actual, expected, tolerance: float) -> None:
    """Asserts equality to `tolerance`, relative to the largest value of each array or to 1."""

    def assert_close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))

    jax.tree.map(assert_close, actual, expected)
