import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.pooling import MapPool
from vit_jax.models import create_model
from vit_jax.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "patch_size": (4, 4), "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}


def tiny(**fields):
    return VisionTransformer(**{**SIZES, **fields})


def shapes(**fields):
    """Returns the parameters' shapes and types of a tiny model."""
    return jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)["params"]


@functools.partial(jax.jit, static_argnames=("model", "method", "train"))
def apply(variables, *arguments, model, method="__call__", **named):
    """`model.apply`, compiled once for the same model, whichever test asks."""
    return model.apply(variables, *arguments, method=method, **named)


@pytest.fixture(scope="module")
def run(random_params):
    """`run(fields, *arguments, method="__call__", **named)`: what a tiny model with random parameters answers."""

    def run(fields, *arguments, **named):
        model = tiny(**fields)
        return apply({"params": random_params(model, IMAGES)}, *arguments, model=model, **named)

    return run


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_ti16", 5_717_416),
        ("vit_s16", 22_050_664),
        ("vit_s32", 22_878_952),
        ("vit_b8", 86_576_872),
        ("vit_b16", 86_567_656),
        ("vit_b32", 88_224_232),
        ("vit_l16", 304_326_632),
        ("vit_l32", 306_535_400),
        ("vit_h14", 632_045_800),
        ("deit3_s16", 22_059_496),
        ("deit3_b16", 86_585_320),
    ],
)
def test_published_sizes(name, count):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("vit_s14", {}, 22_056_192),
        ("vit_b14", {}, 86_579_712),
        ("vit_b14", {"registers": 4, "cls_position": False}, 86_582_016),
        ("vit_g14", {"width": 1536, "heads": 24, "mlp_dim": 4096, "mlp": "swiglu"}, 1_136_479_232),
    ],
)
def test_published_sizes_of_dinov2(name, fields, count):
    """Oquab et al. 2024, with a LayerScale and positions for 518 pixels; with registers, Darcet et al. 2024."""
    model = create_model(name, num_classes=0, layer_scale=1.0, **fields)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 518, 518, 3), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ({"pool": "cls"}, ["cls", *["patch"] * 4]),
        ({"pool": "gap"}, ["patch"] * 4),
        ({"pool": "gap", "cls_token": True, "registers": 1}, ["cls", "register", *["patch"] * 4]),
        ({"pool": "map", "registers": 2}, ["register", "register", *["patch"] * 4]),
        ({"pool": "cls", "registers": 2}, ["cls", "register", "register", *["patch"] * 4]),
    ],
)
def test_tokens_are_cls_then_registers_then_patches(random_params, fields, order):
    model = tiny(position="none", **fields)
    params = jax.tree.map(np.zeros_like, random_params(model, IMAGES))
    marks = {"cls": 1.0, "register": 2.0, "patch": 3.0}
    params["patch_embed"]["bias"] += marks["patch"]
    if "cls" in order:
        params["cls"] += marks["cls"]
    if "register" in order:
        params["registers"] += marks["register"]
    tokens = model.apply({"params": params}, IMAGES, False, method="tokens")
    np.testing.assert_array_equal(tokens, np.broadcast_to([[[marks[t]] for t in order]], (2, len(order), 8)))
    assert model.prefix_tokens == len(order) - 4


@pytest.mark.parametrize(
    ("fields", "positions"),
    [
        ({"pool": "cls"}, 5),
        ({"pool": "gap"}, 4),
        ({"pool": "gap", "cls_token": True}, 5),
        ({"pool": "cls", "registers": 3}, 5),
        ({"pool": "map"}, 4),
    ],
)
def test_learned_positions_are_of_the_patches_and_cls_but_not_of_registers(fields, positions):
    params = shapes(position="learned", **fields)
    assert params["position_embed"]["embedding"].shape == (1, positions, 8)
    for other in ("sincos2d", "none"):
        assert "position_embed" not in shapes(position=other, **fields)


