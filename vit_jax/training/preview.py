"""A picture of the training batch as the model sees it."""

import math
import pathlib

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from vit_jax.config import resolve
from vit_jax.errors import explained_writes
from vit_jax.training.experiment import Experiment, build
from vit_jax.training.run import require_writable

PREVIEW_IMAGES = 32


def preview(config: ConfigDict, workdir: str) -> pathlib.Path:
    """Draws the first training batch, augmented on host and device, to `preview.png` and returns its path.

    Raises:
      UserError: the config, the data or the workdir is not as it must be.
    """
    experiment = build(resolve(config))
    require_writable(workdir)
    path = pathlib.Path(workdir) / "preview.png"
    with explained_writes(str(path)):
        draw_batch(*augmented_batch(experiment), experiment.source.class_names, path)
    size = "x".join(map(str, experiment.transform.size))
    print(f"{path}: the first {PREVIEW_IMAGES} of {len(experiment.source):,} training images, {size} pixels, augmented")
    return path


def augmented_batch(experiment: Experiment) -> tuple[Float[np.ndarray, "b h w 3"], Float[np.ndarray, "b classes"]]:
    """Returns the pixels in [0, 1] and the label weights of the first batch, as its training step has them."""
    batch = experiment.train_batches()(0)
    state = experiment.init()
    augment_key, _ = jax.random.split(state.key)
    images, labels = jax.jit(experiment.augment)(augment_key, batch["image"], batch["label"])
    return np.asarray(experiment.augment.normalisation.invert(images)), np.asarray(labels)


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
