"""ViT-B/16 fine-tuned at 384 pixels from AugReg's ImageNet-21k weights; the argument is the data set.

    python -m vit_jax.main --config=configs/vit_b16.py
    python -m vit_jax.main --config=configs/vit_b16.py:imagenet2012
    python -m vit_jax.main --config=configs/vit_b16.py:folder:PATH
    python -m vit_jax.main --config=configs/vit_b16.py:scratch

Also `:cifar100`. `:scratch` trains on CIFAR-10 at 224 pixels without weights, which shows that the full-size model
trains, not what it can do. Published: 98.8 to 99.0 % on CIFAR-10, 92 % on CIFAR-100, 84.1 to 84.5 % on ImageNet
(Dosovitskiy et al. 2021), 85.49 % there with AugReg's weights (Steiner et al. 2022). Needs an accelerator; not run to
its end by us. The weights are downloaded on first use.
"""

from vit_jax.config import default_config
from vit_jax.recipes import google_fine_tuning


def get_config(dataset="cifar10"):
    if dataset == "scratch":
        return scratch()
    return google_fine_tuning("augreg/B_16", dataset, lr=0.01 if dataset == "cifar10" else 0.03)


def scratch():
    c = default_config()
    c.model.name = "vit_b16"
    c.model.dtype = "bfloat16"

    c.data.name = "cifar10"
    c.data.image_size = 224
    c.data.workers = 8
    c.augment.crop = "inception"
    c.augment.area = (0.5, 1.0)
    c.augment.flip = True
    c.augment.mixup = 0.2

    c.train.duration = "200 epochs"
    c.train.batch_size = 1024
    c.train.clip_norm = 1.0
    c.optimizer.lr = 1e-3
    c.optimizer.weight_decay = 0.1
    c.schedule.warmup = "5%"
    c.eval.batch_size = 1024
    c.eval.every = "5%"
    c.checkpoint.every = "2%"
    return c
