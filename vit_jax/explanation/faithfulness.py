"""How faithful heat maps are: how fast a class's probability falls as the places they rank highest are taken away.

The deletion test of Samek et al. 2017 ("Evaluating the Visualization of What a Deep Neural Network Has Learned") and
Petsiuk et al. 2018 ("RISE"): the smaller the area under the curve, the better a method found what the model uses.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.sources import Source, describe
from vit_jax.errors import UserError
from vit_jax.explanation.methods import METHODS, Options, method_named
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.patches import enlarged
from vit_jax.inference.model import LoadedModel
from vit_jax.inference.picture_model import probabilities

STEPS = 20
"""How many times places are taken away, about equally many each time, until none is left."""

BATCH = 50

RANDOM = "random"
"""The name of the order by chance, which every method should beat."""

RAW = "attention"
"""The name of the method that the others are compared with: the last layer's attention, mean of its heads."""


@dataclasses.dataclass(frozen=True)
class Deletion:
    """How the probability of the true class falls.

    Attributes:
      fractions: of the image's patches that are taken away, from 0 to 1.
      curves: the true class's probability, by method.
    """

    fractions: Float[np.ndarray, "steps"]
    curves: dict[str, Float[np.ndarray, "images steps"]]

    def areas(self, method: str) -> Float[np.ndarray, "images"]:
        """Returns the area under each image's curve, by the trapezoidal rule: a mean probability."""
        curve = self.curves[method]
        return ((curve[:, 1:] + curve[:, :-1]) / 2 * np.diff(self.fractions)).sum(1)

    def compared(self, method: str, other: str) -> tuple[float, float]:
        """Returns the mean difference of two methods' areas, image by image, and its standard error."""
        apart = self.areas(method) - self.areas(other)
        return float(apart.mean()), standard_error(apart)


def standard_error(values: Float[np.ndarray, "images"]) -> float:
    """Returns that of their mean; 0 of a single one."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def examples(
    model: LoadedModel, source: Source, count: int | None, seed: int = 0
) -> tuple[UInt8[np.ndarray, "images height width 3"], Int[np.ndarray, "images"]]:
    """Returns what the model sees of images drawn from a source, and their classes.

    Args:
      count: how many; None, or more than there are, is all.

    Raises:
      UserError: the classes are not the model's, or an image cannot be read.
    """
    if len(source.class_names) != model.num_classes:
        raise UserError(f"{model.source} has {model.num_classes} classes, the data {len(source.class_names)}")
    transform = model.preprocessing.transform()
    views, labels = [], []
    for row in np.random.default_rng(seed).permutation(len(source))[:count]:
        try:
            image, label = source[int(row)]
            views.append(transform.evaluate(image))
        except (UnreadableImage, OSError, ValueError) as error:
            raise UserError(f"{describe(source, int(row))} cannot be read: {error}") from error
        labels.append(label)
    return np.stack(views), np.array(labels)


def deletion(
    model: LoadedModel,
    views: UInt8[np.ndarray, "images height width 3"],
    labels: Int[np.ndarray, "images"],
    methods: Sequence[str] = tuple(METHODS),
    options: Options = Options(),  # noqa: B008 - it is frozen
    seed: int = 0,
    told: Callable[[str, int], None] = lambda method, done: None,
) -> Deletion:
    """Returns how the true class's probability falls as each method's highest places are replaced by the mean colour.

    A place is a patch of the model, or one of the first map of a network in stages; a heat map of another grid is
    resized to it bilinearly. The colour is the image's own mean. Places of equal rank come in an order drawn by chance.

    Args:
      methods: of `vit_jax.explanation.methods.METHODS`; an order by chance, `RANDOM`, is always measured too. Those of
        a class explain the true one.
      seed: of the order by chance.
      told: is called with a method and how many images are done.

    Raises:
      UserError: the model has not what a method needs.
    """
    makers = {name: method_named(name).make for name in methods}
    x = model.preprocessing.normalised(views)
    fractions, curves = None, {name: [] for name in (*makers, RANDOM)}
    generator = np.random.default_rng(seed)
    for first in range(0, len(x), BATCH):
        seen = Observation(model, x[first : first + BATCH], labels[first : first + BATCH])
        grid = seen.first_grid
        chance = generator.random((len(seen.x), *grid))
        counts = np.unique(np.linspace(0, chance[0].size, STEPS + 1).round().astype(int))
        fractions = counts / chance[0].size
        for name in curves:
            heat = resized(makers[name](seen, options), grid) if name in makers else chance
            curves[name].append(falling(seen, ranks(heat, chance), counts))
            told(name, first + len(seen.x))
    return Deletion(fractions, {name: np.concatenate(parts) for name, parts in curves.items()})


def resized(heat: Float[np.ndarray, "batch rows columns"], grid: tuple[int, int]) -> np.ndarray:
    """Returns heat maps on a grid."""
    if heat.shape[1:] == grid:
        return heat
    return np.asarray(jax.image.resize(heat, (len(heat), *grid), "bilinear"))


def ranks(
    heat: Float[np.ndarray, "batch rows columns"], chance: Float[np.ndarray, "batch rows columns"]
) -> Int[np.ndarray, "batch rows columns"]:
    """Returns the rank of each place, 0 for the highest; of equal ones the lower `chance` comes first."""
    flat = heat.reshape(len(heat), -1)
    order = np.lexsort((chance.reshape(len(heat), -1), -flat), axis=-1)
    return np.argsort(order, axis=-1).reshape(heat.shape)


def falling(
    seen: Observation, rank: Int[np.ndarray, "batch rows columns"], counts: Int[np.ndarray, "steps"]
) -> Float[np.ndarray, "batch steps"]:
    """Returns the probability of each image's class with so many of its highest places replaced by its mean colour."""
    pixels = np.stack([enlarged(one, seen.image_size) for one in rank])[..., None]
    colour = seen.x.mean((1, 2), keepdims=True)
    rows = np.arange(len(seen.x))
    steps = []
    for count in counts:
        logits = seen.model.logits(np.where(pixels < count, colour, seen.x))
        steps.append(np.asarray(probabilities(logits, seen.model.loss))[rows, seen.classes])
    return np.stack(steps, axis=1)


def table(result: Deletion) -> str:
    """Returns the methods as lines, the most faithful first, then the order by chance."""
    names = sorted(result.curves, key=lambda name: (name == RANDOM, result.areas(name).mean()))
    lines = [f"{'method':<20} {'area under the curve':>20} {'less than random':>18}"]
    lines[0] += f" {'less than raw attention':>24}" if RAW in names else ""
    for name in names:
        areas = result.areas(name)
        line = f"{name:<20} {areas.mean():>11.4f} ± {standard_error(areas):.4f} {_apart(result, name, RANDOM, 18)}"
        lines.append(line + (f" {_apart(result, name, RAW, 24)}" if RAW in names else ""))
    return "\n".join(lines)


def _apart(result: Deletion, name: str, other: str, width: int) -> str:
    """Returns by how much a method's area is less than another's."""
    if name == other:
        return " " * width
    mean, error = result.compared(other, name)
    return f"{mean:+.4f} ± {error:.4f}".rjust(width)
