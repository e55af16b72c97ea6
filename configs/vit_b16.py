"""ViT-B/16 at 224 pixels on CIFAR-10; `:imagenet2012` switches the data set.

    python -m vit_jax.main --config=configs/vit_b16.py
    python -m vit_jax.main --config=configs/vit_b16.py:imagenet2012

From scratch, so far: on CIFAR-10 this shows that the full-size model trains, not what it can do. Published results
of ViT-B/16 come from pre-training on ImageNet-21k (98.8-99.0 % on CIFAR-10 at 384 pixels, Dosovitskiy et al. 2021).
Needs an accelerator; not yet run to its end by us.
"""

from vit_jax.config import default_config
from vit_jax.errors import UserError


def get_config(dataset="cifar10"):
    if dataset not in ("cifar10", "imagenet2012"):
        raise UserError(f"configs/vit_b16.py takes cifar10 or imagenet2012, not {dataset!r}")
    c = default_config()
    c.model.name = "vit_b16"
    c.model.dtype = "bfloat16"

    c.data.name = dataset
    c.data.image_size = 224
    c.data.workers = 8
    c.augment.crop = "inception"
    c.augment.flip = True
    c.augment.mixup = 0.2
    if dataset == "imagenet2012":
        c.data.train_split, c.data.val_split, c.data.eval_split = "train[:99%]", "train[99%:]", "validation"
        c.data.resize = 256
    else:
        c.augment.area = (0.5, 1.0)

    c.train.duration = "90 epochs" if dataset == "imagenet2012" else "200 epochs"
    c.train.batch_size = 1024
    c.train.clip_norm = 1.0
    c.optimizer.lr = 1e-3
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup = "10000 steps" if dataset == "imagenet2012" else "5%"
    c.eval.batch_size = 1024
    c.eval.every = "5%"
    c.checkpoint.every = "2%"
    return c
