"""Patch embeddings, several class tokens and patch dropout in a whole Vision Transformer: limits, options, refusals."""

import jax
import numpy as np
import pytest

from tests.models.overfit import STEPS, accuracy_by_heart
from tests.models.staged import QUICKLY, apply, assert_trees_close, output_and_gradients
from vit_jax.models import create_model
from vit_jax.models.variants import training_variants
from vit_jax.models.vit import VisionTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
FIELDS = {"num_classes": 5, "patch_size": 2, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}
KINDS = {
    "linear": {},
    "overlapping": {"patch_embed": "overlapping", "patch_size": 4, "patch_stride": 2},
    "conv_stem": {"patch_embed": "conv_stem"},
    "cct": {"patch_embed": "cct"},
    "hybrid": {"patch_embed": "hybrid", "resnet": "resnet18_cifar", "resnet_stage": 1},
    "positional": {"patch_embed": "positional", "position": "none"},
    "adaptive": {"patch_embed": "adaptive", "patch_tokens": 10},
    "flexible": {"patch_embed": "flexible", "patch_sizes": (2, 4)},
    "multi_cls": {"pool": "multi_cls", "class_tokens": 3},
    "patch_dropout": {"patch_dropout": 0.5, "pool": "gap"},
}


def tiny(**fields) -> VisionTransformer:
    return create_model("vit", **{**FIELDS, **fields})


def random_variables(model, images=IMAGES) -> dict:
    """Returns random parameters and statistics, the larger arrays smaller, so that deep ones stay in range."""
    shapes, generator = jax.eval_shape(model.init, jax.random.key(0), images), np.random.default_rng(0)
    draw = lambda leaf: (generator.normal(size=leaf.shape) / 3).astype(leaf.dtype)  # noqa: E731
    statistics = jax.tree.map(lambda leaf: np.abs(draw(leaf)) + 0.5, shapes.get("batch_stats", {}))
    return {"params": jax.tree.map(draw, shapes["params"]), "batch_stats": statistics}


def logits(model, variables, images=IMAGES, **named):
    with jax.default_matmul_precision("highest"):
        return apply(model, variables, images, **named)


@pytest.mark.parametrize(
    "fields",
    [
        {"patch_embed": "overlapping", "patch_stride": 2},
        {"patch_embed": "adaptive", "patch_tokens": 16},
        {"patch_embed": "flexible", "patch_sizes": (4, 2), "patch_base": 2},
    ],
    ids=lambda fields: fields["patch_embed"],
)
def test_in_the_limit_it_is_the_plain_model(fields):
    """With cls and registers; the parameters are the same but for the row of each larger size."""
    both = {"registers": 1, "cls_position": fields["patch_embed"] != "flexible"}
    plain, model = tiny(**both), tiny(**fields, **both)
    variables = random_variables(plain)
    expected = logits(plain, variables)
    if fields["patch_embed"] == "adaptive":
        variables["params"]["patch_embed"]["scale"] = np.ones((2, 8), np.float32)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, random_variables(model))
    np.testing.assert_allclose(logits(model, variables), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("how", ["concat", "mean"])
def test_one_of_several_class_tokens_is_cls(how):
    plain, model = tiny(), tiny(pool="multi_cls", multi_cls=how)
    variables = random_variables(plain)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, random_variables(model))
    np.testing.assert_allclose(logits(model, variables), logits(plain, variables), rtol=1e-6, atol=1e-6)


def test_several_class_tokens_side_by_side_or_their_mean():
    tokens = np.random.default_rng(1).normal(size=(2, 3 + 2 + 16, 8)).astype(np.float32)
    for how, expected in (("concat", tokens[:, :3].reshape(2, 24)), ("mean", tokens[:, :3].mean(1))):
        model = tiny(pool="multi_cls", class_tokens=3, registers=2, multi_cls=how)
        variables = random_variables(model)
        assert variables["params"]["head"]["kernel"].shape == (expected.shape[1], 5)
        np.testing.assert_allclose(model.apply(variables, tokens, method="pooled"), expected, rtol=1e-6)
        assert model.class_token_names == ("cls", "cls_1", "cls_2")
        assert variables["params"]["position_embed"]["embedding"].shape == (1, 3 + 16, 8)


