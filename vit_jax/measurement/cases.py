"""What is measured: the combinations of the axes that a command names, each as a config."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vit_jax.command import configured
from vit_jax.config import DEFAULT_MODEL, default_config, set_key
from vit_jax.errors import UserError
from vit_jax.models.registry import architecture
from vit_jax.training.experiment import Experiment, build
from vit_jax.training.initial import resolved

AXES = {
    "model": "model.name",
    "batch_size": "train.batch_size",
    "image_size": "data.image_size",
    "dtype": "model.dtype",
    "remat": "model.remat",
    "attention": "model.attention",
    "attention_kernel": "model.attention_kernel",
    "fused_qkv": "model.fused_qkv",
    "depth": "model.depth",
    "scan_layers": "model.scan_layers",
}
"""Flags that take several values, and the config key that each sets."""

DEFAULTS = {"model": DEFAULT_MODEL, "batch_size": "32", "image_size": "224"}
"""What is measured where neither a flag nor a config file says it."""

EXAMPLES = 1_281_167
"""Length of the synthetic set: ImageNet's, so that any config's warm-up and schedule fit."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One combination.

    Attributes:
      name: the values of the axes that have several, "" where none has.
      settings: the value of every axis that a flag names.
      config: resolved.
    """

    name: str
    settings: dict[str, str]
    config: ConfigDict

    @property
    def dtype(self) -> str:
        """Returns the name of the type that the model computes in."""
        return jnp.dtype(model_field(self.config, "dtype")).name

    def experiment(self, devices: Sequence[jax.Device] | None = None) -> Experiment:
        """Returns the parts of a training of this case on synthetic images (see `vit_jax.training.experiment.build`).

        Raises:
          UserError: parts of the config do not fit together.
        """
        source = SyntheticSource(self.config.data.image_size, model_field(self.config, "num_classes"))
        return build(self.config, source, devices)


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Noise with labels in turn: a `Source` that takes no memory.

    Attributes:
      size: side of the square images in pixels.
      classes: their number.
    """

    size: int
    classes: int

    @property
    def class_names(self) -> list[str]:
        """Returns one name a class."""
        return [str(label) for label in range(self.classes)]

    @property
    def image_size(self) -> tuple[int, int]:
        """Returns height and width in pixels."""
        return self.size, self.size

    @property
    def labels(self) -> np.ndarray:
        """Returns the label of every row, int `[rows]`."""
        return np.arange(EXAMPLES) % self.classes

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        pixels = np.random.default_rng(row).integers(0, 256, (self.size, self.size, 3), np.uint8)
        return pixels, row % self.classes


def model_field(config: ConfigDict, field: str) -> object:
    """Returns a field of a resolved config's model, or its architecture's value where the config leaves it open."""
    found = architecture(config.model.name)
    return config.model.get(field, found.fields.get(field, getattr(found.module, field)))


def cases_of(axes: dict[str, str], file: str | None = None, overrides: Sequence[tuple[str, str]] = ()) -> list[Case]:
    """Returns all combinations of the axes' values, the last axis changing fastest.

    Args:
      axes: by name of the flag, values with commas between.
      file: a config that the cases start from, or None for the defaults.
      overrides: config keys and their values.

    Raises:
      UserError: a value or key is not as it must be, or is given twice.
    """
    for axis, key in AXES.items():
        if axis in axes and key in dict(overrides):
            raise UserError(f"--{axis} and --config.{key} set the same; give one of them")
    values = {axis: axes[axis].split(",") for axis in AXES if axis in axes}
    for axis, several in values.items():
        if len(set(several)) < len(several):
            raise UserError(f"--{axis}={axes[axis]} names a value twice")
    cases = []
    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        name = " ".join(value_name(axis, value) for axis, value in settings.items() if len(values[axis]) > 1)
        cases.append(Case(name, settings, case_config(settings, file, overrides)))
    return cases


def value_name(axis: str, value: str) -> str:
    """Returns what a table calls the value of an axis: the value itself where that says which axis it is of."""
    return value if axis in ("model", "dtype") else f"{axis}={value}"


def case_config(settings: dict[str, str], file: str | None, overrides: Sequence[tuple[str, str]]) -> ConfigDict:
    """Returns the resolved config of one combination, ready for synthetic images.

    Raises:
      UserError: a value or key is not as it must be.
    """
    config = default_config() if file is None else configured(file, [])
    for key, text in overrides:
        set_key(config, key, text)
    given = {key for key, _ in overrides} | {AXES[axis] for axis in settings}
    if file is None:
        missing = {axis: text for axis, text in DEFAULTS.items() if AXES[axis] not in given}
        if config.init_from is not None:
            missing.pop("model", None)  # the architecture of those weights
        settings = missing | settings
    for axis, text in settings.items():
        set_key(config, AXES[axis], text)
    if file is not None and config.data.image_size is None:
        raise UserError(f"{file} leaves the image size to its dataset; give --image_size")
    config.data.classes = None  # the images are synthetic: there are no names to choose from
    config.eval.batch_size = config.train.batch_size  # unused, but it must be divisible too
    return resolved(config)[0]
