import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.mlp import Mlp, SwiGlu, gelu

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


def plain_swiglu(x, params):
    gate = x @ params["gate"]["kernel"] + params["gate"]["bias"]
    hidden = x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]
    return gate / (1 + jnp.exp(-gate)) * hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def test_swiglu_and_its_gradients(check_against_float64, normal, random_params):
    x = normal(2, 3, 4)
    leaves, structure = jax.tree.flatten(random_params(SwiGlu(6), x))
    assert len(leaves) == 6
    check_against_float64(
        lambda x, *leaves: SwiGlu(6).apply({"params": structure.unflatten(leaves)}, x),
        lambda x, *leaves: plain_swiglu(x, structure.unflatten(leaves)),
        x,
        *leaves,
        dtype="float32",
        tolerance=1e-5,
    )


def test_swiglu_in_bfloat16_joins_the_residual_stream_in_float32(normal, random_params):
    x = normal(2, 3, 4)
    params = random_params(SwiGlu(6), x)
    y = jax.jit(SwiGlu(6, dtype="bfloat16").apply)({"params": params}, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.float32
    expected = plain_swiglu(x, params)
    difference = np.abs(y - expected).max() / np.abs(expected).max()
    assert 1e-6 < difference < 0.03


def test_parameters_of_swiglu():
    params = jax.jit(SwiGlu(6, param_dtype="bfloat16").init)(jax.random.key(0), np.ones((1, 1, 4)))["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "gate": {"kernel": (4, 6), "bias": (6,)},
        "dense_0": {"kernel": (4, 6), "bias": (6,)},
        "dense_1": {"kernel": (6, 4), "bias": (4,)},
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert (params["gate"]["kernel"] != params["dense_0"]["kernel"]).all()
    assert all(0 < np.abs(layer["bias"]).max() < 1e-5 for layer in params.values())


def test_swiglu_drops_hidden_entries_and_results_and_needs_a_key(normal, random_params):
    """With the last layer the identity, an entry of the result is kept where both draws keep it: one in four."""
    x = normal(4, 50, 6)
    params = random_params(SwiGlu(6), x)
    params["dense_1"] = {"kernel": np.eye(6, dtype="float32"), "bias": np.zeros(6, "float32")}
    apply = jax.jit(SwiGlu(6, dropout=0.5).apply)
    whole, dropped = apply({"params": params}, x), apply({"params": params}, x, jax.random.key(0))
    assert (whole != 0).all()
    kept = dropped != 0
    assert 0.2 < kept.mean() < 0.3
    np.testing.assert_allclose(dropped[kept], 4 * whole[kept], rtol=1e-5)
