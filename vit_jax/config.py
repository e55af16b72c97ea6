"""Every config key, its default and what it means; and the strict reading of config files and overrides."""

import ast
import functools
import importlib.util
import json
import pathlib
import re
import typing
from collections.abc import Iterator

from ml_collections import ConfigDict
from ml_collections import config_dict as cd

from vit_jax.config_fill import check_on_nonfinite, check_surgery, fields_of_weights, fill_augment, fill_data
from vit_jax.data.presets import OFF
from vit_jax.errors import UserError, nearest
from vit_jax.models.registry import architecture, check_field, field_types

if typing.TYPE_CHECKING:
    from vit_jax.pretrained.weights import Weights

OPEN_GROUPS = (["model"], ["distill", "model"])
"""Groups of keys that hold any field of an architecture, which checks them."""


DEFAULT_MODEL = "vit_s16"


def default_config() -> ConfigDict:
    """Returns every key with its default. Durations are texts such as "50 epochs" (see `vit_jax.duration`)."""
    c = ConfigDict()
    c.seed = 0  # of the initial values, the data order, augmentation and dropout
    c.init_from = cd.placeholder(str)  # weights to start from, any CHECKPOINT

    c.surgery = ConfigDict()  # where the weights of init_from and the model differ (`vit_jax.pretrained.surgery`)
    c.surgery.positions = cd.placeholder(str)  # resize of their grid: linear, bicubic; None: what suits the weights
    c.surgery.patches = False  # resize patch kernels to another patch size, rather than refuse
    c.surgery.new_head = False  # start with a head of zeros although the number of classes is the same

    c.model = ConfigDict()
    c.model.name = cd.placeholder(str)  # `vit_jax.list_models()` names all; beside it any field of that architecture.
    # None: the architecture of init_from, or vit_s16. Fields left open are those of init_from too

    c.data = ConfigDict()
    c.data.name = "digits"  # `digits`, `folder:PATH`, or a TFDS classification set (`cifar10`, `imagenet2012`, …)
    c.data.dir = cd.placeholder(str)  # where prepared TFDS sets are; None is TFDS's own default
    c.data.classes = cd.placeholder(str)  # only these, in this order, by name or number: "cat, dog", "0, 3, 5-7"
    c.data.train_split = "train"  # TFDS split syntax: `train[:98%]`
    c.data.val_split = cd.placeholder(str)  # held out of training: for early stopping and the best checkpoint
    c.data.eval_split = "test"  # what the reported accuracy is measured on
    # What an image goes through before the model sees it. None is what the weights of init_from were trained with, or,
    # without them: the set's own size, squashed to it, bilinear, antialiased, mean and std 0.5.
    c.data.image_size = cd.placeholder(int)  # side in pixels that the model sees
    c.data.resize = cd.placeholder(int)  # evaluation: short side before the centre crop; 0 squashes to image_size
    c.data.interpolation = cd.placeholder(str)  # of every resize: nearest, bilinear, bicubic, lanczos
    c.data.antialias = cd.placeholder(bool)  # the filter grows as the image shrinks; False: TensorFlow's, faster
    c.data.mean = cd.placeholder(tuple)  # of the pixels in [0, 1], subtracted channel by channel
    c.data.std = cd.placeholder(tuple)  # what the difference is divided by
    c.data.workers = 0  # processes that load; 0 loads in threads of this process
    c.data.in_memory = True  # keep the decoded images of a set that needs less than 2 GiB
    c.data.max_bad = 100  # images of a split that cannot be read: each is named and masked, more end the run

    c.augment = ConfigDict()  # what is None is as the preset has it (`vit_jax.data.presets`)
    c.augment.preset = "none"  # light1 … strong2 (AugReg), deit, deit3, swin, convnext, cifar
    c.augment.crop = cd.placeholder(str)  # none (squash), center, pad (shift), random, inception, random_resized
    c.augment.pad = cd.placeholder(int)  # border of crop="pad" in pixels; "random" resizes to image_size + 2 * pad
    c.augment.area = cd.placeholder(tuple)  # share of the image's area that inception and random_resized take
    c.augment.aspect = cd.placeholder(tuple)  # width / height of that crop
    c.augment.flip = cd.placeholder(bool)  # mirror half of the images left to right
    c.augment.affine = ConfigDict()  # one random affine map an image, drawn uniformly within ± each bound
    c.augment.affine.rotation = cd.placeholder(float)  # degrees
    c.augment.affine.scale = cd.placeholder(float)  # relative
    c.augment.affine.shear = cd.placeholder(float)  # degrees
    c.augment.affine.shift = cd.placeholder(float)  # share of the side
    c.augment.policy = cd.placeholder(str)  # none, rand_augment (Google's), rand_augment_timm, auto_augment,
    # auto_augment_cifar, trivial_augment, three_augment
    c.augment.layers = cd.placeholder(int)  # operations an image, of either rand_augment
    c.augment.magnitude = cd.placeholder(float)  # their strength; 10 is the scale's end, Google's recipes go to 20
    c.augment.magnitude_std = cd.placeholder(float)  # of normal noise on it, of rand_augment_timm
    c.augment.color_jitter = cd.placeholder(float)  # brightness, contrast and saturation, each by up to ± this share
    c.augment.repeats = cd.placeholder(int)  # views of each image in a row, each augmented otherwise
    c.augment.erasing = cd.placeholder(float)  # chance that a box of an image becomes noise
    c.augment.cutout = cd.placeholder(int)  # side in pixels of a square that becomes the mean colour; 0 is off
    c.augment.mixup = cd.placeholder(float)  # a of the Beta(a, a) that mixes pairs of images; 0 is off
    c.augment.cutmix = cd.placeholder(float)  # a of the Beta(a, a) for the pasted box; with mixup, each half the time
    c.augment.mixing = cd.placeholder(str)  # batch (one draw of those for all pairs) or example (one each)

    c.train = ConfigDict()
    c.train.duration = "10 epochs"
    c.train.batch_size = 128  # global: over all devices and micro-batches
    c.train.accumulate = 1  # micro-batches a step; their mean gradient equals the large batch's
    c.train.loss = "softmax"  # softmax or sigmoid cross-entropy
    c.train.class_mean = False  # of sigmoid: the mean over classes, as in PyTorch, in place of the sum
    c.train.label_threshold = cd.placeholder(float)  # of sigmoid: labels above it, after mixing, become 1, the others 0
    c.train.label_smoothing = 0.0
    c.train.class_weights = cd.placeholder(str)  # of the loss: balanced, or one number a class: "1, 2, 0.5"
    c.train.clip_norm = cd.placeholder(float)  # global norm that gradients are clipped to
    c.train.ema_decay = cd.placeholder(float)  # of an average of the parameters, which is then what is evaluated
    c.train.log_every = "50 steps"
    c.train.early_stopping = cd.placeholder(str)  # stop after this long without a better val/top1
    c.train.on_nonfinite = "abort"  # what a loss or gradient that is no finite number does: abort, or rewind: go back
    # to the last checkpoint and on from there, past the batches since
    c.train.rewinds = 3  # how often in a run; then it aborts

    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"  # adamw, lamb, sgd (momentum) or muon (the encoder's kernels; the rest by NAdamW)
    c.optimizer.lr = 1e-3  # the schedule's peak
    c.optimizer.weight_decay = 0.0  # times the learning rate, on kernels only; with muon on the encoder's
    c.optimizer.momentum = 0.9  # of sgd and muon, where 0.95 is usual
    c.optimizer.betas = (0.9, 0.999)  # of adamw and lamb, and of muon's NAdamW
    c.optimizer.eps = 1e-8  # likewise
    c.optimizer.adam_lr = cd.placeholder(float)  # muon: peak rate of the NAdamW part; None is lr
    c.optimizer.layer_decay = cd.placeholder(float)  # updates of layer l times this^(depth + 1 - l); 1 at the head
    c.optimizer.frozen = cd.placeholder(str)  # regular expression, searched in parameters' names: those that match are
    # not trained. '^(?!head)' is a linear probe
    c.optimizer.momentum_dtype = "float32"  # storage of the first moment; bfloat16 halves its memory

    c.lora = ConfigDict()  # low-rank adaptation (`vit_jax.training.lora`): factors and head are trained, not the rest
    c.lora.rank = 0  # of the update of each kernel; 0 is off
    c.lora.alpha = 16.0  # the update is multiplied by alpha / rank
    c.lora.targets = "encoder/.*(attention|mlp|mixing)/"  # regular expression, searched in the names of kernels

    c.distill = ConfigDict()  # learning from a teacher too (`vit_jax.training.distillation`)
    c.distill.teacher = cd.placeholder(str)  # any CHECKPOINT with the same classes; None is off
    c.distill.model = ConfigDict()  # fields of the teacher that its file does not tell, such as heads
    c.distill.kind = "hard"  # the teacher's class (DeiT), or soft: its probabilities at a temperature (Hinton et al.)
    c.distill.alpha = 0.5  # the loss is (1 - alpha) * labels + alpha * teacher
    c.distill.temperature = 1.0  # of soft distillation; DeiT takes 3
    c.distill.place = cd.placeholder(str)  # token or logits; None: the distillation token where the model has one
    c.distill.features = 0.0  # weight of the distance between the batch's similarities; 0 is off

    c.schedule = ConfigDict()
    c.schedule.name = "cosine"  # cosine, linear, rsqrt, constant; each after the warm-up
    c.schedule.warmup = "0 steps"  # linear from 0 to the peak
    c.schedule.end_lr = 0.0  # where cosine and linear end, absolute
    c.schedule.timescale = "10000 steps"  # of rsqrt: lr / sqrt(step / timescale) once past it

    c.eval = ConfigDict()
    c.eval.batch_size = 256  # global
    c.eval.every = "1 epochs"  # the last step is always evaluated

    c.checkpoint = ConfigDict()
    c.checkpoint.every = "1 epochs"  # the last step is always saved
    c.checkpoint.keep = 2  # newest checkpoints kept; the best on data.val_split is kept beside them

    c.mesh = ConfigDict()  # devices along each axis; -1 is all that remain
    c.mesh.data = -1  # the batch is split
    c.mesh.fsdp = 1  # the batch is split, and so are parameters and optimizer state
    c.mesh.tensor = 1  # attention heads and MLP are split
    c.lock()
    c.model.unlock()
    c.distill.model.unlock()
    return c


