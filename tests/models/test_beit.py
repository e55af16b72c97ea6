import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import staged
from tests.models.staged import QUICKLY, assert_trees_close
from vit_jax.explanation.attention import attention_maps
from vit_jax.layers.relative_bias import RelativeBias
from vit_jax.models import create_model
from vit_jax.models.beit import Beit
from vit_jax.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "patch_size": (4, 4), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}


def tiny(**fields):
    return Beit(**{**SIZES, **fields})


def apply(model, variables, images=IMAGES, **named):
    return staged.apply(model, variables, images, **named)


@pytest.fixture(scope="module")
def variables(random_params):
    return {"params": random_params(tiny(), IMAGES)}


@pytest.mark.parametrize(("name", "count"), [("beit_b16", 86_530_984), ("beit_l16", 304_430_568)])
def test_published_sizes(name, count):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_without_relative_positions_it_is_a_vision_transformer(variables):
    """With keys whose bias is zero."""
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for block in params["encoder"].values():
        del block["relative_bias"]
        assert list(block["attention"]["key"]) == ["kernel"]
    expected = apply(tiny(relative_bias="none"), {"params": params})
    for block in params["encoder"].values():
        block["attention"]["key"]["bias"] = np.zeros((2, 4), np.float32)
    options = {"gelu": "exact", "pool": "gap", "pool_norm": True, "cls_token": True, "position": "none"}
    vit = VisionTransformer(**SIZES, **options, layer_scale=0.1)
    np.testing.assert_allclose(apply(vit, {"params": params}), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - apply(tiny(), variables)).max() > 1e-4


def test_weights_are_those_of_scores_and_relative_positions(variables):
    """Queries of zero leave the positions alone, of which each block has its own."""
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    for block in params["encoder"].values():
        block["attention"]["query"] = jax.tree.map(np.zeros_like, block["attention"]["query"])
    maps = attention_maps(tiny(), {"params": params}, IMAGES)
    for i, found in enumerate(maps):
        table = {"params": params["encoder"][f"block_{i}"]["relative_bias"]}
        bias = RelativeBias(2, cls=True).apply(table, 2, 3)
        np.testing.assert_allclose(found, jnp.repeat(jax.nn.softmax(bias, -1), 2, 0), rtol=1e-4, atol=1e-6)
    assert np.abs(maps[0] - maps[1]).max() > 1e-2


def test_shared_positions_are_one_table(random_params):
    shared = tiny(relative_bias="shared")
    params = random_params(shared, IMAGES)
    assert "relative_bias" in params
    each = {name: {**block, "relative_bias": params["relative_bias"]} for name, block in params["encoder"].items()}
    own = {"params": {name: leaf for name, leaf in params.items() if name != "relative_bias"} | {"encoder": each}}
    np.testing.assert_allclose(apply(shared, {"params": params}), apply(tiny(), own), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"scan_layers": True}, {"remat": "full"}, {"remat": "dots", "scan_layers": True}])
def test_scan_and_remat_change_nothing(variables, options):
    def gradients(**options):
        model = tiny(drop_path=0.5, **options)
        rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}

        def loss(variables):
            found = model.apply(variables, IMAGES, (0, 1), True, rngs=rngs, method="intermediates")
            return sum((one**2).mean() for one in found)

        return jax.jit(jax.value_and_grad(loss), compiler_options=QUICKLY)(variables)

    assert_trees_close(gradients(**options), gradients(), 1e-5)


def test_bfloat16_gradients_are_finite_and_near(variables):
    model = tiny(dtype="bfloat16")

    def loss(variables):
        return (model.apply(variables, IMAGES) ** 2).mean()

    gradients = jax.jit(jax.grad(loss), compiler_options=QUICKLY)(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    table = gradients["params"]["encoder"]["block_0"]["relative_bias"]["table"]
    assert table.dtype == jnp.float32
    assert np.abs(table).max() > 0
    exact = apply(tiny(), variables)
    np.testing.assert_allclose(apply(model, variables), exact, atol=0.05 * np.abs(exact).max())


def test_fused_projections_change_nothing(variables):
    np.testing.assert_allclose(apply(tiny(fused_qkv=True), variables), apply(tiny(), variables), rtol=1e-4, atol=1e-5)


def test_an_image_of_another_grid_is_an_error(variables):
    with pytest.raises(ValueError, match="made for a grid of 2x3, but the image needs 2x2"):
        jax.eval_shape(lambda v: tiny().apply(v, IMAGES[:, :, :8]), variables)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"relative_bias": "some"}, "relative_bias must be one of blocks, shared, none, not 'some'"),
        ({"registers": 2}, "registers have none"),
        ({"cls_token": False}, "relative positions are those of a cls token and the patches"),
        ({"merge_tokens": 2}, "merge_tokens must be 0, not 2"),
        ({"attention_kernel": "cudnn"}, "attention_kernel 'cudnn': it does not add relative positions"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)
