"""DeiT-S/16 from scratch on ImageNet-1k (Touvron et al. 2021), or, with the argument `distilled`, taught by a convnet.

    python -m vit_jax.main --config=configs/deit_s16.py
    python -m vit_jax.main --config=configs/deit_s16.py:distilled --config.distill.teacher=CHECKPOINT

Published: 79.9 % top-1 after 300 epochs, 81.2 % distilled. Not measured by us; needs several accelerators
(--config.train.accumulate=4 on few).

The recipe is complete: AdamW at 5e-4 for 512 images, decay 0.05 on kernels, 5 epochs of warm-up, RandAugment (9, 0.5),
mixup 0.8 and cutmix 1 with equal chance, erasing 0.25, three views of each image, smoothing 0.1, stochastic depth 0.1.
What differs: the warm-up starts at 0, not at 1e-6; an average of the parameters, which their code keeps but does not
report on, is off (--config.train.ema_decay=0.99996). Their teacher is a RegNetY-16GF of 82.9 %; any CHECKPOINT with the
same classes will do, such as `convnext_tiny` (82.1 %).
"""

from vit_jax.errors import UserError
from vit_jax.recipes import imagenet_from_scratch


def get_config(argument="plain"):
    if argument not in ("plain", "distilled"):
        raise UserError(f"configs/deit_s16.py takes plain or distilled as its argument, not {argument!r}")
    c = imagenet_from_scratch("deit_s16" if argument == "plain" else "deit_s16_distilled")
    if argument == "distilled":
        c.distill.place = "token"  # without a teacher that is an error, not a run that learns from labels alone
    c.model.drop_path = 0.1

    c.data.resize = 256
    c.augment.preset = "deit"

    c.train.label_smoothing = 0.1
    c.optimizer.lr = 1e-3
    c.schedule.end_lr = 1e-5
    return c
