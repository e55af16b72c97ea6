"""The hybrid R50+ViT-B/16 fine-tuned at 384 pixels from Google's ImageNet-21k weights; the argument is the data set.

    python -m vit_jax.main --config=configs/r50_vit_b16.py
    python -m vit_jax.main --config=configs/r50_vit_b16.py:imagenet2012
    python -m vit_jax.main --config=configs/r50_vit_b16.py:folder:PATH

Also `:cifar100`. Needs an accelerator; not run to its end by us, and no accuracy is promised.
"""

from vit_jax.recipes import google_fine_tuning


def get_config(dataset="cifar10"):
    return google_fine_tuning("r50_vit_b16_in21k", dataset)
