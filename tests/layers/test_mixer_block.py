import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.mixer_block import MixerBlock


def norm(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def perceptron(x, params):
    x = x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"]
    x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def test_is_the_papers_equation(normal, random_params):
    x = normal(2, 5, 8)
    block = MixerBlock(6, 10)
    params = random_params(block, x)
    assert params["token_mixing"]["dense_0"]["kernel"].shape == (5, 6)
    assert params["channel_mixing"]["dense_0"]["kernel"].shape == (8, 10)
    expected = x + np.stack([perceptron(image.T, params["token_mixing"]).T for image in norm(x, params["norm_0"])])
    expected = expected + perceptron(norm(expected, params["norm_1"]), params["channel_mixing"])
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_drop_path_drops_each_branch_of_each_example(normal, random_params):
    """Half of either branch is dropped: a quarter of the examples pass unchanged."""
    x = normal(128, 3, 8)
    variables = {"params": random_params(MixerBlock(4, 6), x)}
    apply = jax.jit(MixerBlock(4, 6).apply)
    unchanged = (apply(variables, x, jax.random.key(0), 0.5) == x).all(axis=(1, 2))
    assert 0.1 < unchanged.mean() < 0.4
    np.testing.assert_array_equal(apply(variables, x, None, 0.5), apply(variables, x, None, 0.0))


@pytest.mark.parametrize("silent", ["token_mixing", "channel_mixing"])
def test_dropout_acts_in_either_mlp_and_depends_on_its_key_alone(normal, random_params, silent):
    """With one of them silent, what differs is the other's. The generator is one that compiles fast."""
    x = normal(2, 3, 8)
    params = random_params(MixerBlock(4, 6), x)
    params[silent] = jax.tree.map(np.zeros_like, params[silent])
    apply = jax.jit(MixerBlock(4, 6, dropout=0.5).apply)
    first, again, other = (apply({"params": params}, x, jax.random.key(i, impl="unsafe_rbg")) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_residual_stream_stays_float32():
    block = MixerBlock(4, 6, dtype="bfloat16")
    tree = jax.eval_shape(block.init_with_output, jax.random.key(0), jnp.ones((1, 3, 8)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
