"""What the tests of several layers share."""

import jax
import numpy as np
import pytest


@pytest.fixture
def normal():
    """`normal(*shape, dtype="float32")`: standard normal numbers, others at every call, the same in every run."""
    generator = np.random.default_rng(0)
    return lambda *shape, dtype="float32": generator.normal(size=shape).astype(dtype)


@pytest.fixture
def random_params(normal):
    """`random_params(layer, *arguments)`: parameters of the layer's shapes and types, none of them zero or one."""

    def fill(layer, *arguments, **named):
        shapes = jax.eval_shape(lambda key: layer.init(key, *arguments, **named), jax.random.key(0))["params"]
        return jax.tree.map(lambda leaf: normal(*leaf.shape, dtype=leaf.dtype) / 2, shapes)

    return fill


@pytest.fixture
def check_against_float64():
    """Compares a function's value and all its gradients with a plain function's in float64.

    Both start from the very arrays that the function gets, so that what differs is its own rounding. Every gradient
    must have the type of its argument.
    """

    def check(function, plain, *arguments, dtype, tolerance):
        shape = jax.eval_shape(function, *arguments).shape
        gradient = np.random.default_rng(9).normal(size=shape).astype(dtype)
        value, gradients = jax.jit(value_and_gradients, static_argnums=0)(function, gradient, *arguments)
        assert value.dtype == dtype
        with jax.enable_x64(True):
            wide = [np.asarray(a).astype(np.float64) for a in (gradient, *arguments)]
            expected, expected_gradients = jax.jit(value_and_gradients, static_argnums=0)(plain, *wide)
            assert expected.dtype == np.float64
        assert_close(value, expected, tolerance)
        for argument, actual, wanted in zip(arguments, gradients, expected_gradients, strict=True):
            assert actual.dtype == argument.dtype
            assert_close(actual, wanted, tolerance)

    return check


def value_and_gradients(function, gradient, *arguments):
    """Returns the function's value, and `gradient` pulled back to each argument."""
    value, pull_back = jax.vjp(function, *arguments)
    return value, pull_back(gradient)


def assert_close(actual, expected, tolerance: float):
    """Compares two arrays, the difference taken relative to the largest expected entry."""
    actual, expected = np.asarray(actual).astype(np.float64), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