@pytest.mark.parametrize("fields", [{"pool": "cls"}, {"pool": "cls_gap", "registers": 2}])
def test_without_cls_position_the_cls_token_has_a_position_of_zero(random_params, fields):
    model = tiny(cls_position=False, **fields)
    params = random_params(model, IMAGES)
    grid = params["position_embed"]["embedding"]
    assert grid.shape == (1, 4, 8)
    tokens = model.apply({"params": params}, IMAGES, False, method="tokens")
    np.testing.assert_array_equal(tokens[:, 0], np.broadcast_to(params["cls"][0], (2, 8)))
    padded = np.concatenate([np.zeros_like(grid[:, :1]), grid], axis=1)
    same = {**params, "position_embed": {"embedding": padded}}
    logits = apply({"params": params}, IMAGES, model=model)
    np.testing.assert_allclose(apply({"params": same}, IMAGES, model=tiny(**fields)), logits, rtol=1e-5, atol=1e-6)
    rolled = {**params, "position_embed": {"embedding": np.roll(grid, 1, axis=1)}}
    assert np.abs(apply({"params": rolled}, IMAGES, model=model) - logits).max() > 1e-3


@pytest.mark.parametrize(("position", "matters"), [("none", False), ("sincos2d", True), ("learned", True)])
def test_the_order_of_patches_matters_only_to_positions(run, position, matters):
    swapped = np.concatenate([IMAGES[:, 4:], IMAGES[:, :4]], axis=1)
    logits = run({"pool": "gap", "position": position}, np.concatenate([IMAGES, swapped]))
    difference = np.abs(logits[:2] - logits[2:]).max()
    assert difference > 1e-3 if matters else difference < 1e-5


def test_image_may_have_any_size_that_the_patch_divides(run):
    """Positions apart, a tiled image has the same mean patch: no token sees where or how often it stands."""
    fields = {"pool": "gap", "position": "none"}
    np.testing.assert_allclose(run(fields, np.tile(IMAGES, (1, 1, 2, 1))), run(fields, IMAGES), rtol=1e-4, atol=1e-5)


def test_image_that_the_patch_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="image height 10 is not a multiple of patch height 4"):
        jax.eval_shape(tiny().init, jax.random.key(0), np.ones((1, 10, 8, 3), np.float32))


def test_pooling_takes_cls_or_the_mean_of_the_patches_alone(random_params):
    tokens = np.random.default_rng(1).normal(size=(2, 7, 8)).astype(np.float32)
    for pool, expected in (("cls", tokens[:, 0]), ("gap", tokens[:, 3:].mean(axis=1))):
        model = tiny(pool=pool, cls_token=True, registers=2)
        pooled = model.apply({"params": random_params(model, IMAGES)}, tokens, method="pooled")
        np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_cls_gap_is_cls_and_the_mean_of_the_patches_side_by_side(run):
    fields = {"pool": "cls_gap", "registers": 2}
    features = run(fields, IMAGES, method="features")
    assert features.shape == (2, 7, 8)
    expected = np.concatenate([features[:, 0], features[:, 3:].mean(axis=1)], axis=-1)
    np.testing.assert_allclose(run(fields, IMAGES, method="embed"), expected, rtol=1e-5, atol=1e-6)
    assert shapes(**fields)["head"]["kernel"].shape == (16, 5)
    assert tiny(**fields).class_token_names == ("cls",)


def test_map_pooling_sees_the_patches_alone(random_params):
    model = tiny(pool="map", cls_token=True, registers=2)
    params = random_params(model, IMAGES)
    tokens = np.random.default_rng(1).normal(size=(2, 7, 8)).astype(np.float32)

    @jax.jit
    def pooled(tokens):
        return model.apply({"params": params}, tokens, method="pooled")

    expected = jax.jit(MapPool(2, 12).apply)({"params": params["map_pool"]}, tokens[:, 3:])
    np.testing.assert_allclose(pooled(tokens), expected, rtol=1e-5, atol=1e-5)
    for i in range(7):
        changed = tokens.copy()
        changed[:, i] += np.arange(8)
        difference = np.abs(pooled(changed) - pooled(tokens)).max()
        assert difference == 0 if i < 3 else difference > 1e-2


