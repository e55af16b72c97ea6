import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.mlp import Mlp, gelu

X = np.linspace(-5, 5, 41).astype(np.float32)


def plain_gelu(x, approximate):
    if approximate:
        return x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * (1 + jax.lax.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("approximate", [True, False])
def test_gelu_and_its_gradient(check_against_float64, approximate, dtype, tolerance):
    check_against_float64(
        lambda x: gelu(x, approximate),
        functools.partial(plain_gelu, approximate=approximate),
        jnp.asarray(X, dtype),
        dtype=dtype,
        tolerance=tolerance,
    )


@pytest.mark.parametrize("kind", ["tanh", "exact"])
def test_is_dense_gelu_dense(normal, random_params, kind):
    x = normal(2, 3, 4)
    params = random_params(Mlp(6), x)
    hidden = plain_gelu(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], kind == "tanh")
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    np.testing.assert_allclose(jax.jit(Mlp(6, kind).apply)({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_biases_start_near_zero_but_not_at_it():
    params = jax.jit(Mlp(6).init)(jax.random.key(0), np.ones((1, 1, 4)))["params"]
    for layer in ("dense_0", "dense_1"):
        bias = np.abs(params[layer]["bias"])
        assert 0 < bias.max() < 1e-5


def test_joins_the_residual_stream_in_float32():
    y = jax.eval_shape(Mlp(6, dtype="bfloat16").init_with_output, jax.random.key(0), jnp.ones((1, 1, 4), "bfloat16"))[0]
    assert y.dtype == jnp.float32


def test_dropout_needs_a_key_and_acts_on_the_result(random_params):
    x = np.ones((2, 50, 4), np.float32)
    params = random_params(Mlp(6), x)
    apply = jax.jit(Mlp(6, dropout=0.5).apply)
    assert (apply({"params": params}, x) != 0).all()
    zeros = (apply({"params": params}, x, jax.random.key(0)) == 0).mean()
    assert 0.35 < zeros < 0.65


def test_unknown_gelu_is_an_error():
    with pytest.raises(ValueError, match="gelu must be 'tanh' or 'exact', not 'relu'"):
        jax.eval_shape(Mlp(6, "relu").init, jax.random.key(0), jnp.ones((1, 1, 4)))
