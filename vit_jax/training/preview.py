"""Pictures of training images as the model sees them: the first batch, and every augmentation preset."""

import math
import pathlib

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from vit_jax.config import default_config, fill_augment, resolve
from vit_jax.data.presets import PRESETS
from vit_jax.data.sources import Source
from vit_jax.data.unreadable import Unreadable
from vit_jax.errors import explained_writes
from vit_jax.training.experiment import build, device_augment, host_batches
from vit_jax.training.initial import resolved
from vit_jax.training.run import require_writable
from vit_jax.training.state import initial_keys, step_key

PREVIEW_IMAGES = 32
PRESET_IMAGES = 8


def preview(config: ConfigDict, workdir: str) -> pathlib.Path:
    """Draws the first training batch, augmented on host and device, to `preview.png` and returns its path.

    The same images under every preset go to `presets.png`.

    Raises:
      UserError: the config, the data or the workdir is not as it must be.
    """
    config, _ = resolved(config)
    experiment = build(config)
    require_writable(workdir)
    path, presets = (pathlib.Path(workdir) / name for name in ("preview.png", "presets.png"))
    with explained_writes(str(path)):
        draw_batch(*augmented_batch(config, experiment.source), experiment.source.class_names, path)
    size = "x".join(map(str, experiment.transform.size))
    count = min(PREVIEW_IMAGES, config.train.batch_size)
    print(f"{path}: the first {count} views of {len(experiment.source):,} training images, {size} pixels, augmented")
    with explained_writes(str(presets)):
        draw_presets(config, experiment.source, presets)
    print(f"{presets}: {PRESET_IMAGES} views under each of {len(PRESETS)} presets (augment.preset)", flush=True)
    return path


def augmented_batch(
    config: ConfigDict, source: Source
) -> tuple[Float[np.ndarray, "b h w 3"], Float[np.ndarray, "b classes"]]:
    """Returns the pixels in [0, 1] and the label weights of the first batch, as its training step has them."""
    batch, problems = host_batches(config, source)(0)
    Unreadable(len(batch["mask"])).take(problems)
    augment = device_augment(config, len(source.class_names))
    key, _ = jax.random.split(step_key(initial_keys(config.seed)[1], 0))
    images, labels = jax.jit(augment)(key, batch["image"], batch["label"], batch["mask"])
    return np.asarray(augment.normalisation.invert(images)), np.asarray(labels)


def draw_presets(config: ConfigDict, source: Source, path: pathlib.Path) -> None:
    """Draws a row of images for each preset: the same images, each time augmented otherwise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * PRESET_IMAGES, 1.35 * len(PRESETS)), layout="constrained")
    for row, name in zip(figure.subplots(len(PRESETS), PRESET_IMAGES, squeeze=False), PRESETS, strict=True):
        images, _ = augmented_batch(with_preset(config, name), source)
        row[0].set_ylabel(name, fontsize=9)
        for axis, image in zip(row, np.resize(images, (PRESET_IMAGES, *images.shape[1:])), strict=True):
            axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def with_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Returns a config that augments its first `PRESET_IMAGES` as a preset does, each but once."""
    changed = resolve(config)
    with changed.unlocked():
        changed.augment = default_config().augment
        changed.augment.preset = name
        fill_augment(changed)
        changed.augment.repeats = 1
        changed.train.batch_size = PRESET_IMAGES
    return changed


def draw_batch(images: np.ndarray, labels: np.ndarray, class_names: list[str], path: pathlib.Path) -> None:
    """Draws images with their labels; of a mixed image both, with their shares."""
    from matplotlib.figure import Figure

    count = min(PREVIEW_IMAGES, len(images))
    columns = 8
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.axis("off")
    for axis, image, weights in zip(figure.axes, images[:count], labels, strict=False):
        axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axis.set_title(label_text(weights, class_names), fontsize=8)
    figure.savefig(path, dpi=110)


def label_text(weights: Float[np.ndarray, "classes"], class_names: list[str]) -> str:
    """Returns `cat`, or `cat 70 % / dog 30 %` for a mixed label."""
    order = np.argsort(-weights)[:2]
    if weights[order[0]] > 0.995:
        return class_names[order[0]]
    return "\n".join(f"{class_names[i]} {100 * weights[i]:.0f} %" for i in order if weights[i] > 0.005)