def layer_norm(x, params):
    """Returns the normalised vectors, in float64."""
    x = np.asarray(x, np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normal * params["scale"] + params["bias"]


def test_pool_norm_normalises_after_pooling_and_leaves_features_bare(random_params):
    model = tiny(pool="gap", pool_norm=True)
    params = random_params(model, IMAGES)

    @jax.jit
    def run(params):
        features, embedding = (model.apply({"params": params}, IMAGES, method=m) for m in ("features", "embed"))
        return features, embedding, model.apply({"params": params}, IMAGES, (-1,), method="intermediates")[0]

    features, embedding, last = run(params)
    np.testing.assert_allclose(features, last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(embedding, layer_norm(features.mean(axis=1), params["norm"]), rtol=1e-4, atol=1e-4)
    assert shapes(pool="gap", pool_norm=True) == shapes(pool="gap")


def test_pool_norm_of_both_tokens_is_as_wide_as_they_are():
    assert shapes(pool="cls_gap", pool_norm=True)["norm"]["scale"].shape == (16,)


def test_pre_norm_normalises_the_tokens_before_the_first_block(random_params):
    """And the patch embedding has no bias."""
    model = tiny(pre_norm=True, registers=1)
    params = random_params(model, IMAGES)
    assert set(params["patch_embed"]) == {"kernel"}
    plain = {name: leaf for name, leaf in params.items() if name != "pre_norm"}
    plain["patch_embed"] = {**params["patch_embed"], "bias": np.zeros(8, np.float32)}
    bare = tiny(registers=1).apply({"params": plain}, IMAGES, False, method="tokens")
    tokens = model.apply({"params": params}, IMAGES, False, method="tokens")
    assert tokens.dtype == jnp.float32
    np.testing.assert_allclose(tokens, layer_norm(bare, params["pre_norm"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "gap", "map", "cls_gap", "sequence"])
def test_an_image_is_classified_alone(run, pool):
    """The logits of a row do not depend on the other rows, and they do on its own pixels."""
    others = np.concatenate([IMAGES[:1], 2 - IMAGES[1:]])
    first, second = run({"pool": pool}, IMAGES), run({"pool": pool}, others)
    assert first.shape == (2, 5)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-6)
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_head_and_cls_start_at_zero_and_the_heads_bias_at_head_bias():
    params = jax.jit(lambda key: {k: tiny(head_bias=-10.0).init(key, IMAGES)["params"][k] for k in ("head", "cls")})(
        jax.random.key(0)
    )
    assert not params["cls"].any()
    assert not params["head"]["kernel"].any()
    np.testing.assert_array_equal(params["head"]["bias"], np.full(5, -10.0))


def test_mlp_head_is_a_pre_logits_layer_of_the_encoders_width(run):
    assert shapes(head="mlp") == shapes(pre_logits=8)
    assert shapes(pre_logits=6)["pre_logits"]["kernel"].shape == (8, 6)
    assert shapes(pre_logits=6)["head"]["kernel"].shape == (6, 5)
    assert shapes(pre_logits=6, head="mlp") == shapes(pre_logits=6)
    np.testing.assert_array_equal(run({"head": "mlp"}, IMAGES), run({"pre_logits": 8}, IMAGES))


def test_pre_logits_is_tanh_of_a_dense_layer(random_params, run):
    dense = random_params(tiny(pre_logits=6), IMAGES)["pre_logits"]
    pooled = run({"pre_logits": 6}, IMAGES, method="features")[:, 0]
    expected = np.tanh(pooled @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(run({"pre_logits": 6}, IMAGES, method="embed"), expected, rtol=1e-5, atol=1e-5)


def test_without_classes_the_answer_is_the_embedding(random_params):
    params = random_params(tiny(), IMAGES)
    embedding = apply({"params": params}, IMAGES, model=tiny(), method="embed")
    logits = apply({"params": params}, IMAGES, model=tiny())
    head = params.pop("head")
    np.testing.assert_allclose(logits, embedding @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-5)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(num_classes=0))
    answer = apply({"params": params}, IMAGES, model=tiny(num_classes=0))
    np.testing.assert_allclose(answer, embedding, rtol=1e-6)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_intermediates_are_counted_from_either_end(random_params, scan_layers):
    model = tiny(scan_layers=scan_layers)
    variables = {"params": random_params(model, IMAGES)}

    @jax.jit
    def run(variables):
        outputs = model.apply(variables, IMAGES, (-1, 0, 1), method="intermediates")
        normed = model.apply(variables, outputs[0], method=lambda model, tokens: model.norm(tokens))
        return outputs, normed, model.apply(variables, IMAGES, method="features")

    (last, first, second), normed, features = run(variables)
    assert first.shape == (2, 5, 8)
    np.testing.assert_array_equal(last, second)
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_allclose(normed, features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [2, -3])
def test_intermediate_of_an_unknown_layer_is_an_error(layer):
    with pytest.raises(ValueError, match=f"no layer {layer} in a model of depth 2"):
        jax.eval_shape(lambda key: tiny().init(key, IMAGES, (0, layer), method="intermediates"), jax.random.key(0))


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, {"pool": "gap", "head": "mlp"}, {"pool": "map"}])
def test_bfloat16_compute_keeps_parameters_and_logits_in_float32(fields):
    model = tiny(dtype="bfloat16", qk_norm=True, layer_scale=0.1, registers=1, **fields)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}
    features = jax.eval_shape(lambda variables: model.apply(variables, IMAGES, method="features"), variables)
    assert features.dtype == jnp.bfloat16


