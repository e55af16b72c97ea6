"""Every kind of attention and of position in a Vision Transformer, with the options that change no result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.models import staged
from tests.models.overfit import accuracy_by_heart
from tests.models.staged import QUICKLY, assert_trees_close
from vit_jax.explanation.attention import attention_maps
from vit_jax.layers.attention import ADDED, ATTENTION
from vit_jax.layers.attention_kinds import KINDS, attention_kind
from vit_jax.layers.attention_kinds import OPTIONS as ALL_OPTIONS
from vit_jax.layers.grid_tokens import GridTokens, Layout
from vit_jax.layers.position import POSITIONS
from vit_jax.models.beit import Beit
from vit_jax.models.encoder import Encoder
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.surgery import fit
from vit_jax.pretrained.weights import flat, make_weights
from vit_jax.training.optimizer import path_name
from vit_jax.training.sharding import AXES, partition

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 20, 3)).astype(np.float32)
"""A grid of 3x5 patches."""

SIZES = {"num_classes": 5, "patch_size": (4, 4), "width": 16, "depth": 2, "heads": 2, "mlp_dim": 12, "registers": 1}
TOKENS = 17

OPTIONS = {
    "local": {"attention_window": 2, "attention_shift": True},
    "sparse": {"attention_window": 2, "attention_stride": 2},
    "topk": {"attention_topk": 3},
    "performer": {"attention_features": 8},
}


def tiny(attention="full", **fields):
    return VisionTransformer(**{**SIZES, "attention": attention, **OPTIONS.get(attention, {}), **fields})


def variables_of(model, images=IMAGES):
    """Returns random variables; without running statistics there are parameters alone."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (generator.normal(size=leaf.shape) / 3).astype(leaf.dtype), shapes)


def apply(model, variables, images=IMAGES, **named):
    return staged.apply(model, variables, images, **named)


def combinations():
    """Yields every kind with every position that goes with it."""
    for attention in KINDS:
        for position in POSITIONS:
            if position != "relative" or attention not in ("linear", "performer"):
                yield attention, position


@pytest.mark.parametrize(("attention", "position"), combinations())
def test_parameters_are_those_of_full_attention_for_every_position(attention, position):
    """But for the positions themselves."""
    model, plain = tiny(attention, position=position), tiny(position="none")
    shapes, expected = (jax.eval_shape(m.init, jax.random.key(0), IMAGES)["params"] for m in (model, plain))
    assert ("position_embed" in shapes) == (position == "learned")
    shapes.pop("position_embed", None)
    relative = "relative" in (attention, position)
    tables = [block.pop("relative_bias", None) for block in shapes["encoder"].values()]
    assert [table is not None for table in tables] == [relative] * 2
    assert shapes == expected
    logits = jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0), IMAGES), IMAGES)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("attention", "position"),
    [
        ("full", "rope2d"),
        ("local", "relative"),
        ("axial", "rope2d"),
        ("sparse", "relative"),
        ("topk", "none"),
        ("linear", "rope2d"),
        ("performer", "none"),
    ],
)
def test_scan_remat_and_fused_projections_change_nothing_in_training(attention, position):
    """Dropout of weights and tables included; of shifted windows, whose shift is traced in a scan, gradients too."""
    options = {**dict.fromkeys(ALL_OPTIONS), **OPTIONS.get(attention, {})}
    kind = attention_kind(attention, position, options)
    dropout = 0.2 if kind.has_scores else 0.0

    def encoder(**fields):
        sizes = {"depth": 2, "heads": 2, "mlp_dim": 6, "attention_dropout": dropout, "drop_path": 0.3}
        return Encoder(**sizes, attention_kind=kind, **fields)

    x = np.random.default_rng(1).normal(size=(2, TOKENS, 16)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: encoder().init(key, GridTokens(x, Layout((3, 5), 2)), False), jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (generator.normal(size=leaf.shape) / 2).astype(leaf.dtype), shapes["params"])

    def run(params, x, **fields):
        rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
        tokens = GridTokens(x, Layout((3, 5), 2)) if kind.placed else x
        found = encoder(**fields).apply({"params": params}, tokens, True, rngs=rngs)[0]
        y = found.tokens if kind.placed else found
        return (y**2).mean(), y

    graded = jax.value_and_grad(run, (0, 1), has_aux=True) if attention == "local" else run
    plain = jax.jit(graded, compiler_options=QUICKLY)(params, x)
    others = functools.partial(graded, scan_layers=True, remat="full", fused_qkv=True)
    assert_trees_close(jax.jit(others, compiler_options=QUICKLY)(params, x), plain, 1e-5)


