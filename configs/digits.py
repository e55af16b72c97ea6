"""A small ViT on scikit-learn's 8x8 digits: 1,437 train, 360 test, no download.

python -m vit_jax.main --config=configs/digits.py
"""

from vit_jax.config import default_config


def get_config():
    c = default_config()
    c.model.name = "vit_cifar_micro"
    c.model.patch_size = (2, 2)
    c.model.pool = "gap"
    c.model.width, c.model.depth, c.model.heads, c.model.mlp_dim = 64, 4, 4, 128

    c.data.name = "digits"
    c.augment.crop = "pad"
    c.augment.pad = 1
    c.augment.affine.rotation = 15.0
    c.augment.affine.scale = 0.15
    c.augment.affine.shear = 10.0
    c.augment.affine.shift = 0.05

    c.train.duration = "180 epochs"
    c.train.batch_size = 128
    c.train.label_smoothing = 0.1
    c.optimizer.name = "muon"
    c.optimizer.lr = 0.02
    c.optimizer.adam_lr = 3e-3
    c.optimizer.momentum = 0.95
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup = "5%"
    c.eval.every = "25 epochs"
    c.checkpoint.every = "25 epochs"
    return c
