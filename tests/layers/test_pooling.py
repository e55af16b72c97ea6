import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import Attention
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.pooling import MapPool, SequencePool


@pytest.fixture(scope="module")
def pool():
    return jax.jit(MapPool(heads=2, mlp_dim=6).apply)


@pytest.fixture
def variables(random_params):
    return {"params": random_params(MapPool(heads=2, mlp_dim=6), np.ones((1, 3, 8), np.float32))}


def test_is_attention_of_the_probe_and_a_residual_mlp(normal, pool, variables):
    tokens, params = normal(2, 5, 8), variables["params"]

    def equation(tokens):
        x = Attention(2).apply({"params": params["attention"]}, tokens, queries=np.repeat(params["probe"], 2, axis=0))
        y = LayerNorm().apply({"params": params["norm"]}, x)
        return (x + Mlp(6).apply({"params": params["mlp"]}, y))[:, 0]

    np.testing.assert_allclose(pool(variables, tokens), jax.jit(equation)(tokens), rtol=1e-5, atol=1e-5)


def test_ignores_the_order_of_the_tokens(normal, pool, variables):
    tokens = normal(2, 5, 8)
    pooled = pool(variables, tokens)
    assert pooled.shape == (2, 8)
    np.testing.assert_allclose(pool(variables, tokens[:, [4, 2, 0, 1, 3]]), pooled, rtol=1e-4, atol=1e-5)


def test_equal_tokens_pool_to_the_same_however_many(normal, pool, variables):
    """The weights sum to 1, whatever the probe."""
    token = normal(2, 1, 8)
    np.testing.assert_allclose(
        pool(variables, np.repeat(token, 5, axis=1)), pool(variables, token), rtol=1e-4, atol=1e-5
    )


def test_every_parameter_has_an_effect(normal, pool, variables):
    """The key's bias alone has none: it adds the same to all scores of a query."""
    gradients = jax.jit(jax.grad(lambda v, tokens: (pool(v, tokens) ** 2).sum()))(variables, normal(2, 5, 8))["params"]
    key_bias = gradients["attention"]["key"].pop("bias")
    np.testing.assert_allclose(key_bias, 0, atol=1e-4)
    assert {"probe", "attention", "norm", "mlp"} == set(gradients)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradients))


def test_types():
    layer = MapPool(heads=2, mlp_dim=6, dtype="bfloat16", param_dtype="float16")
    pooled, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 3, 8), "bfloat16"))
    assert pooled.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}


def test_sequence_pooling_is_a_mean_weighted_by_the_softmax_of_a_linear_map(normal, random_params):
    tokens = normal(2, 5, 8)
    params = random_params(SequencePool(), tokens)
    scores = tokens @ np.asarray(params["score"]["kernel"]) + np.asarray(params["score"]["bias"])
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    pooled = SequencePool().apply({"params": params}, tokens)
    np.testing.assert_allclose(pooled, (weights * tokens).sum(axis=1), rtol=1e-5, atol=1e-5)
    assert np.abs(pooled - tokens.mean(axis=1)).max() > 1e-2


def test_types_of_sequence_pooling():
    layer = SequencePool(dtype="bfloat16", param_dtype="float16")
    pooled, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 3, 8), "bfloat16"))
    assert pooled.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}
