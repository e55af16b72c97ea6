"""Token merging against loops over single tokens, written after the paper, and what must hold of any merging."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers import attention, attention_kernel
from vit_jax.layers.attention import ATTENTION, Attention
from vit_jax.layers.pooling import MapPool, mean_pool
from vit_jax.layers.product import attend
from vit_jax.layers.token_merging import MergedTokens, merge, unmerged
from vit_jax.models.encoder import Encoder

jitted = jax.jit(merge, static_argnums=(2, 3))


def naive_merge(tokens, sizes, assignment, keys, count, prefix):
    """Merges the tokens of one image; returns tokens, sizes and assignment."""
    metric = keys.astype(np.float64).mean(axis=1)
    a = list(range(prefix, len(tokens), 2))
    b = list(range(prefix + 1, len(tokens), 2))
    edges = []
    for i in a:
        alike = [metric[i] @ metric[j] / np.linalg.norm(metric[i]) / np.linalg.norm(metric[j]) for j in b]
        if b:
            edges.append((max(alike), i, b[int(np.argmax(alike))]))
    chosen = sorted(edges, key=lambda edge: -edge[0])[: min(count, len(b))]
    partner = {i: j for _, i, j in chosen}
    members = [[t] for t in range(prefix)] + [[i] for i in a if i not in partner]
    members += [[j, *(i for i in partner if partner[i] == j)] for j in b]
    new_sizes = np.array([sum(sizes[t] for t in group) for group in members])
    new = [sum(sizes[t] * tokens[t] for t in group) / sum(sizes[t] for t in group) for group in members]
    holder = {t: n for n, group in enumerate(members) for t in group}
    return np.stack(new), new_sizes, np.array([holder[t] for t in assignment])


def naive(x, keys, count, prefix):
    """Merges the tokens of every image of a batch."""
    images = zip(*map(np.asarray, x), np.asarray(keys), strict=True)
    return MergedTokens(*map(np.stack, zip(*(naive_merge(*one, count, prefix) for one in images), strict=True)))


def assert_equal(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual.tokens, expected.tokens, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(actual.sizes, expected.sizes)
    np.testing.assert_array_equal(actual.assignment, expected.assignment)


def of_patches(prefix, patches):
    """Returns the sum of the sizes after any merging: the prefix, and all patches."""
    return np.full(2, prefix + patches, np.float32)


@pytest.mark.parametrize(
    ("count", "patches", "prefix"),
    [(1, 8, 0), (3, 9, 0), (4, 8, 1), (3, 9, 1), (4, 9, 3), (100, 9, 0), (100, 8, 1), (1, 2, 1), (1, 1, 3)],
)
def test_equals_loops_over_single_tokens(normal, count, patches, prefix):
    """Twice in a row, so that sizes are not all one, with as many merged as there can be where more are asked for."""
    x = unmerged(normal(2, prefix + patches, 6), prefix)
    for seed, left in enumerate((patches - min(count, patches // 2), None)):
        keys = np.random.default_rng(seed).normal(size=(2, x.tokens.shape[1], 2, 4)).astype(np.float32)
        expected, x = naive(x, keys, count, prefix), jitted(x, keys, count, prefix)
        assert_equal(x, expected)
        assert left is None or x.tokens.shape[1] == prefix + left
        np.testing.assert_array_equal(x.sizes.sum(axis=1), of_patches(prefix, patches))
        np.testing.assert_array_equal(x.sizes[:, :prefix], 1)


def test_tokens_of_every_size_are_the_means_of_their_patches(normal):
    """Whatever the matching: a token is the mean of the patches that are assigned to it, and of as many as its size."""
    start = normal(2, 18, 6)
    x = unmerged(start, 2)
    for seed in range(3):
        x = jitted(x, np.random.default_rng(seed).normal(size=(2, x.tokens.shape[1], 2, 4)).astype(np.float32), 3, 2)
    assert x.sizes.max() > 2
    for image in range(2):
        np.testing.assert_array_equal(x.tokens[image, :2], start[image, :2])
        assert x.assignment[image].min() == 2
        for token in range(2, x.tokens.shape[1]):
            patches = start[image, 2:][x.assignment[image] == token]
            assert len(patches) == x.sizes[image, token]
            np.testing.assert_allclose(x.tokens[image, token], patches.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_nothing_to_merge_leaves_every_bit(normal):
    x, keys = unmerged(normal(2, 9, 6), 1), normal(2, 9, 2, 4)
    assert merge(x, keys, 0, 1) is x
    single = unmerged(normal(2, 3, 6), 2)
    assert merge(single, keys[:, :3], 5, 2) is single


def test_the_most_alike_are_merged_and_nothing_else(normal):
    """Of two copies in different sets that point the same way; length does not matter, only direction."""
    tokens, keys = normal(1, 8, 6), normal(1, 8, 1, 4)
    keys[0, 3] = 5 * keys[0, 6]
    x = jitted(unmerged(tokens, 0), keys, 1, 0)
    assert (x.assignment[0, 3] == x.assignment[0, 6]).all()
    assert sorted(x.sizes[0]) == [1] * 6 + [2]
    order = [0, 2, 4, 1, 3, 5, 7]
    expected = tokens[0, order]
    expected[4] = (tokens[0, 3] + tokens[0, 6]) / 2
    np.testing.assert_allclose(x.tokens[0], expected, rtol=1e-6, atol=1e-6)


def test_commutes_with_a_permutation_within_the_sets(normal):
    """Whatever the order of A and of B, the same tokens are merged; the sets stay where they are."""
    tokens, keys = normal(2, 9, 6), normal(2, 9, 2, 4)
    order = np.array([0, 5, 8, 1, 2, 7, 4, 3, 6])  # the first is a prefix, odd indices stay odd
    plain, turned = (jitted(unmerged(t, 1), k, 3, 1) for t, k in ((tokens, keys), (tokens[:, order], keys[:, order])))
    for image in range(2):
        on_image = [x.tokens[image][x.assignment[image]] for x in (plain, turned)]
        np.testing.assert_allclose(on_image[0][order[1:] - 1], on_image[1], rtol=1e-5, atol=1e-5)


def test_an_image_does_not_depend_on_the_others_of_its_batch(normal):
    tokens, keys = normal(3, 9, 6), normal(3, 9, 2, 4)
    together = jitted(unmerged(tokens, 1), keys, 3, 1)
    for image in range(3):
        alone = jitted(unmerged(tokens[image : image + 1], 1), keys[image : image + 1], 3, 1)
        assert_equal(alone, MergedTokens(*(part[image : image + 1] for part in together)), 1e-6)


def test_bfloat16_keeps_its_type_and_float32_sizes(normal):
    x = jitted(unmerged(normal(2, 9, 6, dtype="bfloat16"), 1), normal(2, 9, 2, 4, dtype="bfloat16"), 3, 1)
    assert (x.tokens.dtype, x.sizes.dtype) == ("bfloat16", "float32")
    assert set(np.unique(x.sizes)) <= {1.0, 2.0, 3.0, 4.0}


def repeated(tokens, sizes):
    """Returns the tokens of one image, each as often as its size says."""
    return np.repeat(np.asarray(tokens), np.asarray(sizes, int), axis=1)


SIZES = np.array([[1, 3, 1, 2, 5]], np.float32)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_by_sizes_is_attention_to_so_many_copies(normal, random_params, heads):
    x = normal(1, 5, 8)
    apply = jax.jit(Attention(heads).apply)
    variables = {"params": random_params(Attention(heads), x)}
    by_sizes = apply(variables, x, sizes=SIZES)
    copies = apply(variables, repeated(x, SIZES[0]), None, x)
    np.testing.assert_allclose(by_sizes, copies, rtol=1e-5, atol=1e-5)
    assert np.abs(by_sizes - apply(variables, x)).max() > 1e-2


def test_pools_count_a_token_as_often_as_its_size(normal, random_params):
    x = normal(1, 5, 8)
    pool = MapPool(heads=2, mlp_dim=6)
    variables = {"params": random_params(pool, x)}
    for apply in (mean_pool, functools.partial(jax.jit(pool.apply), variables)):
        np.testing.assert_allclose(apply(x, SIZES), apply(repeated(x, SIZES[0])), rtol=1e-4, atol=1e-5)
        assert np.abs(apply(x, SIZES) - apply(x)).max() > 1e-2
        np.testing.assert_allclose(apply(x, np.ones_like(SIZES)), apply(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_of_the_scores_and_all_gradients(check_against_float64, normal, dtype):
    def plain(query, key, value, bias):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5 + bias[:, None, None]
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)

    arguments = [normal(2, 5, 3, 8, dtype=dtype) for _ in range(3)]
    ours = lambda query, key, value, bias: attend(query, key, value, bias=bias)  # noqa: E731
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    check_against_float64(ours, plain, *arguments, normal(2, 5), dtype=dtype, tolerance=tolerance)


FIELDS = {"depth": 3, "heads": 2, "mlp_dim": 6}


@pytest.fixture
def params(random_params):
    return random_params(Encoder(**FIELDS), np.ones((1, 3, 8), np.float32), train=False)


def naive_block(tokens, sizes, assignment, block, count, prefix):
    """Attention to as many copies as the sizes say, the naive merging and the MLP, for one image."""
    norm, mixed = normalised(tokens, block["norm_0"]), []
    layers = block["attention"]
    query, keys, value = (
        np.einsum("td,dhe->the", norm, layers[name]["kernel"]) + layers[name]["bias"]
        for name in ("query", "key", "value")
    )
    copied = [np.repeat(one, sizes.astype(int), axis=0) for one in (keys, value)]
    for head in range(2):
        weights = np.exp(query[:, head] @ copied[0][:, head].T / np.sqrt(query.shape[-1]))
        mixed.append(weights / weights.sum(axis=1, keepdims=True) @ copied[1][:, head])
    tokens = tokens + np.einsum("the,hed->td", np.stack(mixed, axis=1), layers["out"]["kernel"]) + layers["out"]["bias"]
    tokens, sizes, assignment = naive_merge(tokens, sizes, assignment, keys, count, prefix)
    first, second = (block["mlp"][f"dense_{i}"] for i in range(2))
    hidden = normalised(tokens, block["norm_1"]) @ first["kernel"] + first["bias"]
    hidden = hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3))) / 2
    return tokens + hidden @ second["kernel"] + second["bias"], sizes, assignment


def normalised(x, norm):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]


@pytest.mark.parametrize(("count", "prefix", "patches"), [(2, 0, 9), (3, 2, 9), (9, 1, 8)])
def test_blocks_equal_loops_over_single_tokens(normal, params, count, prefix, patches):
    x = normal(2, prefix + patches, 8)
    encoder = Encoder(**FIELDS, merge_tokens=count, prefix_tokens=prefix)
    actual, outputs = jax.jit(lambda params: encoder.apply({"params": params}, x, False, (0, 2)))(params)
    for image in range(2):
        expected = x[image].astype(np.float64), np.ones(prefix + patches), np.arange(prefix, prefix + patches)
        for i in range(3):
            expected = naive_block(*expected, params[f"block_{i}"], count, prefix)
            if i == 0:
                assert_equal(MergedTokens(*(part[image] for part in outputs[0])), MergedTokens(*expected))
        assert_equal(MergedTokens(*(part[image] for part in actual)), MergedTokens(*expected))


def test_without_anything_to_merge_blocks_are_the_plain_ones_bit_for_bit(normal, params):
    """One patch is left, whatever is asked for. Programs of models that merge none hold nothing of merging."""
    x = normal(2, 3, 8)

    def run(count):
        encoder = Encoder(**FIELDS, merge_tokens=count, prefix_tokens=2)
        return lambda x: encoder.apply({"params": params}, x, False)[0]

    np.testing.assert_array_equal(jax.jit(run(4))(x).tokens, jax.jit(run(0))(x))
    text = [str(jax.make_jaxpr(run(count))(normal(2, 9, 8))) for count in (0, 4)]
    assert ["argmax" in one and " sort" in one and "log " in one for one in text] == [False, True]
    assert not any(word in text[0] for word in ("argmax", "sort", "gather", "log "))


def test_identical_tokens_merge_to_the_same_result(normal, params):
    """Without registers and positions nothing tells them apart, so it does not matter how many there are."""
    x = np.repeat(normal(2, 1, 8), 8, axis=1)
    encoders = Encoder(**FIELDS), Encoder(**FIELDS, merge_tokens=2)
    plain, merged = jax.jit(lambda x: [one.apply({"params": params}, x, False)[0] for one in encoders])(x)
    assert merged.tokens.shape == (2, 2, 8)
    np.testing.assert_allclose(merged.tokens, plain[:, :2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"remat": "full", "fused_qkv": True}, {"scan_layers": True}])
def test_options_that_change_no_result(normal, params, options, recwarn):
    attention_kernel.told.cache_clear()
    x, fields = normal(2, 9, 8), {**FIELDS, "merge_tokens": 2, "prefix_tokens": 1}

    def run(**more):
        return jax.jit(lambda x: Encoder(**fields, **more).apply({"params": params}, x, False)[0])(x)

    expected = run()
    for _ in range(2):
        assert_equal(run(**options), expected)
    said = [str(warning.message) for warning in recwarn if "merge_tokens" in str(warning.message)]
    assert len(said) == ("scan_layers" in options)


def traced(normal, params, fields, train=False, **named):
    """Traces the blocks, which is when mistakes are said."""
    encoder = Encoder(**FIELDS, **fields)
    jax.eval_shape(lambda x: encoder.apply({"params": params}, x, train, **named), normal(2, 9, 8))


def test_training_is_refused(normal, params):
    with pytest.raises(ValueError, match="merge_tokens=2 is an option of inference; train with merge_tokens=0"):
        traced(normal, params, {"merge_tokens": 2}, train=True)


def test_attention_weights_are_not_shown(normal, params):
    with pytest.raises(ValueError, match="attention between merged tokens is not shown"):
        traced(normal, params, {"merge_tokens": 2}, mutable=[ATTENTION])


def test_plain_products_are_said_where_there_is_a_gpu(normal, params, monkeypatch):
    attention_kernel.told.cache_clear()
    with pytest.raises(ValueError, match="attention_kernel 'cudnn': it does not add the sizes of merged tokens"):
        traced(normal, params, {"merge_tokens": 2, "attention_kernel": "cudnn"})
    monkeypatch.setattr(attention.jax, "default_backend", lambda: "gpu")
    with pytest.warns(UserWarning, match="attention runs as plain products.*sizes of merged tokens"):
        traced(normal, params, {"merge_tokens": 2})