def test_every_second_block_has_shifted_windows():
    """Without shift a patch in one window says nothing to those in another, whatever the depth."""
    fields = {"depth": 2, "pool": "gap", "registers": 0, "position": "none"}
    variables = variables_of(tiny("local", **fields))
    other = IMAGES.copy()
    other[:, :4, :4] += 1

    @functools.partial(jax.jit, static_argnums=0)
    def changed(shift):
        model = tiny("local", **fields, attention_shift=shift)
        first, second = (model.apply(variables, x, (0, 1), method="intermediates") for x in (IMAGES, other))
        return [jnp.abs(a - b).max((0, 2)).reshape(3, 5) > 1e-4 for a, b in zip(first, second, strict=True)]

    window = np.zeros((3, 5), bool)
    window[:2, :2] = True
    still, shifted = changed(False), changed(True)
    for found in (still[0], still[1], shifted[0]):
        np.testing.assert_array_equal(found, window)
    reached = np.zeros((3, 5), bool)
    reached[:3, :3] = True
    np.testing.assert_array_equal(shifted[1], reached)


def gradients_of(model, variables):
    """Returns logits, and gradients by the parameters."""

    def loss(variables):
        logits = model.apply(variables, IMAGES)
        return (logits**2).mean(), logits

    (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(variables)
    return logits, gradients


@pytest.mark.parametrize("attention", sorted(KINDS.keys() - {"relative"}))
def test_bfloat16_gradients_are_finite_and_near_float32(attention):
    """Which scores are the largest may differ, so that near is what top-k is with all of them."""
    models = [tiny(attention, position="rope2d", depth=1, dtype=dtype) for dtype in ("float32", "bfloat16")]
    if attention == "topk":
        models = [*(model.clone(attention_topk=TOKENS) for model in models), models[1]]
    variables = variables_of(models[0])
    run = jax.jit(lambda variables: [gradients_of(model, variables) for model in models], compiler_options=QUICKLY)
    (exact, gradients), (logits, rounded), *others = run(variables)
    np.testing.assert_allclose(logits, exact, atol=0.05 * np.abs(exact).max())
    norms = []
    for actual, expected in zip(jax.tree.leaves(rounded), jax.tree.leaves(gradients), strict=True):
        assert actual.dtype == jnp.float32
        norms.append((np.square(actual - expected).sum(), np.square(expected).sum()))
    difference, whole = np.sum(norms, axis=0) ** 0.5
    assert difference < 0.1 * whole
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((rounded, others)))


