"""A tutorial-sized ViT from scratch on CIFAR-10."""

from vit_jax.config import default_config


def get_config():
    c = default_config()
    c.model.name = "vit_cifar_micro"
    c.model.pool = "gap"
    c.model.dtype = "bfloat16"

    c.data.name = "cifar10"
    c.augment.crop = "pad"
    c.augment.flip = True

    c.train.duration = "50 epochs"
    c.train.batch_size = 128
    c.train.label_smoothing = 0.1
    c.train.log_every = "100 steps"
    c.optimizer.name = "muon"
    c.optimizer.lr = 0.02
    c.optimizer.adam_lr = 2e-3
    c.optimizer.momentum = 0.95
    c.optimizer.betas = (0.9, 0.95)
    c.optimizer.weight_decay = 0.05
    c.schedule.warmup = "2%"
    c.eval.batch_size = 500
    c.eval.every = "5 epochs"
    return c
