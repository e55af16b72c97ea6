import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.dense import Dense, flat_fan


@pytest.mark.parametrize(
    ("inputs", "features", "in_axes", "product"),
    [((6,), 5, 1, "bti,io->bto"), ((6,), (3, 2), 1, "bti,ihd->bthd"), ((3, 2), 5, 2, "bthd,hdo->bto")],
)
def test_contracts_the_last_axes(normal, inputs, features, in_axes, product):
    outputs = (features,) if isinstance(features, int) else features
    x, kernel, bias = normal(2, 4, *inputs), normal(*inputs, *outputs), normal(*outputs)
    layer = Dense(features, in_axes)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x)["params"])
    assert shapes == {"kernel": kernel.shape, "bias": bias.shape}
    y = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(y, np.einsum(product, x, kernel) + bias, rtol=1e-5, atol=1e-5)


def test_without_bias():
    params = jax.eval_shape(Dense(5, use_bias=False).init, jax.random.key(0), jnp.ones((2, 6)))["params"]
    assert list(params) == ["kernel"]


@pytest.mark.parametrize(
    ("dtype", "out_dtype", "expected"),
    [
        (None, None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", "float32"),
        (jnp.bfloat16, None, "bfloat16"),
        (jnp.dtype("bfloat16"), None, "bfloat16"),
    ],
)
def test_result_has_the_compute_type_unless_told(dtype, out_dtype, expected):
    y, variables = jax.eval_shape(
        Dense(5, dtype=dtype, out_dtype=out_dtype).init_with_output, jax.random.key(0), jnp.ones((2, 6))
    )
    assert y.dtype == expected
    assert variables["params"]["kernel"].dtype == jnp.float32


def test_flat_fan_initialises_heads_as_one_matrix():
    key, xavier = jax.random.key(0), nn.initializers.xavier_uniform()
    split = flat_fan(xavier, 1)(key, (6, 3, 2))
    np.testing.assert_array_equal(split.reshape(6, 6), xavier(key, (6, 6)))
    joined = flat_fan(xavier, 2)(key, (3, 2, 8))
    np.testing.assert_array_equal(joined.reshape(6, 8), xavier(key, (6, 8)))
