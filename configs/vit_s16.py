"""ViT-S/16 fine-tuned at 384 pixels from AugReg's ImageNet-21k weights; the argument is the data set.

    python -m vit_jax.main --config=configs/vit_s16.py
    python -m vit_jax.main --config=configs/vit_s16.py:imagenet2012
    python -m vit_jax.main --config=configs/vit_s16.py:folder:PATH

Also `:cifar100`. Published: 83.73 % on ImageNet (AugReg, Steiner et al. 2022). Needs an accelerator; not run to its
end by us.
"""

from vit_jax.recipes import google_fine_tuning


def get_config(dataset="cifar10"):
    return google_fine_tuning("augreg/S_16", dataset)
