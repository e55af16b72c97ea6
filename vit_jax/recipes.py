"""Recipes that several config files share."""

import pathlib

from ml_collections import ConfigDict

from vit_jax.config import default_config
from vit_jax.data.folder_layouts import VALIDATION
from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vit_jax.errors import UserError

FOLDER = "folder:"


def data_of(c: ConfigDict, dataset: str) -> None:
    """Sets the data of a config: `cifar10`, `cifar100`, `imagenet2012` or `folder:PATH`, with splits for training,
    validation (not of a folder) and the reported accuracy. A folder's own val/ or test/ is what is reported on, or else
    a fifth of it.

    Raises:
      UserError: the data set is none of these.
    """
    c.data.name = dataset
    if dataset in ("cifar10", "cifar100"):
        c.data.train_split, c.data.val_split, c.data.eval_split = "train[:98%]", "train[98%:]", "test"
    elif dataset == "imagenet2012":
        c.data.train_split, c.data.val_split, c.data.eval_split = "train[:99%]", "train[99%:]", "validation"
    elif dataset.startswith(FOLDER) and dataset != FOLDER:
        root = pathlib.Path(dataset.removeprefix(FOLDER))
        held_out = next((name for name in (*VALIDATION, "test") if (root / name).is_dir()), None)
        whole = held_out is not None and (root / "train").is_dir()
        c.data.train_split, c.data.eval_split = ("train", held_out) if whole else ("train[:80%]", "train[80%:]")
    else:
        raise UserError(f"this config takes cifar10, cifar100, imagenet2012 or folder:PATH, not {dataset!r}")


def google_fine_tuning(init_from: str, dataset: str, lr: float = 0.03) -> ConfigDict:
    """Returns Google's fine-tuning of a ViT (Dosovitskiy et al. 2021, appendix B.1.1) at 384 pixels.

    SGD with momentum 0.9, batch 512, gradients clipped to norm 1, no weight decay, cosine after 500 steps of warm-up;
    10,000 steps on CIFAR, 20,000 on ImageNet. A folder, whose size is not known here, gets 20 epochs of batch 32, the
    rate scaled with it, 10 % of them warm-up. Training sees inception crops and flips, as in the predecessor;
    evaluation what the weights were evaluated with.

    Raises:
      UserError: the data set is none of those of `data_of`.
    """
    c = default_config()
    c.init_from = init_from
    c.model.dtype = "bfloat16"

    data_of(c, dataset)
    c.data.image_size = 384
    c.data.workers = 8
    c.augment.crop = "inception"
    c.augment.flip = True

    folder = dataset.startswith(FOLDER)
    c.train.duration = "20 epochs" if folder else "20000 steps" if dataset == "imagenet2012" else "10000 steps"
    c.train.batch_size = 32 if folder else 512
    c.train.clip_norm = 1.0
    c.optimizer.name = "sgd"
    c.optimizer.lr = lr * c.train.batch_size / 512
    c.schedule.warmup = "10%" if folder else "500 steps"
    c.eval.batch_size = 32 if folder else 512
    c.eval.every = "5%"
    c.checkpoint.every = "5%"
    return c


def imagenet_from_scratch(model: str) -> ConfigDict:
    """Returns what the recipes of timm's kind share that train on all of ImageNet-1k, at 224 pixels: images resized
    with bicubic filters and normalised by ImageNet's mean and deviation, AdamW with a decay of 0.05 on kernels, and a
    cosine after 5 epochs of warm-up. They report on the validation images, and hold none out.
    """
    c = default_config()
    c.model.name = model
    c.model.dtype = "bfloat16"

    c.data.name = "imagenet2012"
    c.data.eval_split = "validation"
    c.data.image_size = 224
    c.data.interpolation = "bicubic"
    c.data.mean, c.data.std = IMAGENET_MEAN, IMAGENET_STD
    c.data.workers = 8

    c.train.duration = "300 epochs"
    c.train.batch_size = 1024
    c.optimizer.weight_decay = 0.05
    c.schedule.warmup = "5 epochs"
    c.eval.batch_size = 1024
    c.eval.every = "5 epochs"
    return c
