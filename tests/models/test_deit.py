import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model
from vit_jax.models.deit import DistilledVisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "patch_size": (4, 4), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}


def tiny(**fields):
    return DistilledVisionTransformer(**{**SIZES, **fields})


def shapes(**fields):
    """Returns the shape of every parameter of a tiny model."""
    params = jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)["params"]
    return jax.tree.map(lambda leaf: leaf.shape, params)


@functools.partial(jax.jit, static_argnames=("model", "method", "train"))
def apply(params, *arguments, model=None, method="__call__", **named):
    """`model.apply`, compiled once for the same model, whichever test asks."""
    return (model or tiny()).apply({"params": params}, *arguments, method=method, **named)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(tiny(), IMAGES)


def without(params, *names):
    return {name: leaf for name, leaf in params.items() if name not in names}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deit_ti16_distilled", 5_910_800),
        ("deit_s16_distilled", 22_436_432),
        ("deit_b16_distilled", 87_338_192),
    ],
)
def test_published_sizes(name, count):
    model = create_model(name)
    params = jax.eval_shape(model.init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert model.gelu == "exact"


def test_the_distillation_token_has_a_position_and_a_head_of_its_own():
    assert shapes()["cls"] == shapes()["dist"] == (1, 1, 8)
    assert shapes()["head"] == shapes()["head_dist"] == {"kernel": (8, 5), "bias": (5,)}
    assert shapes()["position_embed"]["embedding"] == (1, 6, 8)
    assert shapes(cls_position=False)["position_embed"]["embedding"] == (1, 4, 8)
    assert set(shapes()) - set(shapes(num_classes=0)) == {"head", "head_dist"}
    assert set(shapes()) - set(shapes(dist_classifier=False)) == {"head_dist"}


def test_tokens_are_cls_then_dist_then_registers_then_patches(random_params):
    model = tiny(position="none", registers=2)
    params = jax.tree.map(np.zeros_like, random_params(model, IMAGES))
    params["cls"] += 1
    params["dist"] += 2
    params["registers"] += 3
    params["patch_embed"]["bias"] += 4
    tokens = model.apply({"params": params}, IMAGES, False, method="tokens")
    marks = np.reshape([1, 2, 3, 3, 4, 4, 4, 4], (1, 8, 1))
    np.testing.assert_array_equal(tokens, np.broadcast_to(marks, (2, 8, 8)))
    assert model.prefix_tokens == 4


def test_logits_are_the_mean_of_both_heads(params):
    cls, dist = apply(params, IMAGES, method="token_logits")
    assert cls.shape == dist.shape == (2, 5)
    assert np.abs(cls - dist).max() > 1e-2
    np.testing.assert_allclose(apply(params, IMAGES), (np.asarray(cls) + dist) / 2, rtol=1e-5, atol=1e-6)


def test_each_head_sees_its_own_token(params):
    features = apply(params, IMAGES, method="features")
    for i, (name, logits) in enumerate(
        zip(("head", "head_dist"), apply(params, IMAGES, method="token_logits"), strict=True)
    ):
        expected = features[:, i] @ params[name]["kernel"] + params[name]["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_both_heads_start_at_zero_and_their_biases_at_head_bias():
    names, model = ("head", "head_dist"), tiny(depth=1, head_bias=-10.0)
    params = jax.jit(lambda key: {k: model.init(key, IMAGES)["params"][k] for k in names})(jax.random.key(0))
    for name in names:
        assert not params[name]["kernel"].any()
        np.testing.assert_array_equal(params[name]["bias"], np.full(5, -10.0))


def test_embedding_is_the_mean_of_both_tokens(params):
    features = apply(params, IMAGES, method="features")
    embedding = apply(params, IMAGES, method="embed")
    np.testing.assert_allclose(embedding, features[:, :2].mean(axis=1), rtol=1e-5, atol=1e-6)
    bare = without(params, "head", "head_dist")
    np.testing.assert_allclose(apply(bare, IMAGES, model=tiny(num_classes=0)), embedding, rtol=1e-6, atol=1e-6)


def test_without_dist_classifier_the_cls_token_classifies_and_attends_to_dist(params):
    model, some = tiny(dist_classifier=False), without(params, "head_dist")
    cls, _ = apply(params, IMAGES, method="token_logits")
    np.testing.assert_allclose(apply(some, IMAGES, model=model), cls, rtol=1e-6, atol=1e-6)
    embedding = apply(some, IMAGES, model=model, method="embed")
    features = apply(some, IMAGES, model=model, method="features")
    np.testing.assert_allclose(embedding, features[:, 0], rtol=1e-6, atol=1e-6)
    moved = apply({**some, "dist": some["dist"] + np.arange(8)}, IMAGES, model=model)
    assert np.abs(moved - cls).max() > 1e-2


def test_without_dist_classifier_a_pre_logits_layer_may_follow():
    assert shapes(dist_classifier=False, pre_logits=6)["head"]["kernel"] == (6, 5)
    assert shapes(dist_classifier=False, head="mlp")["pre_logits"]["kernel"] == (8, 8)


@pytest.mark.parametrize("method", ["__call__", "token_logits"])
def test_both_heads_are_trained_with_dropout(params, method):
    model = tiny(dropout=0.1)
    jax.eval_shape(lambda params: model.apply({"params": params}, IMAGES, method=method), params)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda params: model.apply({"params": params}, IMAGES, train=True, method=method), params)


def test_types(params):
    model = tiny(dtype="bfloat16")
    variables, logits = {"params": params}, functools.partial(model.apply, method="token_logits")
    assert {leaf.dtype for leaf in jax.eval_shape(logits, variables, IMAGES)} == {jnp.dtype("float32")}
    params = jax.eval_shape(tiny(param_dtype="bfloat16").init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "fields",
    [
        {"pool": "gap"},
        {"pool": "map"},
        {"pool": "cls_gap"},
        {"pool_norm": True},
        {"pre_logits": 6},
        {"head": "mlp"},
        {"dist_classifier": False, "pool": "gap"},
    ],
)
def test_what_two_tokens_cannot_classify_is_an_error(fields):
    with pytest.raises(ValueError, match="by its cls and dist tokens: pool 'cls' and linear heads only"):
        shapes(**fields)


@pytest.mark.parametrize("fields", [{"num_classes": 0}, {"dist_classifier": False}])
def test_token_logits_of_a_model_without_both_heads_is_an_error(params, fields):
    with pytest.raises(ValueError, match="token_logits needs both heads"):
        apply(without(params, "head_dist"), IMAGES, model=tiny(**fields), method="token_logits")
