import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.conv import conv


def plain(x, kernel, bias, stride, padding, groups):
    """Returns the convolution as a loop over places and channels, in float64."""
    side, inputs, channels = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((length - side) // stride + 1 for length in x.shape[1:3])
    result = np.zeros((x.shape[0], rows, columns, channels))
    for c in range(channels):
        first = c // (channels // groups) * inputs
        for i in range(rows):
            for j in range(columns):
                window = x[:, i * stride : i * stride + side, j * stride : j * stride + side, first : first + inputs]
                result[:, i, j, c] = (window * kernel[..., c]).sum((1, 2, 3)) + bias[c]
    return result


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "padding"),
    [
        (3, 1, 1, None),
        (3, 2, 1, None),
        (2, 2, 1, 0),
        (3, 1, 4, None),
        (1, 1, 1, None),
        (1, 2, 1, None),
        (1, 1, 2, None),
    ],
)
def test_padding_stride_and_groups(normal, kernel, stride, groups, padding):
    layer = conv(8, kernel, stride, groups, padding)
    x = normal(2, 5, 6, 4)
    params = {"kernel": normal(kernel, kernel, 4 // groups, 8), "bias": normal(8)}
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {name: leaf.shape for name, leaf in params.items()}
    expected = plain(x, params["kernel"], params["bias"], stride, kernel // 2 if padding is None else padding, groups)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_types(normal, kernel):
    layer = conv(8, kernel, bias=False, dtype="bfloat16", param_dtype="float32")
    y, variables = layer.init_with_output(jax.random.key(0), normal(1, 4, 4, 4))
    assert y.dtype == jnp.bfloat16
    assert {name: str(leaf.dtype) for name, leaf in variables["params"].items()} == {"kernel": "float32"}


def test_kernels_start_with_the_spread_of_he_by_fan_out():
    kernel = conv(256, 3).init(jax.random.key(0), np.ones((1, 4, 4, 64)))["params"]["kernel"]
    np.testing.assert_allclose(np.asarray(kernel).std(), (2 / (9 * 256)) ** 0.5, rtol=2e-2)
