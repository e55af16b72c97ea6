import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.norm import LayerNorm, layer_norm


def plain_layer_norm(x, scale=1.0, bias=0.0, epsilon=1e-6):
    return (x - x.mean(-1, keepdims=True)) / (x.var(-1, keepdims=True) + epsilon) ** 0.5 * scale + bias


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "param_dtype", "tolerance"),
    [
        ("float32", "float32", "float32", 1e-5),
        ("float32", "bfloat16", "float32", 2e-2),
        ("bfloat16", "bfloat16", "float32", 2e-2),
        ("float32", "float32", "bfloat16", 1e-2),
    ],
)
@pytest.mark.parametrize("shape", [(2, 3, 7), (4, 8)])
def test_layer_norm_and_its_gradients(check_against_float64, normal, shape, x_dtype, dtype, param_dtype, tolerance):
    check_against_float64(
        lambda x, scale, bias: layer_norm(x, scale, bias, 1e-6, dtype),
        plain_layer_norm,
        normal(*shape, dtype=x_dtype),
        normal(shape[-1], dtype=param_dtype),
        normal(shape[-1], dtype=param_dtype),
        dtype=dtype,
        tolerance=tolerance,
    )


def test_large_mean_costs_no_more_than_the_rounding_of_the_mean(normal):
    """At a mean of 1e4 a float32 is spaced by 1e-3; the one-pass variance E[x²] - E[x]² would be lost altogether."""
    x = 1e4 + normal(4, 64)
    y = LayerNorm().apply({"params": {"scale": np.ones(64), "bias": np.zeros(64)}}, x)
    np.testing.assert_allclose(y, plain_layer_norm(x.astype(np.float64)), atol=2e-3)


def test_epsilon_is_added_to_the_variance():
    params = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    y = LayerNorm(epsilon=3.0).apply({"params": params}, np.asarray([[4.0, 6.0]], np.float32))
    np.testing.assert_allclose(y, [[-0.5, 0.5]], rtol=1e-6)


def test_parameters_are_scale_and_bias_and_start_as_identity():
    params = LayerNorm(param_dtype="bfloat16").init(jax.random.key(0), jnp.ones((2, 5)))["params"]
    assert jax.tree.map(lambda p: (p.shape, str(p.dtype)), params) == dict.fromkeys(
        ("scale", "bias"), ((5,), "bfloat16")
    )
    assert (params["scale"] == 1).all()
    assert (params["bias"] == 0).all()


@pytest.mark.parametrize(("dtype", "expected"), [(None, "float32"), ("bfloat16", "bfloat16")])
def test_result_has_the_compute_type(dtype, expected):
    y, _ = jax.eval_shape(LayerNorm(dtype=dtype).init_with_output, jax.random.key(0), jnp.ones((2, 5)))
    assert y.dtype == expected