@pytest.mark.parametrize("attention", KINDS)
def test_weights_are_shown_and_can_be_added_to(attention):
    """Of the last block the cls token's row alone reaches the logits, and so does its gradient alone."""
    model = tiny(attention, position="none" if attention == "linear" else "rope2d", depth=1)
    variables, scanned = variables_of(model), model.clone(scan_layers=True, remat="full")
    zeros = np.zeros((2, 2, TOKENS, TOKENS), np.float32)

    def with_added(added):
        collection = {"encoder": {"block_0": {"attention": {"weights": added}}}}
        return model.apply({**variables, ADDED: collection}, IMAGES)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run():
        looked, sown = scanned.apply(variables, IMAGES, mutable=[ATTENTION])
        weights = sown[ATTENTION]["encoder"]["block_0"]["attention"]["weights"]
        gradient = jax.grad(lambda added: with_added(added).sum())(zeros)
        return weights, [looked, with_added(zeros), model.apply(variables, IMAGES)], gradient

    weights, (looked, added, plain), gradient = run()
    np.testing.assert_allclose(looked, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(added, plain, rtol=1e-4, atol=1e-5)
    assert weights.shape == (2, 2, TOKENS, TOKENS)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    if attention in ("local", "sparse"):
        assert (weights == 0).any()
        assert (weights[:, :, :2] > 0).all()
        assert (weights[:, :, :, :2] > 0).all()
    assert np.abs(gradient[:, :, 0]).max() > 1e-3
    assert not gradient[:, :, 1:].any()


@pytest.mark.parametrize("attention", sorted(KINDS.keys() - {"relative"}))
def test_images_of_another_size(attention):
    """Rotary positions and sines are of any grid."""
    for position in ("rope2d", "sinusoidal1d"):
        model = tiny(attention, position=position)
        variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
        assert jax.eval_shape(model.apply, variables, np.ones((3, 20, 24, 3), np.float32)).shape == (3, 5)


def test_tables_are_resized_with_the_image():
    small, model = tiny("local", position="relative"), tiny("axial", position="relative")
    fields = {field: getattr(small, field) for field in (*SIZES, "attention", "position", *OPTIONS["local"])}
    params = flat(variables_of(small))
    weights = make_weights("vit", fields, params, (12, 20), None, "these", None)
    with pytest.raises(ValueError, match="made for a grid of 3x5, but the image needs 5x6"):
        jax.eval_shape(small.apply, {"params": variables_of(small)["params"]}, np.ones((1, 20, 24, 3), np.float32))
    found, report = fit(weights, model, (20, 24), dict)
    table = found["encoder/block_1/relative_bias/table"]
    assert table.shape == (9, 11, 2)
    np.testing.assert_allclose(table[4, 5], params["encoder/block_1/relative_bias/table"][2, 4], rtol=1e-6)
    for name in ("prefix", "among_prefix"):
        name = f"encoder/block_0/relative_bias/{name}"
        np.testing.assert_array_equal(found[name], params[name])
    assert [line for line in report.resized if "relative_bias/table" in line]


@pytest.mark.parametrize(
    ("attention", "position"), [("local", "relative"), ("sparse", "rope2d"), ("linear", "learned")]
)
def test_split_heads_change_nothing(attention, position):
    """On eight devices: four parts of the batch, two halves of the heads, tables and all."""
    model, images = tiny(attention, position=position), np.tile(IMAGES, (4, 1, 1, 1))
    variables = variables_of(model)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 1, 2), AXES)
    layouts = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh)), variables["params"]
    )
    block = layouts["encoder"]["block_0"]
    assert "tensor" in block["attention"]["query"]["kernel"].spec
    if position == "relative":
        assert all("tensor" in layout.spec for layout in block["relative_bias"].values())
    over = ({"params": layouts}, NamedSharding(mesh, PartitionSpec("data")))
    split = jax.jit(model.apply, in_shardings=over, compiler_options=QUICKLY)
    np.testing.assert_allclose(split(variables, images), apply(model, variables, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["topk", "linear"])
def test_merged_tokens_count_as_many(attention):
    """16 equal patches merged to 8 are attended to as before."""
    fields = {"position": "none", "attention_topk": 100} if attention == "topk" else {"position": "none"}
    fields |= {"registers": 0, "depth": 2}
    images = np.repeat(np.repeat(IMAGES[:, :1, :1], 16, 1), 16, 2)
    variables = variables_of(tiny(attention, **fields))
    merged = apply(tiny(attention, **fields, merge_tokens=4), variables, images)
    np.testing.assert_allclose(merged, apply(tiny(attention, **fields), variables, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "linear", "position": "relative"}, "added to scores, which attention 'linear' does not form"),
        ({"attention": "linear", "attention_dropout": 0.1}, "drops weights, which attention 'linear' does not form"),
        ({"attention": "full", "attention_topk": 3}, "attention_topk is an option of attention topk, not of 'full'"),
        ({"attention": "local", "attention_window": 0}, "attention_window must be at least 1, not 0"),
        ({"attention": "local", "merge_tokens": 2}, "but attention 'local' goes by places: merge_tokens must be 0"),
        ({"position": "rope2d", "merge_tokens": 2}, "but position 'rope2d' goes by places: merge_tokens must be 0"),
        ({"attention": "axial", "attention_kernel": "cudnn"}, "'cudnn' is of plain full attention: it cannot do"),
        ({"position": "relative", "attention_kernel": "cudnn"}, "it cannot do position 'relative'"),
        ({"position": "rope2d", "heads": 8}, "channels of a head must be a multiple of 4, not 2"),
        ({"position": "sinusoidal1d", "width": 15, "heads": 1}, "sinusoidal1d needs an even width, not 15"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VisionTransformer(**{**SIZES, **fields}).init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize("fields", [{"attention": "local"}, {"position": "rope2d"}, {"position": "relative"}])
def test_a_beit_has_its_own_attention(fields):
    model = Beit(**{**SIZES, "registers": 0, **fields})
    with pytest.raises(ValueError, match="a BEiT has full attention and relative_bias, not attention"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_maps_of_a_shifted_model_are_those_of_each_block():
    """The second block's windows are others than the first's, and the maps come in order."""
    model = tiny("local")
    first, second = attention_maps(model, variables_of(model), IMAGES)
    assert ((first == 0) != (second == 0)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "position"),
    [
        ("full", "sinusoidal1d"),
        ("full", "rope2d"),
        ("full", "relative"),
        ("local", "learned"),
        ("axial", "rope2d"),
        ("sparse", "learned"),
        ("topk", "learned"),
        ("linear", "rope2d"),
        ("performer", "learned"),
    ],
)
def test_learns_64_digits_by_heart(attention, position):
    sizes = {"num_classes": 10, "patch_size": (2, 2), "width": 24, "mlp_dim": 48, "scan_layers": True}
    assert accuracy_by_heart(tiny(attention, position=position, **sizes)) == 1
