"""A linear classifier on frozen DINOv2 features; the argument is the data set.

    python -m vit_jax.main --config=configs/linear_probe.py
    python -m vit_jax.main --config=configs/linear_probe.py:folder:PATH
    python -m vit_jax.main --config=configs/linear_probe.py --config.init_from=augreg/B_16

Also `:cifar100` and `:imagenet2012`. Only the head is trained: the backward pass ends there, and the optimizer keeps no
state for the rest. Images are prepared as for the weights, at 224 pixels. Not run to its end by us, and no accuracy is
promised.
"""

from vit_jax.config import default_config
from vit_jax.recipes import data_of


def get_config(dataset="cifar10"):
    c = default_config()
    c.init_from = "dinov2_s14"
    c.model.dtype = "bfloat16"

    data_of(c, dataset)
    c.data.image_size = 224
    c.data.workers = 8
    c.augment.crop = "random_resized"
    c.augment.area = (0.3, 1.0)
    c.augment.flip = True

    c.train.duration = "10 epochs"
    c.train.batch_size = 256
    c.optimizer.name = "sgd"
    c.optimizer.lr = 0.1
    c.optimizer.frozen = "^(?!head)"
    c.schedule.warmup = "5%"
    c.eval.batch_size = 256
    return c
