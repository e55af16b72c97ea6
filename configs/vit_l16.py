"""ViT-L/16 fine-tuned at 384 pixels from AugReg's ImageNet-21k weights; the argument is the data set.

    python -m vit_jax.main --config=configs/vit_l16.py
    python -m vit_jax.main --config=configs/vit_l16.py:imagenet2012
    python -m vit_jax.main --config=configs/vit_l16.py:folder:PATH

Also `:cifar100`. Published: 85.59 % on ImageNet with AugReg's weights (Steiner et al. 2022); with other weights 99.1 %
on CIFAR-10, 92.9 to 93.2 % on CIFAR-100 (Dosovitskiy et al. 2021). Needs an accelerator; not run to its end by us.
"""

from vit_jax.recipes import google_fine_tuning


def get_config(dataset="cifar10"):
    return google_fine_tuning("augreg/L_16", dataset)