def test_class_tokens_start_unlike_each_other():
    """Else nothing would ever tell them apart where they have no positions; one alone starts at zero, as published."""
    make = jax.jit(lambda key: tiny(pool="multi_cls", class_tokens=2).init(key, IMAGES)["params"])
    params = make(jax.random.key(0))
    assert np.abs(params["cls"] - params["cls_1"]).max() > 1e-3


def test_adaptive_tokens_tell_which_pixels_they_cover():
    """Also where they are merged thereafter; a pixel's change moves the position-free token that covers it alone."""
    model = tiny(**KINDS["adaptive"], registers=1)
    variables = random_variables(model)
    images = IMAGES * np.linspace(0, 2, 8)[:, None].astype(np.float32)
    tokens = logits(model, variables, images, method="features")
    assert tokens.shape == (2, 1 + 1 + 10, 8)
    boxes = np.asarray(logits(model, variables, images, method="leaves"))
    whole = logits(model, variables, images, method="merged_features")
    assert whole.sizes is None
    for leaves, assignment in zip(boxes, np.asarray(whole.assignment), strict=True):
        for patch, token in enumerate(assignment):
            top, left, height, width = leaves[token - 2]
            row, column = 2 * (patch // 4), 2 * (patch % 4)
            assert top <= row < top + height
            assert left <= column < left + width
    merged = logits(model.clone(merge_tokens=2), variables, images, method="merged_features")
    count = merged.tokens.shape[1]
    assert count < 12
    assert merged.assignment.shape == (2, 16)
    assert set(np.asarray(merged.assignment).ravel()) == set(range(2, count))


def test_positions_by_convolution_alone_tell_the_order_of_patches():
    """Without them, and without others, the mean over patches does not know where each stood."""
    swapped = np.concatenate([IMAGES[:, 4:], IMAGES[:, :4]], axis=1)
    for kind, matters in (("linear", False), ("positional", True)):
        model = tiny(**{**KINDS[kind], "position": "none", "pool": "gap"})
        found = logits(model, random_variables(model), np.concatenate([IMAGES, swapped]))
        assert (np.abs(found[:2] - found[2:]).max() > 1e-3) == matters


def test_positions_by_convolution_stand_between_the_first_block_and_the_second():
    model, plain = tiny(**KINDS["positional"], registers=1), tiny(position="none", registers=1)
    variables = random_variables(model)
    bare = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "conditional_position"}}
    first, second = logits(model, variables, layers=(0, 1), method="intermediates")
    expected, other = logits(plain, bare, layers=(0, 1), method="intermediates")
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(second - other).max() > 1e-2


@pytest.mark.parametrize("kind", ["positional", "overlapping", "conv_stem", "hybrid", "adaptive", "flexible"])
def test_images_of_another_size(kind):
    """Positions apart, the parameters are those of any image."""
    model = tiny(**{**KINDS[kind], "position": "none", "patch_tokens": None})
    variables = random_variables(model)
    larger = np.tile(IMAGES, (1, 2, 3, 1))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, random_variables(model, larger))
    assert np.isfinite(logits(model, variables, larger)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_in_bfloat16(kind):
    """And reach what makes the tokens; running statistics move where there are batch norms."""
    model = tiny(**{**KINDS[kind], "depth": 1, "dtype": "bfloat16"})
    variables = random_variables(model)
    (_, updated), gradients = output_and_gradients(model, variables, IMAGES)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updated, gradients)))
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["patch_embed"])) > 0
    assert bool(updated["batch_stats"]) == (kind in ("conv_stem", "hybrid"))


@pytest.mark.parametrize("kind", ["positional", "conv_stem", "patch_dropout"])
def test_scan_and_remat_change_nothing(kind):
    """Of a training pass with registers: drawn are the same patches, and what follows the first block follows it."""
    model = tiny(**KINDS[kind], registers=1)
    variables = random_variables(model)
    expected = output_and_gradients(model, variables, IMAGES)
    other = model.clone(scan_layers=True, remat="full")
    assert_trees_close(output_and_gradients(other, variables, IMAGES), expected, 5e-6)
    if kind == "positional":
        layers = {"layers": (0, 1), "method": "intermediates"}
        assert_trees_close(apply(other, variables, IMAGES, **layers), apply(model, variables, IMAGES, **layers), 5e-6)


