import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.windows import group_norm
from vit_jax.layers.group_norm import GroupNorm


def plain(x, scale, bias, groups):
    x = x.reshape(*x.shape[:-1], groups, -1)
    normal = (x - x.mean((1, 2, 4), keepdims=True)) / (x.var((1, 2, 4), keepdims=True) + 1e-6) ** 0.5
    return normal.reshape(*x.shape[:3], -1) * scale + bias


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "tolerance"),
    [("float32", "float32", 1e-5), ("float32", "bfloat16", 2e-2), ("bfloat16", "bfloat16", 2e-2)],
)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_and_its_gradients(check_against_float64, normal, groups, x_dtype, dtype, tolerance):
    layer = GroupNorm(groups, dtype=dtype)
    check_against_float64(
        lambda x, scale, bias: layer.apply({"params": {"scale": scale, "bias": bias}}, x),
        lambda x, scale, bias: plain(x, scale, bias, groups),
        normal(2, 3, 4, 6, dtype=x_dtype),
        normal(6),
        normal(6),
        dtype=dtype,
        tolerance=tolerance,
    )


def test_groups_are_of_neighbouring_channels_and_32_by_default(normal, random_params):
    x = normal(2, 3, 5, 64) * np.arange(1, 65, dtype=np.float32)
    params = random_params(GroupNorm(), x)
    y = jax.jit(GroupNorm().apply)({"params": params}, x)
    np.testing.assert_allclose(y, group_norm(x, params["scale"], params["bias"]), rtol=1e-4, atol=1e-5)


def test_epsilon_is_added_to_the_variance():
    params = {"scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32)}
    y = GroupNorm(1, epsilon=3.0).apply({"params": params}, np.asarray([[[[4.0, 6.0]]]], np.float32))
    np.testing.assert_allclose(y, [[[[-0.5, 0.5]]]], rtol=1e-6)


def test_large_mean_costs_no_more_than_the_rounding_of_the_mean(normal):
    """At a mean of 1e4 a float32 is spaced by 1e-3; the one-pass variance E[x²] - E[x]² would be lost altogether."""
    x = 1e4 + normal(2, 4, 4, 4)
    params = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    y = GroupNorm(2).apply({"params": params}, x)
    np.testing.assert_allclose(y, group_norm(x.astype(np.float64), 1.0, 0.0, groups=2), atol=2e-3)


def test_statistics_of_bfloat16_are_float32(normal):
    """Near 100 a bfloat16 is spaced by 0.5: a mean of 100.2, rounded to one, would leave a fifth of the spread."""
    x = jnp.asarray(100.2 + normal(1, 64, 64, 2), jnp.bfloat16)
    layer = GroupNorm(2, dtype="bfloat16")
    y = np.asarray(layer.apply({"params": {"scale": np.ones(2), "bias": np.zeros(2)}}, x)).astype(np.float64)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-2)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-2)


def test_parameters_start_as_identity_or_as_told():
    params = GroupNorm(1, param_dtype="bfloat16").init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))["params"]
    np.testing.assert_array_equal(np.asarray(params["scale"]), np.ones(3, jnp.bfloat16))
    np.testing.assert_array_equal(np.asarray(params["bias"]), np.zeros(3, jnp.bfloat16))
    assert {str(leaf.dtype) for leaf in params.values()} == {"bfloat16"}
    silent = GroupNorm(1, scale_init=jax.nn.initializers.zeros).init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    assert not silent["params"]["scale"].any()


def test_channels_that_the_groups_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="48 channels are not a multiple of 32 groups"):
        jax.eval_shape(GroupNorm().init, jax.random.key(0), jnp.ones((1, 2, 2, 48)))
