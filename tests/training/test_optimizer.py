"""Optimizers and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.config import default_config
from vit_jax.duration import Clock
from vit_jax.training.optimizer import encoder_matrices, kernels, make_optimizer
from vit_jax.training.schedule import make_schedule

CLOCK = Clock(examples_per_epoch=1000, batch_size=10, total_steps=100)

PARAMS = {
    "patch_embed": {"kernel": jnp.ones((2, 2, 3, 4)), "bias": jnp.ones(4)},
    "encoder": {
        "block_0": {"attention": {"query": {"kernel": jnp.ones((4, 2, 2))}, "out": {"kernel": jnp.ones((2, 2, 4))}}}
    },
    "norm": {"scale": jnp.ones(4)},
    "cls": jnp.ones((1, 1, 4)),
}


def schedule(name, **keys):
    config = default_config().schedule
    config.name = name
    config.update(keys)
    return make_schedule(config, 0.1, CLOCK)


@pytest.mark.parametrize(("name", "last"), [("cosine", 0.01), ("linear", 0.01), ("constant", 0.1)])
def test_warm_up_reaches_the_peak_and_the_schedule_its_end(name, last):
    rate = schedule(name, warmup="10 steps", end_lr=0.01)
    assert rate(0) == 0
    np.testing.assert_allclose([rate(5), rate(10)], [0.05, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rate(100), last, rtol=1e-5)
    values = np.array([rate(i) for i in range(10, 101)])
    assert (np.diff(values) <= 1e-9).all()


def test_cosine_is_half_way_in_the_middle():
    np.testing.assert_allclose(schedule("cosine")(50), 0.05, rtol=1e-6)


def test_rsqrt_is_continuous_and_falls_with_the_root():
    rate = schedule("rsqrt", warmup="10 steps", timescale="20 steps")
    np.testing.assert_allclose(rate(15), 0.1, rtol=1e-6)
    np.testing.assert_allclose(rate(80), 0.1 / 2, rtol=1e-6)


def test_warm_up_in_percent_of_the_training():
    np.testing.assert_allclose(schedule("cosine", warmup="20%")(20), 0.1, rtol=1e-6)


def test_only_kernels_are_decayed():
    decayed = kernels(PARAMS)
    assert decayed["patch_embed"] == {"kernel": True, "bias": False}
    assert decayed["norm"] == {"scale": False}
    assert decayed["cls"] is False


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_without_gradients_kernels_shrink_by_rate_times_decay_and_the_rest_stays(name):
    config = default_config()
    config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay = name, 0.1, 0.5
    config.schedule.name = "constant"
    optimizer, _ = make_optimizer(config, CLOCK)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    encoder = updates["encoder"]["block_0"]["attention"]
    for leaf in (encoder["query"]["kernel"], encoder["out"]["kernel"]):
        np.testing.assert_allclose(leaf, -0.05 * np.ones(leaf.shape), rtol=1e-5)
    for leaf in (updates["patch_embed"]["bias"], updates["norm"]["scale"], updates["cls"]):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_gradients_are_clipped_by_their_global_norm():
    config = default_config()
    config.optimizer.name, config.optimizer.lr, config.optimizer.momentum = "sgd", 1.0, 0.0
    config.schedule.name = "constant"
    config.train.clip_norm = 2.0
    optimizer, _ = make_optimizer(config, CLOCK)
    gradients = jax.tree.map(lambda p: 100 * jnp.ones_like(p), PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(updates)))
    np.testing.assert_allclose(norm, 2.0, rtol=1e-5)


def test_muon_takes_the_encoders_matrices_and_sees_heads_as_one():
    axes = encoder_matrices(PARAMS)
    attention = axes["encoder"]["block_0"]["attention"]
    assert attention["query"]["kernel"] == ((0,), (1, 2))
    assert attention["out"]["kernel"] == ((0, 1), (2,))
    assert axes["patch_embed"]["kernel"] is None
    assert axes["cls"] is None