@pytest.mark.parametrize("fields", [{}, {"position": "rope2d"}, {"attention": "relative"}, {"patch_embed": "adaptive"}])
def test_patch_dropout_keeps_its_number_in_training_and_all_in_evaluation(fields):
    model = tiny(patch_dropout=0.4, registers=1, **fields)
    variables = random_variables(model)
    rngs = {"dropout": jax.random.key(1, impl="unsafe_rbg")}
    tokens = {"patch_embed": 7}.get(next(iter(fields), ""), 16)
    kept = 2 + round(tokens * 0.6)
    trained = apply(model, variables, IMAGES, method="features", train=True, rngs=rngs)
    assert trained.shape == (2, kept, 8)
    assert np.isfinite(trained).all()
    plain = apply(model.clone(patch_dropout=0.0), variables, IMAGES)
    np.testing.assert_array_equal(apply(model, variables, IMAGES), plain)
    if "position" in fields:
        assert np.abs(trained - apply(model, variables, IMAGES, method="features")[:, :kept]).max() > 1e-3


def test_dropped_patches_keep_their_places_where_attention_goes_by_them():
    """Rotary scores of the patches that are left are those that they had: with one block and no others to attend to."""
    model = tiny(position="rope2d", patch_dropout=0.5, pool="gap", depth=1)
    variables = random_variables(model)
    key = jax.random.key(3)
    x = model.apply(variables, IMAGES, True, rngs={"dropout": key}, method="placed_tokens")
    whole = model.apply(variables, IMAGES, False, method="placed_tokens")
    index = (np.asarray(x.layout.places) @ [4, 1]).astype(int)
    taken = np.take_along_axis(np.asarray(whole.tokens), index[..., None], axis=1)
    np.testing.assert_array_equal(x.tokens, taken)

    def scores(x):
        sown = model.apply(variables, x, method=lambda m, x: m.encoder(x, False), mutable=["attention"])[1]
        return np.log(np.asarray(sown["attention"]["encoder"]["block_0"]["attention"]["weights"]))

    left, all_ = scores(x), scores(whole)
    for i in range(2):
        expected = all_[i][:, index[i]][:, :, index[i]]
        centred = [s - s.mean(-1, keepdims=True) for s in (left[i], expected)]
        np.testing.assert_allclose(*centred, rtol=0, atol=1e-4)


def test_flexible_patches_share_their_parameters():
    model = tiny(**KINDS["flexible"])
    variants = training_variants(model)
    assert [variant.patch_size for variant in variants] == [(2, 2), (4, 4)]
    assert training_variants(tiny()) == (tiny(),)
    variables = random_variables(model)
    params = variables["params"]
    assert params["patch_embed"]["kernel"].shape == (4, 4, 3, 8)
    assert params["position_embed"]["embedding"].shape == (1, 1 + 4, 8)
    for variant, tokens in zip((*variants, model.clone(patch_size=(8, 8))), (16, 4, 1), strict=True):
        assert jax.tree.map(np.shape, random_variables(variant)) == jax.tree.map(np.shape, variables)
        assert logits(variant, variables, method="features").shape == (2, 1 + tokens, 8)
        assert np.isfinite(logits(variant, variables)).all()


