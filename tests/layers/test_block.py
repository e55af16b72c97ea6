import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import Attention
from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm


@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_is_the_papers_equation(normal, random_params, layer_scale):
    x = normal(2, 5, 8)
    block = EncoderBlock(2, 6, layer_scale=layer_scale)
    params = random_params(block, x)

    def equation(x):
        gains = [1.0, 1.0] if layer_scale is None else [params[f"layer_scale_{i}"]["gamma"] for i in range(2)]
        y = LayerNorm().apply({"params": params["norm_0"]}, x)
        x = x + gains[0] * Attention(2).apply({"params": params["attention"]}, y)
        y = LayerNorm().apply({"params": params["norm_1"]}, x)
        return x + gains[1] * Mlp(6).apply({"params": params["mlp"]}, y)

    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), jax.jit(equation)(x), rtol=1e-5, atol=1e-5)


def test_layer_scale_of_zero_is_the_identity(normal, random_params):
    x = normal(2, 5, 8)
    block = EncoderBlock(2, 6, layer_scale=1.0)
    params = random_params(block, x)
    for name in ("layer_scale_0", "layer_scale_1"):
        params[name]["gamma"] *= 0
    np.testing.assert_array_equal(jax.jit(block.apply)({"params": params}, x), x)


def test_drop_path_drops_each_branch_of_each_example(normal, random_params):
    """Half of the attention branches and half of the MLPs are dropped: a quarter of the examples pass unchanged."""
    x = normal(128, 3, 8)
    variables = {"params": random_params(EncoderBlock(2, 6), x)}
    apply = jax.jit(EncoderBlock(2, 6).apply)
    unchanged = (apply(variables, x, jax.random.key(0), 0.5) == x).all(axis=(1, 2))
    assert 0.1 < unchanged.mean() < 0.4
    np.testing.assert_array_equal(apply(variables, x, None, 0.5), apply(variables, x, None, 0.0))


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_depends_on_its_key_alone(normal, random_params, field):
    """The generator is one that compiles fast."""
    x = normal(2, 3, 8)
    variables = {"params": random_params(EncoderBlock(2, 6), x)}
    apply = jax.jit(EncoderBlock(2, 6, **{field: 0.5}).apply)
    first, again, other = (apply(variables, x, jax.random.key(seed, impl="unsafe_rbg")) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_residual_stream_stays_float32():
    block = EncoderBlock(2, 6, layer_scale=0.1, dtype="bfloat16")
    tree = jax.eval_shape(block.init_with_output, jax.random.key(0), jnp.ones((1, 3, 8)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
