import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import Attention


@pytest.mark.parametrize("probes", [None, 1])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_equals_flax_given_the_same_parameters(normal, random_params, qk_norm, probes):
    """Flax names the norms of queries and keys otherwise, and gives them no bias."""
    x, queries = normal(2, 5, 8), None if probes is None else normal(2, probes, 8)
    params = random_params(Attention(2, qk_norm), x)
    flax_params = {name: params[name] for name in ("query", "key", "value", "out")}
    if qk_norm:
        for ours, theirs in (("query_norm", "query_ln"), ("key_norm", "key_ln")):
            params[ours]["bias"] = np.zeros_like(params[ours]["bias"])
            flax_params[theirs] = {"scale": params[ours]["scale"]}
    flax_attention = nn.MultiHeadDotProductAttention(2, normalize_qk=qk_norm)
    expected = jax.jit(flax_attention.apply)({"params": flax_params}, x if queries is None else queries, x)
    y = jax.jit(Attention(2, qk_norm).apply)({"params": params}, x, None, queries)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_commutes_with_a_permutation_of_the_tokens(normal, random_params):
    x, order = normal(2, 5, 8), [3, 0, 4, 1, 2]
    apply = jax.jit(Attention(2).apply)
    variables = {"params": random_params(Attention(2), x)}
    np.testing.assert_allclose(apply(variables, x[:, order]), apply(variables, x)[:, order], rtol=1e-5, atol=1e-6)


def test_qkv_bias_leaves_the_bias_of_out(random_params):
    params = random_params(Attention(2, qkv_bias=False), np.ones((1, 3, 8), np.float32))
    assert {name for name in params if "bias" in params[name]} == {"out"}


def test_dropout_is_of_the_weights_and_needs_a_key(normal, random_params):
    """Attention to a single token has the weight 1 alone: dropped, it leaves the bias of `out`."""
    x = normal(64, 1, 8)
    params = random_params(Attention(1), x)
    apply = jax.jit(Attention(1, dropout=0.5).apply)
    whole, dropped = apply({"params": params}, x), apply({"params": params}, x, jax.random.key(0))
    is_bias = np.isclose(dropped, params["out"]["bias"], atol=1e-5).all(axis=(1, 2))
    assert 0.2 < is_bias.mean() < 0.8
    doubled = 2 * whole - params["out"]["bias"]
    np.testing.assert_allclose(dropped[~is_bias], doubled[~is_bias], rtol=1e-5, atol=1e-5)


def test_compute_type_keeps_parameters_and_result_in_float32():
    layer = Attention(2, qk_norm=True, dtype="bfloat16")
    y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 3, 8), "bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves((y, variables))} == {jnp.dtype("float32")}


def test_width_that_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="width 8 is not a multiple of 3 heads"):
        jax.eval_shape(Attention(3).init, jax.random.key(0), np.ones((1, 3, 8)))


@pytest.mark.parametrize("bias", [True, False])
def test_one_product_for_queries_keys_and_values_equals_three(normal, random_params, bias):
    x = normal(2, 5, 8)
    params = random_params(Attention(2, qkv_bias=bias), x)

    def loss(params, fused):
        y = Attention(2, qkv_bias=bias, fused_qkv=fused).apply({"params": params}, x)
        return (y**2).sum(), y

    three, one = (jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(params, fused) for fused in (False, True))

    def assert_close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))

    jax.tree.map(assert_close, three, one)
    products = [str(jax.make_jaxpr(lambda p, f=f: loss(p, f)[0])(params)).count("dot_general") for f in (False, True)]
    assert products[0] - products[1] == 2


def test_one_product_is_of_self_attention_only(normal, random_params):
    x, probe = normal(2, 5, 8), normal(2, 1, 8)
    params = random_params(Attention(2), x)
    three, one = (Attention(2, fused_qkv=f).apply({"params": params}, x, None, probe) for f in (False, True))
    np.testing.assert_array_equal(three, one)
