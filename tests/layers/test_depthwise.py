import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.depthwise import depthwise
from vit_jax.layers.platform import portable


def plain(x, kernel, stride, padding):
    pads = ((padding, padding),) * 2
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=names, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize(("size", "stride", "padding"), [(7, 1, 3), (3, 2, 1), (2, 2, 0), (3, 1, 4), (4, 3, 1)])
def test_values_and_gradients_are_those_of_the_convolution(normal, size, stride, padding):
    x, kernel = normal(3, 9, 7, 5), normal(size, size, 1, 5)
    found, pull_back = jax.vjp(lambda *both: depthwise(*both, stride, padding), x, kernel)
    expected, expected_pull_back = jax.vjp(lambda *both: plain(*both, stride, padding), x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(pull_back(expected), expected_pull_back(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_bfloat16_keeps_its_type(normal):
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in (normal(2, 6, 6, 4), normal(3, 3, 1, 4)))
    found, pull_back = jax.vjp(lambda *both: depthwise(*both, 1, 1), x, kernel)
    assert {array.dtype for array in (found, *pull_back(found))} == {jnp.dtype(jnp.bfloat16)}
    expected = plain(x.astype(jnp.float32), kernel.astype(jnp.float32), 1, 1)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)


def test_each_platform_gets_its_own(normal):
    kernel = normal(3, 3, 1, 4)
    function = jax.jit(lambda x: depthwise(x, kernel, 1, 1))
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, 6, 6, 4), jnp.float32)
    texts = {name: str(jax.export.export(function, platforms=[name])(shape).mlir_module()) for name in ("cpu", "cuda")}
    assert {name: "stablehlo.convolution" in text for name, text in texts.items()} == {"cpu": False, "cuda": True}
    with portable():
        assert "platform" not in str(jax.make_jaxpr(lambda x: depthwise(x, kernel, 1, 1))(normal(1, 6, 6, 4)))
