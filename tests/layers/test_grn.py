import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.layers.grn import GlobalResponseNorm


def plain(x, scale, bias):
    norms = np.sqrt((x.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
    return x + scale * x * norms / (norms.mean(-1, keepdims=True) + 1e-6) + bias


def test_it_is_the_papers_equation(normal):
    x, scale, bias = normal(2, 3, 4, 6), normal(6), normal(6)
    y = GlobalResponseNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(y, plain(x, scale, bias), rtol=1e-5, atol=1e-5)


def test_it_starts_as_the_identity(normal):
    x = normal(1, 2, 2, 3)
    y, variables = GlobalResponseNorm(param_dtype="bfloat16").init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y, x)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"bfloat16"}


def test_what_responds_nowhere_has_finite_gradients(normal):
    """A row of the batch that is masked may be black; one NaN of it would spoil the gradients of all."""
    params = {"scale": normal(3), "bias": normal(3)}
    x = normal(2, 2, 2, 3) * np.array([1.0, 0.0, 1.0], np.float32)
    x[1] = 0

    def loss(params, x):
        return jnp.sin(GlobalResponseNorm().apply({"params": params}, x)).sum()

    for leaf in jax.tree.leaves(jax.grad(loss, (0, 1))(params, x)):
        assert np.isfinite(leaf).all()


def test_norms_of_bfloat16_are_float32(normal):
    """A bfloat16 sum of 4,096 ones would stop at 256, a sixteenth of it."""
    x = jnp.ones((1, 64, 64, 2), jnp.bfloat16) * jnp.array([1, 3], jnp.bfloat16)
    y = GlobalResponseNorm().apply({"params": {"scale": np.ones(2), "bias": np.zeros(2)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y[0, 5, 7], np.float32), [1.5, 7.5], rtol=1e-2)
