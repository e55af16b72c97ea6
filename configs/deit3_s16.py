"""DeiT-III-S/16 from scratch on ImageNet-1k (Touvron et al. 2022, "DeiT III: Revenge of the ViT"), 800 epochs.

    python -m vit_jax.main --config=configs/deit3_s16.py

Published: 81.4 % top-1. Not measured by us; needs several accelerators (--config.train.accumulate=8 on few).

The recipe is complete: LAMB at 4e-3 for 2,048 images, decay 0.05, gradients clipped to norm 1, binary cross-entropy
with both images of a mixed pair as labels, 3-Augment with colour jitter 0.3, mixup 0.8 and cutmix 1, three views of
each image, LayerScale 1e-6, stochastic depth 0.05; evaluation takes the whole centre of the image. What differs: the
warm-up starts at 0, not at 1e-6. The rate of the larger models is 3e-3, with stochastic depth 0.2 (`deit3_b16`, 83.8 %)
and 0.45 (`deit3_l16`, 84.9 %); their authors train those two on smaller images, then tune them at 224 pixels.
"""

from vit_jax.recipes import imagenet_from_scratch


def get_config():
    c = imagenet_from_scratch("deit3_s16")
    c.model.drop_path = 0.05

    c.data.resize = 224
    c.augment.preset = "deit3"

    c.train.duration = "800 epochs"
    c.train.batch_size = 2048
    c.train.loss = "sigmoid"
    c.train.class_mean = True
    c.train.label_threshold = 0.0
    c.train.clip_norm = 1.0
    c.optimizer.name = "lamb"
    c.optimizer.lr = 4e-3
    c.schedule.end_lr = 1e-5
    c.eval.every = "10 epochs"
    return c
