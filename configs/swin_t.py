"""Swin-T from scratch on ImageNet-1k at 224 pixels (Liu et al. 2021, appendix A2.1).

    python -m vit_jax.main --config=configs/swin_t.py

Published: 81.2 % top-1 after 300 epochs (their table 1). Not measured by us; needs several accelerators
(--config.train.accumulate=4 on few).

The recipe is complete: AdamW at 1e-3 for 1,024 images, decay 0.05 on kernels (not on norms, biases or relative
positions), gradients clipped to norm 5, 20 epochs of warm-up, RandAugment (9, 0.5), mixup 0.8 and cutmix 1 with equal
chance, erasing 0.25, smoothing 0.1, stochastic depth 0.2. What differs: the warm-up starts at 0, not at 5e-7.
Swin-S (`swin_small`, 83.2 %) takes --config.model.drop_path=0.3, Swin-B (`swin_base`, 83.5 %) 0.5.
"""

from vit_jax.recipes import imagenet_from_scratch


def get_config():
    c = imagenet_from_scratch("swin_tiny")
    c.model.drop_path = 0.2

    c.data.resize = 256
    c.augment.preset = "swin"

    c.train.clip_norm = 5.0
    c.train.label_smoothing = 0.1
    c.optimizer.lr = 1e-3
    c.schedule.warmup = "20 epochs"
    c.schedule.end_lr = 5e-6
    return c
