"""Kinds of attention: their limits, the plain definition of each pattern in loops, and what they say of themselves."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import dropouts
from vit_jax.layers.attention_kind import Full, Given, TopK
from vit_jax.layers.attention_kinds import attention_kind
from vit_jax.layers.attention_linear import Linear, Performer, orthogonal_directions
from vit_jax.layers.attention_windows import Axial, Local, Sparse
from vit_jax.layers.grid_tokens import Layout, whole_grid
from vit_jax.layers.relative_bias import OffsetScores
from vit_jax.measurement.flops import product_flops

HEADS, DIM = 2, 4
LAYOUT = Layout((5, 7), 2)
ODD = LAYOUT.replace(layer=1)

KINDS = {
    "full": Full(),
    "local": Local(window=3),
    "axial": Axial(),
    "sparse": Sparse(window=2, stride=3),
    "topk": TopK(k=4),
    "linear": Linear(),
    "performer": Performer(features_count=8),
}


@pytest.fixture
def heads(normal):
    """`heads(layout, rows=2)`: queries, keys and values of all tokens."""

    def make(layout=LAYOUT, batch=2):
        return [normal(batch, layout.tokens, HEADS, DIM) for _ in range(3)]

    return make


@pytest.fixture
def offsets(normal):
    """`offsets(layout)`: random numbers for all relative positions."""

    def make(layout=LAYOUT):
        (rows, columns), prefix = layout.grid, layout.prefix
        shapes = (2 * rows - 1, 2 * columns - 1), (prefix,), (prefix,), (prefix, prefix)
        return OffsetScores(*(normal(*shape, HEADS) for shape in shapes))

    return make


def mixed(kind, arrays, layout=LAYOUT, **told):
    return jax.jit(lambda *arrays: kind.mixed(*arrays, Given(layout=layout, **told)))(*arrays)


def written_out(kind, arrays, layout=LAYOUT, **told):
    """Returns the weights, `[batch, heads, tokens, tokens]`, and the values mixed by them."""
    query, key, value = arrays
    weights = jax.jit(lambda *arrays: kind.weights(*arrays, Given(layout=layout, **told)))(query, key)
    weights = np.asarray(weights).reshape(len(query), HEADS, layout.tokens, layout.tokens)
    return weights, np.einsum("bhqk,bkhd->bqhd", weights, value)


def same_window(side, window, step):
    """Returns for each two places of a side whether a border lies between them."""
    borders = [place for place in range(side) if place and (place - step) % window == 0]
    return lambda a, b: not any(min(a, b) < border <= max(a, b) for border in borders)


def windowed(grid, window, steps=(0, 0)):
    """Returns whether two places are in one window."""
    alike = [same_window(side, min(window, side), step) for side, step in zip(grid, steps, strict=True)]
    return lambda a, b: all(same(i, j) for same, i, j in zip(alike, a, b, strict=True))


def every(side, stride):
    return list(range((stride - 1) // 2, side, stride))


def sparse(grid, window, stride):
    """Returns whether the second place is in the block of the first, or strided."""
    block, shared = windowed(grid, window), set(itertools.product(*(every(side, stride) for side in grid)))
    return lambda a, b: block(a, b) or tuple(b) in shared


EVEN = Layout((4, 6), 1, layer=3)

PATTERNS = {
    "windows": (Local(window=3), LAYOUT, windowed((5, 7), 3)),
    "windows of an even block": (Local(window=3, shift=True), LAYOUT, windowed((5, 7), 3)),
    "shifted windows": (Local(window=3, shift=True), ODD, windowed((5, 7), 3, (1, 1))),
    "windows across the grid": (Local(window=6, shift=True), ODD, windowed((5, 7), 6, (0, 3))),
    "windows that divide the grid": (Local(window=2, shift=True), EVEN, windowed((4, 6), 2, (1, 1))),
    "blocks": (Sparse(window=2, stride=3), LAYOUT, sparse((5, 7), 2, 3)),
    "blocks and the root": (Sparse(window=3), Layout((4, 9), 0), sparse((4, 9), 3, 3)),
}


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def scores_of(query, key, layout, offsets=None):
    """Returns the scores in float64, `[batch, heads, tokens, tokens]`, what is added for positions in loops."""
    scores = np.einsum("bqhd,bkhd->bhqk", query, key, dtype=np.float64) / DIM**0.5
    if offsets is None:
        return scores
    places, prefix = whole_grid(layout.grid), layout.prefix
    for i, j in itertools.product(range(layout.tokens), repeat=2):
        if i < prefix:
            added = offsets.among_prefix[i, j] if j < prefix else offsets.of_prefix[i]
        elif j < prefix:
            added = offsets.to_prefix[j]
        else:
            down, right = places[i - prefix] - places[j - prefix] + np.array(layout.grid) - 1
            added = offsets.table[down, right]
        scores[:, :, i, j] += added
    return scores


def masked(scores, layout, allowed):
    """Returns the softmax over the prefix and the patches that are allowed."""
    places = whole_grid(layout.grid)
    for i, j in itertools.product(range(len(places)), repeat=2):
        if not allowed(places[i], places[j]):
            scores[:, :, layout.prefix + i, layout.prefix + j] = -np.inf
    return softmax(scores)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patches_attend_to_their_group_and_the_prefix_and_the_prefix_to_all(heads, offsets, pattern, relative):
    """On grids that windows divide and on others; the weights that are shown are those."""
    kind, layout, allowed = PATTERNS[pattern]
    arrays = heads(layout)
    told = {"offsets": offsets(layout)} if relative else {}
    expected = masked(scores_of(*arrays[:2], layout, **told), layout, allowed)
    weights, _ = written_out(kind, arrays, layout, **told)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    values = np.einsum("bhqk,bkhd->bqhd", expected, arrays[2])
    np.testing.assert_allclose(mixed(kind, arrays, layout, **told), values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("prefix", [0, 2])
def test_axial_mixes_in_rows_then_in_columns(heads, offsets, prefix, relative):
    layout = Layout((5, 7), prefix)
    arrays, told = heads(layout), {"offsets": offsets(layout)} if relative else {}
    scores = scores_of(*arrays[:2], layout, **told)
    in_rows = masked(scores.copy(), layout, lambda a, b: a[0] == b[0])
    patches = Layout((5, 7), 0)
    in_columns = masked(scores[:, :, prefix:, prefix:], patches, lambda a, b: a[1] == b[1])
    expected = np.concatenate([in_rows[:, :, :prefix], in_columns @ in_rows[:, :, prefix:]], axis=2)
    weights, _ = written_out(Axial(), arrays, layout, **told)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    values = np.einsum("bhqk,bkhd->bqhd", expected, arrays[2])
    np.testing.assert_allclose(mixed(Axial(), arrays, layout, **told), values, rtol=1e-4, atol=1e-6)
    assert weights.min() > 0


def test_top_k_is_the_softmax_of_the_largest_scores(heads):
    arrays = heads()
    scores = scores_of(*arrays[:2], LAYOUT)
    least = np.sort(scores, axis=-1)[..., -4:].min(-1, keepdims=True)
    expected = softmax(np.where(scores >= least, scores, -np.inf))
    weights, values = written_out(TopK(k=4), arrays)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    assert ((weights > 0).sum(-1) == 4).all()
    np.testing.assert_allclose(mixed(TopK(k=4), arrays), values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sized", [False, True])
def test_linear_is_the_explicit_product_of_its_kernel(heads, sized):
    arrays = heads()
    sizes = np.arange(1.0, 1 + 2 * LAYOUT.tokens, dtype=np.float32).reshape(2, -1) if sized else None
    query, key = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))).astype(np.float64) for x in arrays[:2])
    kernel = np.einsum("bqhf,bkhf->bhqk", query, key) * (sizes[:, None, None] if sized else 1)
    expected = kernel / kernel.sum(-1, keepdims=True)
    np.testing.assert_allclose(written_out(Linear(), arrays, sizes=sizes)[0], expected, rtol=1e-5, atol=1e-7)
    values = np.einsum("bhqk,bkhd->bqhd", expected, arrays[2])
    np.testing.assert_allclose(mixed(Linear(), arrays, sizes=sizes), values, rtol=1e-5, atol=1e-6)


LIMITS = {
    "a window as large as the grid": (Local(window=7), LAYOUT),
    "shifted": (Local(window=9, shift=True), ODD),
    "a single row": (Axial(), Layout((1, 9), 2)),
    "every patch strided": (Sparse(window=2, stride=1), LAYOUT),
    "a single block": (Sparse(window=7), LAYOUT),
    "all scores": (TopK(k=37), LAYOUT),
    "more than all": (TopK(k=1000), LAYOUT),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limit_is_full_attention(heads, offsets, limit):
    kind, layout = LIMITS[limit]
    arrays, told = heads(layout), {"offsets": offsets(layout)}
    expected = mixed(Full(), arrays, layout, **told)
    np.testing.assert_allclose(mixed(kind, arrays, layout, **told), expected, rtol=1e-6, atol=1e-6)


def test_a_table_of_zeros_is_full_attention(heads, offsets):
    arrays, zeros = heads(), jax.tree.map(np.zeros_like, offsets())
    np.testing.assert_allclose(mixed(Full(), arrays, offsets=zeros), mixed(Full(), arrays), rtol=1e-6, atol=1e-6)
    assert np.abs(mixed(Full(), arrays, offsets=offsets()) - mixed(Full(), arrays)).max() > 0.1


def test_performer_tends_to_softmax_as_features_grow(heads):
    arrays = [0.5 * array for array in heads()]
    expected = mixed(Full(), arrays)
    errors = [np.abs(mixed(Performer(features_count=m), arrays) - expected).mean() for m in (4, 64, 1024, 16384)]
    assert all(more < less / 2 for less, more in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.01


def test_random_features_are_orthogonal_in_blocks_and_as_long_as_normal_vectors():
    directions = orthogonal_directions(5000, 8)
    assert directions.shape == (5000, 8)
    blocks = directions.reshape(-1, 8, 8)
    products = blocks @ blocks.swapaxes(1, 2) * (1 - np.eye(8))
    np.testing.assert_allclose(products, 0, atol=1e-5)
    np.testing.assert_allclose(directions.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(directions.T @ directions / 5000, np.eye(8), atol=0.1)
    np.testing.assert_array_equal(orthogonal_directions(64, 8), directions[:64])


@pytest.mark.parametrize("name", KINDS)
def test_weights_times_values_are_the_result(heads, name):
    arrays = heads(ODD)
    kind = KINDS[name] if name != "local" else Local(window=3, shift=True)
    weights, values = written_out(kind, arrays, ODD)
    np.testing.assert_allclose(mixed(kind, arrays, ODD), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert weights.min() >= 0


@pytest.mark.parametrize("name", ["full", "local", "axial", "sparse", "topk"])
def test_dropout_is_of_the_weights_of_every_token(heads, name):
    """Values of 1 show what is left of each token's weights: 1 in the mean."""
    query, key, value = heads(batch=64)
    ones = np.ones_like(value)
    left = mixed(KINDS[name], (query, key, ones), drop=dropouts(jax.random.key(0, impl="unsafe_rbg"), 0.3))
    for part in (left[:, :2], left[:, 2:]):
        assert abs(part.mean() - 1) < 0.03
        assert part.std() > 0.05
    np.testing.assert_allclose(mixed(KINDS[name], (query, key, ones), drop=dropouts(None, 0.3)), 1, rtol=1e-5)


