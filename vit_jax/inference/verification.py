"""Whether a written bundle gives the answers of the model that it was made of."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.inference.exported import ExportedModel
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.picture_model import BATCH, Picture, probabilities

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""The largest difference that is allowed, as a share of the range of the outputs. Float32 differs by rounding only, by
1e-6 as a rule; bfloat16, with its 8 bits, by 4e-3 (ViT-S/16, random weights, measured on a CPU).
"""

STRAYS = 0.125
"""The share of the images that may differ by more where tokens are merged: which of two pairs of tokens that are
equally alike is merged hangs on rounding. It is rare: of 700 CIFAR-10 images none strayed in float32 with 8 tokens
merged in each of 4 blocks, and in bfloat16 none of 300.
"""

BATCHES = (1, 3)
"""Sizes of the first batches that a program is given, as it must take any."""

WINDOWS = ((1.0, 0.5, 0.5), (0.7, 0.2, 0.3), (0.7, 0.8, 0.7), *((0.45, x, y) for x in (0.1, 0.9) for y in (0.1, 0.9)))
WINDOWS += ((0.25, 0.5, 0.6),)
"""Parts of a photograph: share of its sides, and where between the left and right, top and bottom ends it lies."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What running a bundle has shown.

    Attributes:
      max_abs_difference: the largest between its outputs and the live model's, which computes in float32.
      tolerance: that `max_abs_difference` may not exceed, but for a few images where tokens are merged.
      output_range: the largest output of the live model less the smallest.
      images: how many were looked at.
      top1_agreement: share of the images of which both say the same class; None without classes.
      batches: the numbers of images that went through the file at once.
      strays: how many images differ by more than the tolerance; one whose answers are no numbers is among them.
      passed: whether there are no more strays than there may be.
    """

    max_abs_difference: float
    tolerance: float
    output_range: float
    images: int
    top1_agreement: float | None
    batches: list[int]
    strays: int
    passed: bool


def verify(
    live: LoadedModel, bundled: LoadedModel | ExportedModel, dtype: str, pictures: Sequence[Picture]
) -> Verification:
    """Returns how the answers of a bundle differ from those of the live model.

    A program is given batches of 1, 3 and up to 28 images, then of 32 as the live model.

    Args:
      dtype: in which the bundle computes.
    """
    program = isinstance(bundled, ExportedModel)
    expected, found, sizes = [], [], []
    with jax.default_matmul_precision("highest"):
        for first in range(0, len(pictures), BATCH):
            views = np.stack([live.view(picture) for picture in pictures[first : first + BATCH]])
            expected.append(_expected(live, views, bundled.bundle.output if program else "logits"))
            parts = np.split(views, np.cumsum(BATCHES)) if program and not first else [views]
            parts = [part for part in parts if len(part)]
            answer = bundled.outputs if program else bundled.logits
            found += [answer(bundled.preprocessing.normalised(part)) for part in parts]
            sizes += map(len, parts)
    outputs = np.concatenate(expected), np.concatenate(found)
    may_stray = STRAYS if live.merge_tokens else 0.0
    return compared(*outputs, TOLERANCE[dtype], bool(live.num_classes), sizes, may_stray)


def compared(
    expected: Float[np.ndarray, "images outputs"],
    found: Float[np.ndarray, "images outputs"],
    share: float,
    classes: bool,
    batches: list[int],
    may_stray: float = 0.0,
) -> Verification:
    """Returns what two sets of outputs differ by.

    Args:
      share: of the range of the expected outputs, that is tolerated.
      classes: whether the outputs are those of classes.
      may_stray: share of the images that may differ by more.
    """
    extent = float(np.ptp(expected))
    same = float(np.mean(expected.argmax(-1) == found.argmax(-1))) if classes else None
    differences = np.abs(found.astype(np.float64) - expected).max(axis=-1)
    strays = int((~(differences <= share * extent)).sum())
    passed = strays <= may_stray * len(expected) and bool(np.isfinite(differences).all())
    shown = float(differences.max()), share * extent, extent, len(expected), same, sorted(set(batches))
    return Verification(*shown, strays, passed)


def photographs() -> list[UInt8[np.ndarray, "height width 3"]]:
    """Returns parts of the two photographs that come with scikit-learn, of several sizes."""
    from sklearn.datasets import load_sample_images

    parts = []
    for photograph in load_sample_images().images:
        for share, x, y in WINDOWS:
            height, width = (round(share * side) for side in photograph.shape[:2])
            top, left = round(y * (photograph.shape[0] - height)), round(x * (photograph.shape[1] - width))
            parts.append(np.ascontiguousarray(photograph[top : top + height, left : left + width]))
    return parts


def _expected(live: LoadedModel, views: UInt8[np.ndarray, "b h w 3"], output: str) -> np.ndarray:
    logits = live.logits(live.preprocessing.normalised(views))
    return np.asarray(probabilities(logits, live.loss)) if output == "probabilities" else logits
