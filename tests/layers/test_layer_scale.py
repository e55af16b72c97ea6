import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.layers.layer_scale import LayerScale


def test_gain_of_each_channel_starts_at_init(normal):
    branch = normal(2, 3, 4)
    scaled, variables = LayerScale(0.1).init_with_output(jax.random.key(0), branch)
    assert variables["params"]["gamma"].shape == (4,)
    np.testing.assert_allclose(scaled, 0.1 * branch, rtol=1e-6)


def test_multiplies_each_channel_by_its_gain():
    gamma = np.asarray([0.0, 1.0, -2.0], np.float32)
    np.testing.assert_array_equal(LayerScale(0.1).apply({"params": {"gamma": gamma}}, np.ones((2, 3))), [gamma, gamma])


def test_types():
    scaled, variables = jax.eval_shape(
        LayerScale(0.1, "float16").init_with_output, jax.random.key(0), jnp.ones((2, 3), "bfloat16")
    )
    assert scaled.dtype == jnp.bfloat16
    assert variables["params"]["gamma"].dtype == jnp.float16