@pytest.mark.parametrize("pool", ["cls", "map"])
def test_param_dtype_reaches_every_parameter(pool):
    fields = {"pool": pool, "head": "mlp", "qk_norm": True, "layer_scale": 0.1, "registers": 1}
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(param_dtype="bfloat16", **fields))} == {jnp.dtype("bfloat16")}


def test_bfloat16_logits_are_near_those_of_float32(run):
    exact = run({}, IMAGES)
    np.testing.assert_allclose(run({"dtype": "bfloat16"}, IMAGES), exact, atol=0.05 * np.abs(exact).max())


def test_training_without_dropout_is_evaluation_and_needs_no_key(run):
    np.testing.assert_array_equal(run({}, IMAGES, train=True), run({}, IMAGES, train=False))


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "drop_path"])
def test_training_with_dropout_needs_a_key(field):
    model = tiny(**{field: 0.1})
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    jax.eval_shape(lambda variables: model.apply(variables, IMAGES, train=False), variables)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda variables: model.apply(variables, IMAGES, train=True), variables)


def test_scan_equals_loop_with_dropout_of_the_tokens_too(run):
    """The generator is one that compiles fast; what is tested is that the keys are the same."""
    fields = {"dropout": 0.3, "drop_path": 0.3}
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    loop = run(fields, IMAGES, train=True, rngs=rngs)
    scan = run({"scan_layers": True, "remat": "full", **fields}, IMAGES, train=True, rngs=rngs)
    assert np.abs(loop - run({}, IMAGES)).max() > 1e-2
    np.testing.assert_allclose(loop, scan, rtol=1e-6, atol=1e-6 * np.abs(loop).max())


def test_scan_and_remat_change_nothing_with_swiglu(random_params):
    """Gradients included; the keys of dropout are the block's, whichever its MLP."""
    params = random_params(tiny(mlp="swiglu"), IMAGES)
    assert params["encoder"]["block_1"]["mlp"]["gate"]["kernel"].shape == (8, 12)

    def logits_and_gradients(**options):
        def loss(params):
            logits = tiny(mlp="swiglu", **options).apply({"params": params}, IMAGES, train=True)
            return (logits**2).mean(), logits

        (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return logits, gradients

    def assert_close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * max(1.0, np.abs(expected).max()))

    loop = logits_and_gradients()
    assert np.abs(loop[1]["encoder"]["block_0"]["mlp"]["gate"]["kernel"]).max() > 1e-3
    jax.tree.map(assert_close, logits_and_gradients(scan_layers=True, remat="full"), loop)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("mlp", "gelu, swiglu"),
        ("patch_embed", "linear, overlapping, conv_stem, cct, hybrid, positional, adaptive, flexible"),
        ("pool", "cls, gap, map, cls_gap, sequence, multi_cls"),
        ("multi_cls", "concat, mean"),
        ("head", "linear, mlp"),
        ("remat", "none, dots, full"),
        ("position", "learned, sincos2d, sinusoidal1d, rope2d, relative, none"),
        ("attention", "full, relative, local, axial, sparse, topk, linear, performer"),
        ("gelu", "'tanh' or 'exact'"),
    ],
)
def test_unknown_choice_is_an_error_that_names_the_known(field, known):
    with pytest.raises(ValueError, match=f"{field} must be .*{known}, not 'nonsense'"):
        shapes(**{field: "nonsense"})