def sizes_of(jaxpr):
    """Yields how many numbers each array has that a program makes."""
    for equation in jaxpr.eqns:
        yield from (np.prod(v.aval.shape, dtype=int) for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes_of(inner)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("name", KINDS)
def test_cost_is_that_of_the_program(name, prefix):
    layout, kind, head_dim = Layout((10, 11), prefix), KINDS[name], 16
    kind = dataclasses.replace(kind, window=4) if name in ("local", "sparse") else kind
    shape = jax.ShapeDtypeStruct((1, layout.tokens, HEADS, head_dim), jnp.float32)

    def run(*arrays):
        return kind.mixed(*arrays, Given(layout=layout))

    cost = kind.cost(layout.grid, prefix, HEADS, head_dim)
    assert product_flops(run, *(shape,) * 3).flops == cost.flops
    made = [size for size in sizes_of(jax.make_jaxpr(run)(*(shape,) * 3).jaxpr) if size != shape.size]
    assert max(made) == cost.largest or cost.largest == shape.size


@pytest.mark.parametrize("name", ["local", "axial", "sparse", "linear", "performer"])
def test_nothing_of_tokens_by_tokens_is_formed(name):
    layout = Layout((24, 24), 1)
    shape = jax.ShapeDtypeStruct((1, layout.tokens, HEADS, DIM), jnp.float32)
    program = jax.make_jaxpr(lambda *arrays: KINDS[name].mixed(*arrays, Given(layout=layout)))(*(shape,) * 3)
    assert max(sizes_of(program.jaxpr)) < layout.tokens**2 / 4


GROWTH = {"full": 2, "local": 1, "axial": 1.5, "sparse": 1.33, "linear": 1}
"""Of sparse attention towards 1.5, the more the strided patches outnumber a block's."""


@pytest.mark.parametrize(("name", "power"), GROWTH.items())
def test_growth_with_the_tokens(name, power):
    kind = attention_kind(name, "none", {})
    small, large = (kind.cost((side, side), 0, 3, 64).flops for side in (49, 196))
    assert abs(np.log(large / small) / np.log(16) - power) < 0.1


@pytest.mark.parametrize("name", ["local", "axial", "sparse"])
def test_groups_need_the_whole_grid(heads, name):
    layout = LAYOUT.replace(places=np.zeros((2, 35, 2), np.float32))
    for run in (mixed, written_out):
        with pytest.raises(ValueError, match="needs the whole grid of them: some are left out"):
            run(KINDS[name], heads(), layout)


@pytest.mark.parametrize("name", ["local", "axial", "sparse", "topk", "linear", "performer"])
def test_the_fused_kernel_is_of_full_attention(heads, name):
    with pytest.raises(ValueError, match="attention_kernel 'cudnn': it "):
        mixed(KINDS[name], heads(), kernel="cudnn")


@pytest.mark.parametrize(
    ("name", "position", "options", "message"),
    [
        ("full", "none", {"attention_window": 4}, "is an option of attention local and sparse, not of 'full'"),
        ("sparse", "none", {"attention_shift": True}, "attention_shift is an option of attention local, not"),
        ("linear", "none", {"attention_features": 4}, "attention_features is an option of attention performer, not"),
        ("topk", "none", {"attention_topk": 0}, "attention_topk must be at least 1, not 0"),
        ("linear", "relative", {}, "position 'relative' is added to scores, which attention 'linear' does not form"),
        ("performer", "relative", {}, "which attention 'performer' does not form"),
    ],
)
def test_options_and_positions_that_do_not_go_together(name, position, options, message):
    with pytest.raises(ValueError, match=message):
        attention_kind(name, position, options)


def test_options_reach_the_kind():
    options = {"attention_window": 4, "attention_shift": True, "attention_topk": None}
    assert attention_kind("local", "rope2d", options) == Local(window=4, shift=True, rotary=True)
    assert attention_kind("relative", "learned", {}) == attention_kind("full", "relative", {}) == Full(relative=True)
    assert attention_kind("performer", "none", {"attention_features": 9}) == Performer(features_count=9)
