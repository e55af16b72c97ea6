"""A run small enough to compile in seconds, on real digits."""

import pytest

from vit_jax.config import default_config


@pytest.fixture
def config():
    """See `small_config`."""
    return small_config()


def small_config():
    """A two-block ViT on digits for 12 steps, with every kind of randomness switched on."""
    c = default_config()
    c.model.name = "vit_cifar_micro"
    c.model.patch_size = (4, 4)
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_dim = 16, 2, 2, 32
    c.model.dropout = 0.1
    c.augment.crop = "pad"
    c.augment.pad = 1
    c.augment.affine.rotation = 10.0
    c.augment.mixup = 0.2
    c.train.duration = "12 steps"
    c.train.batch_size = 32
    c.train.log_every = "4 steps"
    c.train.ema_decay = 0.9
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup = "4 steps"
    c.eval.batch_size = 64
    c.eval.every = "12 steps"
    c.checkpoint.every = "4 steps"
    c.mesh.data = 8
    return c
