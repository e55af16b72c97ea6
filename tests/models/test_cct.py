"""Compact convolutional transformers: published sizes, and that every option of a ViT works with their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model
from vit_jax.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
FIELDS = {"num_classes": 5, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}


def tiny(**fields) -> VisionTransformer:
    return create_model("cct_cifar_7_3x1", **{**FIELDS, **fields})


def logits(model: VisionTransformer, params: dict, images=IMAGES, **named):
    return jax.jit(lambda params: model.apply({"params": params}, images, **named))(params)


@pytest.mark.parametrize(
    ("name", "count"), [("cct_cifar_2_3x2", 0.284), ("cct_cifar_6_3x1", 3.168), ("cct_cifar_7_3x1", 3.760)]
)
def test_published_sizes(name, count):
    """Millions, as the authors give them."""
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 3) == count
    assert {"patch_embed", "sequence_pool"} <= params.keys()
    assert "cls" not in params


def test_the_whole_is_made_of_its_parts(random_params):
    """The convolution, positions, blocks, norm and the weighted mean, one after the other."""
    model = tiny()
    params = random_params(model, IMAGES)
    assert params["patch_embed"].keys() == {"conv_0"}
    assert params["position_embed"]["embedding"].shape == (1, 16, 8)
    features = logits(model, params, method="features")
    assert features.shape == (2, 16, 8)
    scores = features @ params["sequence_pool"]["score"]["kernel"]
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    pooled = (weights * features).sum(axis=1)
    expected = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits(model, params), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"scan_layers": True}, {"remat": "full"}, {"scan_layers": True, "remat": "dots"}])
def test_scan_and_remat_change_nothing(random_params, options):
    params = random_params(tiny(), IMAGES)

    def gradients(model):
        return jax.jit(jax.grad(lambda params: (model.apply({"params": params}, IMAGES) ** 2).mean()))(params)

    expected = gradients(tiny())
    assert np.abs(expected["patch_embed"]["conv_0"]["kernel"]).max() > 1e-3
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max()))  # noqa: E731
    jax.tree.map(close, gradients(tiny(**options)), expected)


def test_images_of_any_size(random_params):
    """Without learned positions; odd sides are rounded up."""
    model = tiny(position="sincos2d", patch_size=4)
    params = random_params(model, IMAGES)
    assert params["patch_embed"]["conv_0"]["kernel"].shape == (3, 3, 3, 64)
    for size, tokens in (((8, 8), 4), ((9, 13), 12), ((4, 6), 2)):
        images = np.ones((1, *size, 3), np.float32)
        assert logits(model, params, images, method="features").shape == (1, tokens, 8)
        assert np.isfinite(logits(model, params, images)).all()


def test_other_parts_of_a_vit_go_with_them(random_params):
    """A cls token and registers are not pooled; merged tokens weigh as many as they stand for."""
    model = tiny(cls_token=True, registers=2)
    params = random_params(model, IMAGES)
    tokens = np.random.default_rng(1).normal(size=(2, 9, 8)).astype(np.float32)
    pooled = lambda tokens, sizes=None: model.apply({"params": params}, tokens, sizes, method="pooled")  # noqa: E731
    changed = tokens.copy()
    changed[:, :3] += 1
    np.testing.assert_array_equal(pooled(changed), pooled(tokens))
    twice = np.concatenate([tokens, tokens[:, 3:5]], axis=1)
    sizes = np.array([[2, 2, 1, 1, 1, 1]] * 2, np.float32)
    np.testing.assert_allclose(pooled(tokens, sizes), pooled(twice), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vit", {"patch_embed": "cct", "patch_size": 3}, r"patch_size must be 2, 4, 8, …, not \(3, 3\)"),
        ("vit", {"patch_embed": "conv"}, "patch_embed must be one of linear, .*cct, .*flexible, not 'conv'"),
        ("hybrid", {"patch_embed": "cct", "stages": ()}, "patch_embed must be linear, not 'cct'"),
        ("vit_distilled", {"pool": "sequence"}, "pool 'cls' and linear heads only"),
    ],
)
def test_what_makes_no_sense_is_an_error(name, fields, message):
    model = create_model(name, **{**FIELDS, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), np.ones((1, 24, 24, 3), np.float32))


def test_relative_positions_know_the_grid(random_params):
    """A BEiT of the same parts: 8 pixels are 4 places."""
    model = create_model("beit", **FIELDS, patch_size=2, patch_embed="cct", pool="sequence", pool_norm=False)
    params = random_params(model, IMAGES)
    assert logits(model, params).shape == (2, 5)
