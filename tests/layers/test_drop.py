import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.drop import drop_path, drop_path_rate, dropout

X = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (4096, 2)), jnp.float32)
KEY = jax.random.key(1)


@pytest.mark.parametrize("drop", [dropout, drop_path])
def test_without_key_or_rate_nothing_happens(drop):
    assert drop(None, X, 0.5) is X
    assert drop(KEY, X, 0.0) is X


@pytest.mark.parametrize("rate", [0.25, 0.9])
@pytest.mark.parametrize("drop", [dropout, drop_path])
def test_kept_entries_are_scaled_so_that_the_expectation_stays(drop, rate):
    y = np.asarray(drop(KEY, X, rate))
    kept = y != 0
    np.testing.assert_allclose(y[kept], X[kept] / (1 - rate), rtol=1e-6)
    spread = (rate * (1 - rate) / 4096) ** 0.5  # of the share of kept examples; entries have less
    assert abs(kept.mean() - (1 - rate)) < 4 * spread
    assert abs(y.mean() / X.mean() - 1) < 5 * spread / (1 - rate)


def test_dropout_drops_entries_and_drop_path_whole_examples():
    entries, examples = np.asarray(dropout(KEY, X, 0.5)) != 0, np.asarray(drop_path(KEY, X, 0.5)) != 0
    assert (entries[:, 0] != entries[:, 1]).any()
    assert (examples[:, 0] == examples[:, 1]).all()


@pytest.mark.parametrize("drop", [dropout, drop_path])
def test_the_key_decides(drop):
    np.testing.assert_array_equal(drop(KEY, X, 0.5), drop(KEY, X, 0.5))
    assert (drop(KEY, X, 0.5) != drop(jax.random.key(2), X, 0.5)).any()


def test_drop_path_takes_a_traced_rate():
    traced = jax.jit(drop_path)
    np.testing.assert_allclose(traced(KEY, X, 0.3), drop_path(KEY, X, 0.3), rtol=1e-6)
    np.testing.assert_array_equal(traced(KEY, X, 0.0), X)


@pytest.mark.parametrize("drop", [dropout, drop_path])
def test_keeps_the_type(drop):
    assert drop(KEY, X[:4].astype("bfloat16"), 0.5).dtype == jnp.bfloat16
    assert jax.eval_shape(drop_path, KEY, X[:4].astype("bfloat16"), jnp.float32(0.5)).dtype == jnp.bfloat16


def test_drop_path_rate_is_linear_in_depth():
    rates = [drop_path_rate(0.3, layer, 4) for layer in range(4)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])
    assert drop_path_rate(0.3, 0, 1) == 0.0