BY_HEART = {
    **KINDS,
    "hybrid": {"patch_embed": "hybrid", "resnet": "bit26", "resnet_stage": 1, "patch_size": 4},
    "patch_dropout": {"patch_dropout": 0.25, "pool": "gap"},
    "swiglu": {"mlp": "swiglu"},
}
"""A hybrid whose map is small, as its convolutions are slow on CPUs, and yet has patches enough."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BY_HEART)
def test_64_digits_are_learned_by_heart(kind):
    fields = {"width": 32, "mlp_dim": 64, "num_classes": 10}
    steps = 40 if kind == "hybrid" else STEPS  # each of its steps takes a second, and it needs few
    assert accuracy_by_heart(tiny(**{**BY_HEART[kind], **fields}), steps) == 1.0


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vit", {"patch_stride": 1}, "patch_stride belongs to patch_embed 'overlapping', not 'linear'"),
        ("vit", {"patch_embed": "cct", "patch_tokens": 7}, "patch_tokens belongs to patch_embed 'adaptive', not 'cct'"),
        ("vit", {"resnet_stage": 1}, "resnet_stage belongs to patch_embed 'hybrid', not 'linear'"),
        ("vit", {"patch_embed": "flexible"}, r"draws from patch_sizes, such as \(2, 4, 8\), not None"),
        ("vit", {"patch_embed": "flexible", "patch_sizes": (2,), "position": "relative"}, "for one grid"),
        ("vit", {"patch_embed": "positional", "merge_tokens": 1}, "merge_tokens must be 0"),
        ("vit", {"patch_embed": "positional", "patch_dropout": 0.5}, "patch_dropout must be 0"),
        ("vit", {"patch_dropout": 1.0}, "patch_dropout must be at least 0 and less than 1"),
        (
            "vit",
            {"patch_dropout": 0.5, "attention": "local"},
            "'local' goes by the whole grid: patch_dropout must be 0",
        ),
        (
            "vit",
            {"patch_embed": "adaptive", "attention": "axial"},
            "'axial' goes by the whole grid, which .*'adaptive'",
        ),
        ("vit", {"patch_embed": "hybrid", "patch_size": 8}, r"patch_size \(8, 8\) must be a multiple of .* 16 pixels"),
        ("vit", {"patch_embed": "hybrid", "resnet": "resnet20"}, "resnet must be one of bit26, .* not 'resnet20'"),
        ("vit", {"patch_embed": "hybrid", "resnet_stage": 5}, "resnet_stage must be from 1 to 4, not 5"),
        ("vit", {"class_tokens": 2}, "class_tokens=2: several class tokens need pool='multi_cls'"),
        ("vit", {"class_tokens": 0, "pool": "multi_cls"}, "class_tokens=0"),
        ("vit", {"multi_cls": "mean"}, "multi_cls='mean' belongs to pool 'multi_cls', not 'cls'"),
        ("vit_distilled", {"pool": "multi_cls"}, "pool 'cls' and linear heads only"),
        ("hybrid", {"patch_embed": "flexible", "patch_sizes": (2,)}, "patch_embed must be linear, not 'flexible'"),
        ("beit", {"patch_dropout": 0.5}, "relative positions are of one whole grid"),
        ("beit", {"patch_embed": "adaptive"}, "relative positions are of one whole grid"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_why(name, fields, message):
    model = create_model(name, **{**FIELDS, **fields})
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert "\n" not in str(error.value).partition("\n---")[0]


def test_leaves_of_a_grid_are_an_error():
    with pytest.raises(ValueError, match="patch_embed 'linear' makes a grid of tokens; only 'adaptive' has leaves"):
        tiny().apply(random_variables(tiny()), IMAGES, method="leaves")


@pytest.mark.parametrize(
    ("fields", "names", "stride"),
    [
        ({"resnet": "bit26", "resnet_stage": 2, "patch_size": 8}, {"root", "stage_0", "stage_1"}, 8),
        ({"resnet": "resnet34", "resnet_stage": 1, "patch_size": 8}, {"stem", "encoder"}, 8),
        ({"resnet": "resnet50", "resnet_stage": 4, "patch_size": 32}, {"stem", "encoder"}, 32),
    ],
)
def test_a_hybrid_of_any_stage(fields, names, stride):
    """Patches are pixels, of which the map's places are a part."""
    model, images = tiny(patch_embed="hybrid", **fields), np.ones((1, 64, 32, 3), np.float32)
    features, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images, method="features"), jax.random.key(0)
    )
    assert set(variables["params"]["backbone"]) == names
    assert model.stride == (stride, stride)
    assert features.shape == (1, 1 + 64 * 32 // stride**2, 8)


def test_the_hybrids_parameters_are_named_as_those_of_published_ones():
    """A usual ResNet in a plain model and the hybrid architecture with its units hold the same."""
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
    model = tiny(patch_embed="hybrid", resnet="bit26", resnet_stage=2, patch_size=8)
    other = create_model("hybrid", **{**FIELDS, "patch_size": 1, "stages": (2, 2)})
    variables = random_variables(model, images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, random_variables(other, images))
    expected = jax.jit(other.apply, compiler_options=QUICKLY)(variables, images)
    np.testing.assert_allclose(logits(model, variables, images), expected, rtol=1e-5, atol=1e-5)