def known_keys(config: ConfigDict) -> list[str]:
    """Returns all dotted keys of a config, fields of its architecture included."""
    keys = [key for key, _ in _leaves(config)]
    fields = field_types(architecture(config.model.name or DEFAULT_MODEL).module)
    return keys + [f"model.{field}" for field in fields if f"model.{field}" not in keys]


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load_config(spec: str) -> ConfigDict:
    """Returns the config of `configs/x.py` or `configs/x.py:argument`.

    The file defines `get_config()` or `get_config(argument)`, which starts from `default_config()`.

    Raises:
      UserError: there is no such file, it takes no argument, or what it sets is unknown or of a wrong type.
    """
    path, _, argument = spec.partition(":")
    if not pathlib.Path(path).is_file():
        siblings = (
            [str(p) for p in pathlib.Path(path).parent.glob("*.py")] if pathlib.Path(path).parent.is_dir() else []
        )
        raise UserError(f"no config file {path!r}{nearest(path, siblings)}")
    if not path.endswith(".py"):
        raise UserError(f"config file {path!r} is no Python file")
    module_spec = importlib.util.spec_from_file_location("vit_jax_config", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {_config_file_mistake(error)}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config()")
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {_config_file_mistake(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() must return the config, not {config!r}")
    return config


def _config_file_mistake(error: Exception) -> str:
    text = str(error.args[0]) if error.args else str(error)
    unknown = re.search(r'Key "(\w+)" does not exist', text)
    if unknown is None:
        return text
    last_names = {key.rpartition(".")[2]: key for key in known_keys(default_config())}
    close = nearest(unknown[1], list(last_names))
    return f"unknown config key {unknown[1]!r}{close}"


def set_key(config: ConfigDict, key: str, text: str) -> None:
    """Sets one dotted key from the command line's text.

    Raises:
      UserError: the key is unknown (the nearest is named), or the text is not of its type.
    """
    *groups, last = key.split(".")
    group = config
    for name in groups:
        group = group.get(name) if isinstance(group, ConfigDict) else None
    if not isinstance(group, ConfigDict) or (last not in group and groups not in OPEN_GROUPS):
        raise UserError(f"unknown config key {key!r}{nearest(key, known_keys(config))}")
    if isinstance(group.get(last), ConfigDict):
        inner = ", ".join(f"{key}.{name}" for name in group[last]) or f"{key}.FIELD"
        raise UserError(f"config key {key!r} is a group; set one of {inner}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        value = text
    if groups in OPEN_GROUPS and key != "model.name":
        with group.ignore_type():  # `resolve` checks it against the architecture, whatever was set before
            group[last] = value
        return
    expected = group.get_type(last)
    if expected is str and (value is not None or _default(key) is not None):
        value = text
    group[last] = _typed(key, expected, value)


def _default(key: str) -> object:
    return functools.reduce(lambda group, name: group[name], key.split("."), default_config())


def _typed(key: str, expected: type, value: object) -> object:
    """Returns `value` as a key of that type takes it, or raises the `UserError` that says why not."""
    default = _default(key)
    if value is None and default is None:
        return None
    if expected is float and _is_number(value):
        return float(value)
    if expected is tuple and isinstance(value, tuple | list):
        length = 3 if key in ("data.mean", "data.std") else len(default or OFF[key.removeprefix("augment.")])
        if len(value) != length or not all(map(_is_number, value)):
            raise UserError(f"config key {key!r} must be {length} numbers, not {value!r}")
        return tuple(map(float, value))
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"config key {key!r} must be {expected.__name__}, not {value!r}")
    return value


BOUNDS = {
    "seed": (0, 2**32 - 1),
    "data.image_size": (1, None),
    "data.resize": (0, None),
    "data.std": (1e-6, None),
    "data.workers": (0, None),
    "data.max_bad": (0, None),
    "augment.pad": (0, None),
    "augment.area": (1e-6, 1),
    "augment.aspect": (1e-3, 1e3),
    "augment.layers": (0, None),
    "augment.magnitude": (0, None),
    "augment.magnitude_std": (0, None),
    "augment.color_jitter": (0, None),
    "augment.repeats": (1, None),
    "augment.erasing": (0, 1),
    "augment.cutout": (0, None),
    "augment.mixup": (0, None),
    "augment.cutmix": (0, None),
    "train.batch_size": (1, None),
    "train.accumulate": (1, None),
    "train.label_threshold": (0, 0.5),
    "train.label_smoothing": (0, 1),
    "train.clip_norm": (1e-12, None),
    "train.ema_decay": (0, 1),
    "train.rewinds": (0, None),
    "optimizer.lr": (0, None),
    "optimizer.weight_decay": (0, None),
    "optimizer.momentum": (0, 1),
    "optimizer.betas": (0, 1),
    "optimizer.adam_lr": (0, None),
    "optimizer.layer_decay": (0, 1),
    "distill.alpha": (0, 1),
    "distill.temperature": (1e-6, None),
    "distill.features": (0, None),
    "lora.rank": (0, None),
    "lora.alpha": (1e-6, None),
    "eval.batch_size": (1, None),
    "checkpoint.keep": (1, None),
}
"""Smallest and largest values, both allowed, of the keys that have such."""


def _within_bounds(key: str, value: object) -> object:
    lowest, highest = BOUNDS.get(key, (None, None))
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and lowest is not None and not number >= lowest:
            raise UserError(f"config key {key!r} must be at least {lowest}, not {value!r}")
        if number is not None and highest is not None and not number <= highest:
            raise UserError(f"config key {key!r} must be at most {highest}, not {value!r}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def resolve(config: ConfigDict, weights: "Weights | None" = None, whole: bool = False) -> ConfigDict:
    """Returns a locked copy in which every value has its key's type, the model's fields their architecture's.

    Keys that are missing get their defaults; lists, such as JSON has, become tuples.

    Args:
      weights: those of `init_from`: what the config leaves open about model and preprocessing is theirs.
      whole: take their pre-logits layer too, as where they are only evaluated. In training it goes with the old head.

    Raises:
      UserError: an unknown key or model field, a value of the wrong type, or a model that is not that of the weights.
    """
    resolved = default_config()
    known = known_keys(resolved)
    fields = {}
    for key, value in _leaves(ConfigDict(config)):
        *groups, last = key.split(".")
        if groups == ["model"] and last != "name":
            fields[last] = value
            continue
        if groups == ["distill", "model"]:  # checked where the teacher is read, which tells its architecture
            resolved.distill.model[last] = tuple(value) if isinstance(value, list) else value
            continue
        if key not in known:
            raise UserError(f"unknown config key {key!r}{nearest(key, known)}")
        group = functools.reduce(lambda inner, name: inner[name], groups, resolved)
        group[last] = _within_bounds(key, _typed(key, group.get_type(last), value))
    fill_augment(resolved)
    fill_data(resolved, weights)
    check_surgery(resolved)
    check_on_nonfinite(resolved)
    if resolved.model.name is None:
        resolved.model.name = DEFAULT_MODEL if weights is None else weights.name
    name = resolved.model.name
    types = field_types(architecture(name).module)
    fields = {key: check_field(name, types, key, value) for key, value in fields.items()}
    if weights is not None:
        fields = {**fields_of_weights(name, fields, weights, whole), **fields}
    for key, value in fields.items():
        resolved.model[key] = value
    resolved.model.lock()
    resolved.distill.model.lock()
    return resolved


def model_overrides(config: ConfigDict) -> dict[str, object]:
    """Returns the fields of `config.model` without its name."""
    return {key: value for key, value in config.model.items() if key != "name"}


def config_name(spec: str) -> str:
    """Returns what a run of `configs/x.py:argument` is called: `x` or `x-argument`."""
    path, _, argument = spec.partition(":")
    return pathlib.Path(path).stem + ("-" + re.sub(r"[^\w.=-]+", "_", argument) if argument else "")


def flatten(config: ConfigDict) -> dict[str, object]:
    """Returns dotted keys and JSON values."""
    flat = {}
    for key, value in json.loads(config.to_json_best_effort()).items():
        _flatten_into(flat, key, value)
    return flat


def _flatten_into(flat: dict[str, object], key: str, value: object) -> None:
    if isinstance(value, dict):
        for inner, v in value.items():
            _flatten_into(flat, f"{key}.{inner}", v)
    else:
        flat[key] = value
