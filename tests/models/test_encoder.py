import itertools

import jax
import numpy as np
import pytest

from vit_jax.layers.block import EncoderBlock
from vit_jax.models.encoder import Encoder

X = np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
FIELDS = {"depth": 3, "heads": 2, "mlp_dim": 6}
RANDOM = {"dropout": 0.2, "attention_dropout": 0.2, "drop_path": 0.5}
FAST = "unsafe_rbg"
"""What is tested is which key is used where, not the generator; this one compiles in half the time."""


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(Encoder(**FIELDS), X, train=False)


def output_and_gradients(params, **fields):
    """Returns the tokens, and the gradients with respect to the parameters and the input."""
    encoder = Encoder(**FIELDS, **RANDOM, **fields)

    def loss(params, x):
        y, _ = encoder.apply({"params": params}, x, True, rngs={"dropout": jax.random.key(3, impl=FAST)})
        return (y**2).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, X)
    return y, gradients


@pytest.fixture(scope="module")
def loop(params):
    return output_and_gradients(params)


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [("dots", False), ("full", False), ("none", True), ("dots", True), ("full", True)]
)
def test_remat_and_scan_change_nothing_in_training(params, loop, remat, scan_layers):
    """Dropout, attention dropout, drop path and gradients included; gradients are sums, with more rounding."""
    y, gradients = output_and_gradients(params, remat=remat, scan_layers=scan_layers)
    assert_close(y, loop[0], 1e-6)
    jax.tree.map(lambda actual, expected: assert_close(actual, expected, 5e-6), gradients, loop[1])


def kept_for_backward(images, **fields):
    """Returns the arrays, abstract, that the forward pass keeps for the backward pass."""
    encoder = Encoder(**{**FIELDS, **fields})
    x = jax.ShapeDtypeStruct((images, *X.shape[1:]), X.dtype)
    params = jax.eval_shape(lambda key, x: encoder.init(key, x, False), jax.random.key(0), x)
    pull_back = jax.eval_shape(lambda *args: jax.vjp(lambda p, x: encoder.apply(p, x, True)[0], *args)[1], params, x)
    return jax.tree.leaves(pull_back)


def saved_for_backward(images, **fields):
    """Returns the number of floats that the forward pass keeps for the backward pass."""
    return sum(leaf.size for leaf in kept_for_backward(images, **fields))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_remat_keeps_less(scan_layers):
    """With "full", each block's input alone."""
    none, dots, full = (
        saved_for_backward(2, remat=remat, scan_layers=scan_layers)
        - saved_for_backward(1, remat=remat, scan_layers=scan_layers)
        for remat in ("none", "dots", "full")
    )
    assert full == FIELDS["depth"] * X[0].size
    assert full < dots < none


def test_scan_changes_nothing_in_evaluation(params):
    """Nothing is dropped, so the result is that of the blocks in turn."""
    y, outputs = jax.jit(
        lambda params: Encoder(**FIELDS, **RANDOM, scan_layers=True).apply({"params": params}, X, False, (2, 0))
    )(params)
    block, x, expected = jax.jit(EncoderBlock(2, 6).apply), X, []
    for i in range(3):
        x = block({"params": params[f"block_{i}"]}, x)
        expected.append(x)
    for actual, block_output in zip((y, *outputs), (expected[2], expected[2], expected[0]), strict=True):
        assert_close(actual, block_output, 1e-6)


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_initial_values_do_not_depend_on_scan_and_remat():
    first, second = (
        jax.jit(lambda key, encoder=encoder: encoder.init(key, X, False))(jax.random.key(0))
        for encoder in (Encoder(2, 2, 6), Encoder(2, 2, 6, remat="full", scan_layers=True))
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert set(first["params"]) == {"block_0", "block_1"}
    queries = [block["attention"]["query"]["kernel"] for block in first["params"].values()]
    assert (queries[0] != queries[1]).all()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_drop_path_grows_linearly_and_every_layer_draws_for_itself(params, scan_layers):
    """In blocks that add 1 to every token and nothing else, the steps between layers show what was dropped."""
    ones = jax.tree.map(np.zeros_like, params)
    for block in ones.values():
        block["attention"]["out"]["bias"] += 1
    encoder = Encoder(**FIELDS, drop_path=0.5, scan_layers=scan_layers)
    start = np.zeros((64, 1, 8), np.float32)

    @jax.jit
    def steps(key):
        outputs = encoder.apply({"params": ones}, start, True, range(3), rngs={"dropout": key})[1]
        return [after - before for before, after in itertools.pairwise([start, *outputs])]

    first, other = (steps(jax.random.key(seed, impl=FAST)) for seed in (0, 1))
    for step, rate in zip(first, (0.0, 0.25, 0.5), strict=True):
        kept = step != 0
        np.testing.assert_allclose(step[kept], 1 / (1 - rate), rtol=1e-5)
        assert abs(kept.mean() - (1 - rate)) < 0.2
    assert ((first[1] != 0) != (first[2] != 0)).any()
    assert ((first[2] != 0) != (other[2] != 0)).any()


def test_training_without_random_layers_needs_no_key(params):
    jax.eval_shape(lambda: Encoder(**FIELDS).apply({"params": params}, X, True))
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda: Encoder(**FIELDS, drop_path=0.1).apply({"params": params}, X, True))


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_products_are_kept_in_the_type_that_they_are_computed_in(remat):
    """Queries, keys and values, and the MLP's hidden layer: not their float32 sums."""
    kept = kept_for_backward(2, dtype="bfloat16", mlp_dim=48, depth=1, scan_layers=True, remat=remat)
    hidden = [leaf.dtype for leaf in kept if leaf.shape == (1, 2, 3, 48)]
    heads = [leaf.dtype for leaf in kept if leaf.shape == (1, 2, 3, 2, 4)]
    assert set(map(str, hidden + heads)) == {"bfloat16"}
    assert (len(hidden), len(heads)) == ((2, 4) if remat == "none" else (1, 3))


def test_what_several_products_read_is_kept_once():
    """Of the inputs of q, k, v: one, in the compute type; and no kernel in another type than it has."""
    kept = kept_for_backward(2, dtype="bfloat16", depth=1, scan_layers=True)
    tokens = [leaf for leaf in kept if leaf.shape == (1, 2, 3, 8) and leaf.dtype == "bfloat16"]
    assert len(tokens) == 4  # of each of the two norms: normalised, and scaled
    assert not [leaf for leaf in kept if leaf.shape in ((1, 8, 8), (1, 8, 2, 4)) and leaf.dtype == "bfloat16"]
