"""CIFAR-10 from scratch: a tutorial-sized ViT (0.55M parameters, 4x4 patches, 50 epochs), or the model of the argument.

    python -m vit_jax.main --config=configs/cifar10.py --config.data.dir=DIR

Measured here: 82.87 % test top-1 (last step, one seed, no test-time augmentation), in 88 minutes on a two-core CPU
with AMX that had other work to do; alone it trains 560-650 images/s, 80-90 s an epoch. The images were a JPEG-coded,
slightly lossy copy of CIFAR-10. The curve is configs/cifar10_curves.png. Tutorials publish about 75 % for this size.

What makes it fast on a CPU: bfloat16 products, of which vit_jax/layers/product.py says more. What makes it learn in 50
epochs: Muon on the encoder's matrices; in a trial it was 4 to 6 points ahead of AdamW after each of the first epochs.

    python -m vit_jax.main --config=configs/cifar10.py:swin --config.data.dir=DIR

One of `vit`, `deit`, `swin`, `convnext`, `resnet18`, `cct`: models of 0.5 to 0.7 million parameters with the same
settings throughout (AdamW, 50 epochs, float32), small enough for a CPU, made for `python -m vit_jax.compare`.
ResNet-18 has a quarter of its usual channels, as its 11M parameters and 1.1 GFLOP an image would be no match for the
others.
`deit` is `vit` with a distillation token, and needs a teacher: --config.distill.teacher=runs/cifar10-resnet18.
Not measured with all 50,000 images; README.md has what they reach with 10,000 in 10 epochs, and at what speed.

    python -m vit_jax.main --config=configs/cifar10.py:gpu --config.data.dir=DIR
    python -m vit_jax.main --config=configs/cifar10.py:cct_gpu --config.data.dir=DIR

are for an accelerator, and not measured yet. `gpu` is ViT-Lite-7 (3.7M parameters) with 2x2 patches, 200 epochs,
RandAugment, mixup and cutmix; Hassani et al. 2021 (CCT) publish 91.4 % for ViT-Lite-7/4 with 4x4 patches. `cct_gpu` is
their CCT-7/3x1 by the settings that their repository has for 300 epochs; with earlier ones they publish 94.8 % after
200 epochs, and 95.3 % for CCT-6/3x1 after 500 (--config.model.name=cct_cifar_6_3x1). Unlike theirs the models are plain
pre-norm, positions start with a deviation of 0.02, not 0.2, mixup and cutmix stay on to the end, where theirs stop
after 175 epochs, and theirs go on for 10 epochs at the final rate.
"""

from vit_jax.config import default_config
from vit_jax.errors import UserError

ENCODER = {"width": 128, "depth": 4, "heads": 4, "mlp_dim": 256}
SMALL = {
    "vit": {"name": "vit", "pool": "gap", "patch_size": (4, 4), **ENCODER},
    "deit": {"name": "vit_distilled", "patch_size": (4, 4), **ENCODER},
    "swin": {"name": "swin_cifar", "depths": (2, 2, 2), "widths": (32, 64, 128), "heads": (1, 2, 4)},
    "convnext": {"name": "convnext_cifar", "depths": (2, 2, 3), "widths": (32, 64, 128)},
    "resnet18": {"name": "resnet18_cifar", "stem_width": 16, "widths": (16, 32, 64, 128)},
    "cct": {"name": "cct_cifar_2_3x2", **ENCODER},
}
"""Models to be compared, and how they differ from what their names stand for."""


def get_config(argument="cpu"):
    c = default_config()
    c.model.dtype = "bfloat16"
    c.data.name = "cifar10"
    c.augment.crop = "pad"
    c.augment.flip = True
    c.train.duration = "50 epochs"
    c.train.batch_size = 128
    c.train.label_smoothing = 0.1
    c.train.log_every = "100 steps"
    c.eval.batch_size = 500
    c.eval.every = "5 epochs"
    if argument in SMALL:
        return small(c, argument)
    if argument not in RECIPES:
        known = ", ".join((*RECIPES, *SMALL))
        raise UserError(f"configs/cifar10.py takes one of {known} as its argument, not {argument!r}")
    return RECIPES[argument](c)


def micro(c):
    """Returns the config with a small ViT and Muon."""
    c.model.name = "vit_cifar_micro"
    c.model.pool = "gap"
    c.optimizer.name = "muon"
    c.optimizer.lr = 0.02
    c.optimizer.adam_lr = 2e-3
    c.optimizer.momentum = 0.95
    c.optimizer.betas = (0.9, 0.95)
    c.optimizer.weight_decay = 0.05
    c.schedule.warmup = "2%"
    return c


def on_a_gpu(c):
    """Returns the config with a larger model, more of everything that a CPU has no time for."""
    c = micro(c)
    c.model.name = "vit_cifar_lite7"
    c.model.patch_size = (2, 2)
    c.model.drop_path = 0.1
    c.augment.preset = "cifar"
    c.train.duration = "200 epochs"
    c.train.batch_size = 512
    c.train.ema_decay = 0.999
    c.checkpoint.every = "10 epochs"
    c.eval.every = "10 epochs"
    return c


def cct_on_a_gpu(c):
    """Returns the config of CCT-7/3x1 as Hassani et al. 2021 train it for 300 epochs."""
    c.model.name = "cct_cifar_7_3x1"
    c.model.drop_path = 0.1
    c.model.attention_dropout = 0.1
    c.data.mean, c.data.std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    c.data.interpolation = "bicubic"
    c.augment.preset = "cifar"
    c.augment.crop = "random_resized"
    c.train.duration = "300 epochs"
    c.optimizer.lr = 5.5e-4
    c.optimizer.weight_decay = 0.06
    c.schedule.warmup = "10 epochs"
    c.schedule.end_lr = 1e-5
    c.checkpoint.every = "10 epochs"
    c.eval.every = "10 epochs"
    return c


def small(c, argument):
    """Returns the config of a model of `SMALL`, with the settings that all of them share."""
    c.model.update(SMALL[argument])
    c.model.dtype = "float32"  # convolutions in bfloat16 took five times as long on a CPU
    if argument == "deit":
        c.distill.place = "token"  # without a teacher that is an error, not a run that learns from labels alone
        c.distill.kind, c.distill.temperature = "soft", 3.0  # README.md: 2 points better than hard
    c.train.clip_norm = 1.0
    c.optimizer.lr = 1e-3
    c.optimizer.weight_decay = 0.05
    c.schedule.warmup = "5%"
    return c


RECIPES = {"cpu": micro, "gpu": on_a_gpu, "cct_gpu": cct_on_a_gpu}
