import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.product import affine, attend, attention_weights

BF16 = 2e-2
"""A few roundings to 8 bits of mantissa."""


def plain_attention(query, key, value):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(6, 8, 4), (5, 7, 3), (1, 2, 1)])
def test_affine_and_its_gradients(check_against_float64, normal, rows, inputs, outputs, bias):
    arguments = [normal(rows, inputs), normal(inputs, outputs), normal(outputs)][: 3 if bias else 2]
    check_against_float64(
        lambda x, kernel, bias=None: affine(x, kernel, bias, "float32", "float32"),
        lambda x, kernel, bias=0.0: x @ kernel + bias,
        *arguments,
        dtype="float32",
        tolerance=1e-5,
    )


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("x_dtype", ["bfloat16", "float32"])
def test_affine_in_bfloat16_keeps_the_types_of_gradients(check_against_float64, normal, x_dtype, out_dtype):
    check_against_float64(
        lambda x, kernel, bias: affine(x, kernel, bias, "bfloat16", out_dtype),
        lambda x, kernel, bias: x @ kernel + bias,
        normal(6, 8, dtype=x_dtype),
        normal(8, 4),
        normal(4),
        dtype=out_dtype,
        tolerance=BF16,
    )


def test_affine_accumulates_in_float32():
    """A bfloat16 sum of ones would stop at 256."""
    ones = jnp.ones((1, 1000), "bfloat16")
    assert affine(ones, ones.T, None, "bfloat16", "float32") == 1000


@pytest.mark.parametrize(
    ("queries", "keys", "head_dim", "value_dim"), [(4, 4, 4, 4), (1, 6, 3, 3), (3, 1, 2, 2), (4, 3, 2, 5)]
)
def test_attend_and_its_gradients(check_against_float64, normal, queries, keys, head_dim, value_dim):
    check_against_float64(
        attend,
        plain_attention,
        normal(2, queries, 2, head_dim),
        normal(2, keys, 2, head_dim),
        normal(2, keys, 2, value_dim),
        dtype="float32",
        tolerance=1e-5,
    )


@pytest.mark.parametrize("value_dim", [4, 6])
def test_attend_in_bfloat16(check_against_float64, normal, value_dim):
    shapes = ((3, 4), (5, 4), (5, value_dim))
    arguments = [normal(2, tokens, 2, channels, dtype="bfloat16") for tokens, channels in shapes]
    check_against_float64(attend, plain_attention, *arguments, dtype="bfloat16", tolerance=BF16)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_attend_applies_drop_to_the_weights(check_against_float64, normal, scale):
    """So a drop that keeps all (scale 1) equals attention without one, gradients included."""
    check_against_float64(
        lambda query, key, value: attend(query, key, value, lambda weights: scale * weights),
        lambda query, key, value: scale * plain_attention(query, key, value),
        *(normal(2, tokens, 2, 4) for tokens in (3, 5, 5)),
        dtype="float32",
        tolerance=1e-5,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_weights_are_float32_and_sum_to_one(normal, dtype):
    weights = attention_weights(normal(2, 1, 3, 4, dtype=dtype), normal(2, 5, 3, 4, dtype=dtype))
    assert weights.shape == (6, 1, 5)
    assert weights.dtype == jnp.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)


def test_attention_of_huge_scores_is_finite_and_picks_the_largest():
    query = np.full((1, 1, 1, 4), 1e4, np.float32)
    key = np.concatenate([query, 2 * query], axis=1)
    np.testing.assert_array_equal(attention_weights(query, key), [[[0.0, 1.0]]])
