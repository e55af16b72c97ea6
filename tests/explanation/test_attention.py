import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.explanation.attention import attention_maps
from vit_jax.layers.attention import ATTENTION
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.hybrid import HybridVisionTransformer
from vit_jax.models.mixer import Mixer
from vit_jax.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "patch_size": (4, 4), "width": 8, "depth": 3, "heads": 2, "mlp_dim": 12}
TOKENS = 7


def tiny(**fields):
    return VisionTransformer(**{**SIZES, **fields})


def random_variables(model):
    """Returns variables of the model's shapes, large enough that no row of attention is nearly uniform."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@functools.partial(jax.jit, static_argnames="model")
def maps(variables, model):
    return attention_maps(model, variables, IMAGES)


@jax.jit
def inputs_of_blocks(variables):
    """Returns the tokens that enter each block of the plain tiny model."""
    tokens = tiny().apply(variables, IMAGES, False, method="tokens")
    return [tokens, *tiny().apply(variables, IMAGES, (0, 1), method="intermediates")]


@pytest.fixture(scope="module")
def variables():
    return random_variables(tiny())


@pytest.fixture(scope="module")
def expected(variables):
    """The softmax of q kᵀ / √head_dim, written out in float64, block by block."""
    weights = []
    for i, x in enumerate(inputs_of_blocks(variables)):
        block = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"]["encoder"][f"block_{i}"])
        x = np.asarray(x, np.float64)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * block["norm_0"]["scale"] + block["norm_0"]["bias"]
        query, key = (
            np.einsum("btw,whd->bhtd", x, block["attention"][name]["kernel"])
            + block["attention"][name]["bias"][None, :, None]
            for name in ("query", "key")
        )
        scores = np.exp(np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(4))
        weights.append(scores / scores.sum(-1, keepdims=True))
    return weights


@pytest.mark.parametrize(
    "options", [{}, {"scan_layers": True}, {"remat": "full"}, {"scan_layers": True, "remat": "dots"}]
)
def test_are_the_softmax_of_the_scores_of_every_block_in_order(variables, expected, options):
    found = maps(variables, tiny(**options))
    assert [w.shape for w in found] == [(2, 2, TOKENS, TOKENS)] * 3
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, wanted, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


@pytest.mark.parametrize("fields", [{}, {"qk_norm": True, "dtype": "bfloat16"}])
def test_rows_sum_to_1(fields):
    model = tiny(**fields)
    for weights in maps(random_variables(model), model):
        assert weights.dtype == jnp.float32
        assert weights.min() >= 0
        assert np.ptp(weights, axis=-1).max() > 0.01
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_ten_blocks_and_more_come_in_order_of_their_numbers():
    """A block whose queries are zero weighs all tokens alike; block 10 comes last, not after block 1."""
    model = tiny(depth=11)
    variables = random_variables(model)
    query = variables["params"]["encoder"]["block_10"]["attention"]["query"]
    query["kernel"][...], query["bias"][...] = 0, 0
    spread = [np.ptp(weights) for weights in maps(variables, model)]
    assert len(spread) == 11
    assert spread[10] < 1e-6
    assert min(spread[:10]) > 0.1


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        (tiny(pool="map"), 6),
        (tiny(registers=2), 9),
        (DistilledVisionTransformer(**SIZES), 8),
        (HybridVisionTransformer(stages=(), **{**SIZES, "patch_size": (1, 1)}), 7),
    ],
)
def test_one_of_each_block_for_every_model_with_attention_and_none_of_the_pooling(model, tokens):
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    found = jax.eval_shape(lambda variables: attention_maps(model, variables, IMAGES), shapes)
    assert [w.shape for w in found] == [(2, 2, tokens, tokens)] * 3


def test_a_model_without_attention_is_an_error():
    model = Mixer(num_classes=5, patch_size=(4, 4), width=8, depth=2, tokens_mlp_dim=7, channels_mlp_dim=12)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="a Mixer has no attention"):
        jax.eval_shape(lambda variables: attention_maps(model, variables, IMAGES), shapes)


@pytest.mark.parametrize("options", [{}, {"scan_layers": True}, {"pool": "map", "remat": "full"}])
def test_nothing_is_sown_unless_asked_for(options):
    model = tiny(**options)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert set(variables) == {"params"}

    def collections(**named):
        return jax.eval_shape(lambda variables: model.apply(variables, IMAGES, **named), variables)

    assert collections().shape == (2, 5)
    assert not collections(mutable=["intermediates", "batch_stats"])[1]
    assert set(collections(mutable=[ATTENTION])[1]) == {ATTENTION}


def test_looking_changes_no_logits(variables):
    looked = jax.jit(lambda variables: tiny(scan_layers=True).apply(variables, IMAGES, mutable=[ATTENTION])[0])
    np.testing.assert_allclose(looked(variables), jax.jit(tiny().apply)(variables, IMAGES), rtol=1e-5, atol=1e-5)
