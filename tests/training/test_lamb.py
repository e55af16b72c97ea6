"""LAMB: its steps against the algorithm written out, what it leaves to Adam, and its state over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.training.examples import experiment_of, flat, steps
from vit_jax.config import default_config
from vit_jax.duration import Clock
from vit_jax.training.optimizer import make_optimizer

CLOCK = Clock(examples_per_epoch=1000, batch_size=10, total_steps=100)

SHAPES = {"patch_embed/kernel": (2, 2, 3, 4), "block_0/dense/kernel": (4, 6), "block_0/dense/bias": (6,), "cls": (1, 4)}


def tree(values: dict[str, np.ndarray]) -> dict:
    """Returns the arrays by name as the optimizer takes them; it needs no more than names."""
    return {name: jnp.asarray(value) for name, value in values.items()}


def lamb_config(**keys):
    config = default_config()
    config.optimizer.name, config.optimizer.lr, config.schedule.name = "lamb", 0.1, "constant"
    config.optimizer.update(keys)
    return config


def written_out(weights, gradients, betas, eps, decay, rate):
    """Yields the updates of one array, step after step: algorithm 2 of You et al. 2020; decay None is Adam."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        direction = first / (1 - betas[0] ** step) / (np.sqrt(second / (1 - betas[1] ** step)) + eps)
        if decay is not None:
            direction = direction + decay * weights
            direction = direction * np.linalg.norm(weights) / np.linalg.norm(direction)
        yield -rate * direction
        weights = weights - rate * direction


def test_steps_are_those_of_the_algorithm():
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    gradients = [{name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(3)]
    optimizer, _ = make_optimizer(lamb_config(weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3), CLOCK)
    params = tree(weights)
    state = optimizer.init(params)
    for step, gradient in enumerate(gradients):
        updates, state = optimizer.update(tree(gradient), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name in SHAPES:
            decay = 0.3 if name.endswith("kernel") else None
            mine = [each[name] for each in gradients[: step + 1]]
            *_, expected = written_out(weights[name], mine, (0.8, 0.95), 1e-3, decay, 0.1)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-5, atol=1e-6, err_msg=f"{name}, step {step}")


def test_a_kernel_moves_by_its_length_times_the_rate_and_one_of_zeros_as_by_adam():
    rng = np.random.default_rng(1)
    params = tree({"a/kernel": rng.normal(size=(4, 6)), "head/kernel": np.zeros((4, 6))})
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-4), params)
    optimizer, _ = make_optimizer(lamb_config(weight_decay=0.05), CLOCK)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    length = np.linalg.norm(params["a/kernel"])
    np.testing.assert_allclose(np.linalg.norm(updates["a/kernel"]), 0.1 * length, rtol=1e-5)
    np.testing.assert_allclose(updates["head/kernel"], np.full((4, 6), -0.1), rtol=1e-3)


def test_the_first_moment_is_stored_as_asked():
    params = tree({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    optimizer, _ = make_optimizer(lamb_config(momentum_dtype="bfloat16"), CLOCK)
    moments = optimizer.init(params)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moments.mu)} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moments.nu)} == {"float32"}


KEYS = {"optimizer__name": "lamb", "optimizer__frozen": "norm_0", "train__clip_norm": 0.5}


@pytest.fixture(scope="module")
def alone():
    """First and last parameters, and the losses, of three steps on one device."""
    first, state, metrics = steps(experiment_of(**KEYS), 3)
    return flat(first), flat(state.params), [float(m["loss"]) for m in metrics]


def test_what_is_frozen_stays_and_has_no_moments(alone):
    first, last, _ = alone
    kept = {name for name in first if np.array_equal(first[name], last[name])}
    assert kept == {name for name in first if "norm_0" in name}
    moments = experiment_of(**KEYS).abstract_state().opt_state[1][0].mu
    assert flatten_dict(moments, sep="/").keys() == first.keys() - kept


def test_sharded_like_adamw_and_the_same_on_eight_devices(alone):
    sharded = experiment_of(jax.devices(), **KEYS, mesh__fsdp=4, mesh__data=1, mesh__tensor=2, model__width=128)
    for name, leaf in flatten_dict(sharded.abstract_state().opt_state[1][0].mu, sep="/").items():
        whole = leaf.size < 2**14
        if name.endswith("mlp/dense_0/kernel"):
            assert "tensor" in leaf.sharding.spec
        assert whole or "fsdp" in leaf.sharding.spec, name
    _, _, metrics = steps(experiment_of(jax.devices(), **KEYS, mesh__fsdp=8), 3)
    np.testing.assert_allclose([m["loss"] for m in metrics], alone[2], rtol=1e-5)
