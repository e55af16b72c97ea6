"""ConvNeXt-T from scratch on ImageNet-1k at 224 pixels (Liu et al. 2022, table 5).

    python -m vit_jax.main --config=configs/convnext_t.py

Published: 82.1 % top-1 after 300 epochs (their table 1). Not measured by us; needs several accelerators
(--config.train.accumulate=16 on few).

The recipe is complete: AdamW at 4e-3 for 4,096 images, decay 0.05 on kernels, 20 epochs of warm-up, RandAugment
(9, 0.5), mixup 0.8 and cutmix 1 with equal chance, erasing 0.25, smoothing 0.1, stochastic depth 0.1, LayerScale 1e-6,
and an average of the parameters at 0.9999, which is what is evaluated. ConvNeXt-S (`convnext_small`, 83.1 %) takes
--config.model.drop_path=0.4, ConvNeXt-B (`convnext_base`, 83.8 %) 0.5.
"""

from vit_jax.recipes import imagenet_from_scratch


def get_config():
    c = imagenet_from_scratch("convnext_tiny")
    c.model.drop_path = 0.1

    c.data.resize = 256
    c.augment.preset = "convnext"

    c.train.batch_size = 4096
    c.train.label_smoothing = 0.1
    c.train.ema_decay = 0.9999
    c.optimizer.lr = 4e-3
    c.schedule.warmup = "20 epochs"
    c.schedule.end_lr = 1e-6
    return c
