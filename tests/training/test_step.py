"""The step: equal on any number of devices, with micro-batches, with sharded state."""

import jax
import numpy as np
import pytest

from vit_jax.config import resolve
from vit_jax.errors import UserError
from vit_jax.training.experiment import build
from vit_jax.training.sharding import batch_sharding, place

STEPS = 20


def losses(config, devices=None, steps=STEPS):
    """Returns the losses of the first steps, and the last state."""
    experiment = build(resolve(config), devices=devices)
    state, batches, seen = experiment.init(), experiment.train_batches(), []
    for position in range(steps):
        batch = place(batches(position).batch, batch_sharding(experiment.mesh))
        state, metrics = experiment.train_step(state, batch)
        seen.append(float(metrics["loss"]))
    return np.array(seen), state


@pytest.fixture
def reference(config):
    """Losses on eight devices."""
    config.train.duration = f"{STEPS} steps"
    return losses(config)[0]


def test_one_and_eight_devices_give_the_same_losses(config, reference, one_device):
    config.mesh.data = 1
    alone, _ = losses(config, one_device)
    np.testing.assert_allclose(alone, reference, rtol=1e-5)
    assert reference[-1] < reference[0]


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 8}])
def test_sharded_state_gives_the_same_losses(config, reference, axes, monkeypatch):
    monkeypatch.setattr("vit_jax.training.sharding.FSDP_MIN_SIZE", 64)
    config.mesh.update(axes)
    sharded, state = losses(config)
    np.testing.assert_allclose(sharded, reference, rtol=1e-5)
    kernel = state.params["encoder"]["block_0"]["mlp"]["dense_0"]["kernel"]
    share = axes["fsdp"] * axes.get("tensor", 1)
    assert kernel.addressable_shards[0].data.size * share == kernel.size
    assert state.opt_state[0].mu["encoder"]["block_0"]["mlp"]["dense_0"]["kernel"].sharding == kernel.sharding


@pytest.mark.parametrize("loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_four_micro_batches_equal_the_large_batch(config, one_device, loss):
    config.model.dropout = 0.0
    config.mesh.data = 1
    config.train.loss = loss
    config.train.clip_norm = 0.5
    whole, state = losses(config, one_device, steps=5)
    config.train.accumulate = 4
    parts, accumulated = losses(config, one_device, steps=5)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(accumulated.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_masked_rows_neither_count_nor_train(config, one_device):
    """A batch whose second half is masked acts as the first half alone."""
    config.mesh.data = 1
    config.model.dropout = 0.0
    config.augment.cutmix = 1.0
    experiment = build(resolve(config), devices=one_device)
    batch = experiment.train_batches()(0).batch
    results = []
    for fill in (0, 255):
        broken = {name: value.copy() for name, value in batch.items()}
        broken["mask"][16:] = False
        broken["image"][16:] = fill
        state, metrics = experiment.train_step(experiment.init(), place(broken, batch_sharding(experiment.mesh)))
        results.append((float(metrics["loss"]), jax.device_get(state.params)))
    assert results[0][0] == results[1][0]
    for a, b in zip(jax.tree.leaves(results[0][1]), jax.tree.leaves(results[1][1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ema_is_the_decayed_average(config, one_device):
    config.mesh.data = 1
    experiment = build(resolve(config), devices=one_device)
    state = experiment.init()
    expected = jax.device_get(state.params["patch_embed"]["kernel"])
    for position in range(3):
        state, _ = experiment.train_step(state, experiment.train_batches()(position).batch)
        expected = 0.9 * expected + 0.1 * jax.device_get(state.params["patch_embed"]["kernel"])
    np.testing.assert_allclose(state.ema_params["patch_embed"]["kernel"], expected, rtol=1e-5, atol=1e-7)
    assert state.evaluated["params"] is state.ema_params


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", 36, r"train.batch_size 36 is not a multiple of 8 .*take 32 or 40"),
        ("eval.batch_size", 3, r"eval.batch_size 3 is not a multiple of 8 .*take 8"),
        ("model.patch_size", (3, 3), r"image height 8 is not a multiple of patch height 3"),
        ("mesh.data", 3, r"mesh data=3, fsdp=1, tensor=1 does not fit 8 devices"),
        ("train.loss", "hinge", r"train.loss must be one of softmax, sigmoid"),
        ("optimizer.name", "adam", r"optimizer.name must be"),
        ("schedule.name", "cosin", r"schedule.name must be"),
        ("schedule.warmup", "99 steps", r"warmup is 99 steps, longer than the training's 12"),
        ("train.duration", "0.1 steps", r"less than one step"),
        ("augment.crop", "centre", r"augment.crop must be"),
        ("model.num_classes", 7, r"num_classes is 7, but digits has 10"),
        ("eval.every", "0 steps", r"eval.every '0 steps' is less than one step"),
        ("model.heads", 0, r"heads must be at least 1"),
        ("model.dtype", "bflaot16", r"model.dtype must be one of .*did you mean 'bfloat16'"),
        ("train.accumulate", 0, r"'train.accumulate' must be at least 1, not 0"),
        ("optimizer.betas", (0.9, 1.5), r"'optimizer.betas' must be at most 1"),
        ("optimizer.momentum", 0.5, r"optimizer 'adamw' has no such thing"),
        ("model.heads", 3, r"width 16 is not a multiple of 3 heads"),
    ],
)
def test_what_does_not_fit_is_one_line(config, key, value, message):
    group, name = key.split(".")
    config[group][name] = value
    with pytest.raises(UserError, match=message):
        build(resolve(config)).steps("eval.every")
