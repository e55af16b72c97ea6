import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.windows import standardised_conv
from vit_jax.layers.standardised_conv import StandardisedConv, standardise


@pytest.mark.parametrize("size", [(6, 7), (8, 8), (1, 5)])
@pytest.mark.parametrize(
    ("kernel_size", "stride"), [((1, 1), 1), ((1, 1), 2), ((3, 3), 1), ((3, 3), 2), ((7, 7), 2), ((2, 3), 3)]
)
def test_is_a_convolution_by_the_standardised_kernel(normal, random_params, size, kernel_size, stride):
    """At every remainder of the image's side by the stride, where SAME pads unevenly."""
    x = normal(2, *size, 3)
    layer = StandardisedConv(4, kernel_size, stride)
    params = random_params(layer, x)
    assert params["kernel"].shape == (*kernel_size, 3, 4)
    expected = standardised_conv(x.astype(np.float64), params["kernel"].astype(np.float64), stride)
    assert expected.shape[1:3] == (-(-size[0] // stride), -(-size[1] // stride))
    np.testing.assert_allclose(jax.jit(layer.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spread", [1.0, 1e-5])
@pytest.mark.parametrize("shape", [(1, 1, 6, 4), (3, 3, 2, 4)])
def test_standardisation_and_its_gradient(check_against_float64, normal, shape, spread):
    """At the smaller spread the 1e-5 halves the result; added to the variance it would leave next to nothing."""
    check_against_float64(
        standardise,
        lambda kernel: (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5),
        normal(*shape) * np.float32(spread),
        dtype="float32",
        tolerance=1e-5,
    )


def test_positive_gain_and_shift_of_the_kernel_change_nothing(normal):
    kernel, gain, shift = normal(3, 3, 4, 5), 1 + np.abs(normal(5)), normal(5)
    assert np.abs(standardise(kernel)).max() > 1
    np.testing.assert_allclose(standardise(gain * kernel + shift), standardise(kernel), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_kernel_becomes_zero_with_finite_gradients(value):
    kernel = np.full((1, 1, 1, 2), value, np.float32)
    np.testing.assert_array_equal(standardise(kernel), np.zeros_like(kernel))
    assert np.isfinite(jax.grad(lambda kernel: standardise(kernel).sum())(kernel)).all()


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_compute_type_is_the_results_and_parameters_keep_theirs(kernel_size):
    layer = StandardisedConv(4, kernel_size, dtype="bfloat16")
    y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32
    stored = StandardisedConv(4, kernel_size, param_dtype="bfloat16")
    y, variables = jax.eval_shape(stored.init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert y.dtype == jnp.float32
    assert variables["params"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
def test_bfloat16_is_near_float32_gradients_included(normal, random_params, kernel_size):
    """The kernel is standardised before it is rounded: rounded first, the shift of 8 would leave one digit of it."""
    x = normal(2, 5, 5, 16)
    params = random_params(StandardisedConv(8, kernel_size), x)
    params["kernel"] += 8

    def run(dtype):
        layer = StandardisedConv(8, kernel_size, 2, dtype=dtype)
        return jax.jit(jax.value_and_grad(lambda p: (layer.apply({"params": p}, x).astype("float32") ** 2).sum()))(
            params
        )

    (exact, exact_gradient), (value, gradient) = run("float32"), run("bfloat16")
    np.testing.assert_allclose(value, exact, rtol=2e-2)
    difference = np.abs(gradient["kernel"] - exact_gradient["kernel"]).max()
    assert difference < 5e-2 * np.abs(exact_gradient["kernel"]).max()
