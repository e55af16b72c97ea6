"""Learning from a teacher: its classes or its logits, and how alike it finds the images of a batch."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from vit_jax.config import default_config, flatten
from vit_jax.data.device import Normalisation
from vit_jax.errors import UserError
from vit_jax.layers.token_merging import MergedTokens
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.weights import Weights
from vit_jax.training.saved import say

KINDS = ("hard", "soft")
PLACES = ("token", "logits")

Outputs = tuple[Float[Array, "batch classes"], Float[Array, "batch classes"], Float[Array, "batch width"] | None]
"""Logits for the labels, logits for the teacher, and pooled features where they are asked for."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model as the step sees it; its variables come as an argument of the step.

    Attributes:
      module: any classifier.
      normalisation: of its images, as it was trained.
      size: height and width of its images.
      order: where the student's classes stand in its logits, or None where they stand in the same order.
    """

    module: nn.Module
    normalisation: Normalisation
    size: tuple[int, int]
    order: tuple[int, ...] | None = None

    def __call__(
        self, variables: dict, images: Float[Array, "batch height width 3"], seen: Normalisation, with_features: bool
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch width"] | None]:
        """Returns the logits, and the pooled features where they are asked for; no gradient passes.

        Args:
          images: augmented, and normalised as `seen` says: the student's. They are resized where the sizes differ.
        """
        pixels = seen.invert(images)
        if pixels.shape[1:3] != self.size:
            pixels = jax.image.resize(pixels, (len(pixels), *self.size, 3), "bilinear")
        inputs = self.normalisation(255 * pixels)
        logits, captured = self.module.apply(
            variables, inputs, train=False, **capturing(self.module, with_features, mutable=[])
        )
        logits = logits if self.order is None else logits[:, jnp.array(self.order)]
        return jax.lax.stop_gradient((logits, pooled_features(captured) if with_features else None))


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a student learns from a teacher (Hinton et al. 2015; Touvron et al. 2021, section 4).

    The loss of an example is (1 - alpha) * loss(label) + alpha * distillation. `hard` distillation is the cross-entropy
    with the teacher's class; `soft` is temperature^2 times the Kullback-Leibler divergence of the teacher's softened
    probabilities from the student's. `features` adds, for the batch, the squared distance between the two matrices of
    similarities of its images, which suits features of any two widths (Tung and Mori 2019, eqs. 2 to 4).

    Attributes:
      place: `token`: the distillation token's head learns from the teacher, the cls token's from the labels; `logits`:
        the same logits from both.
      seen: normalisation of the student's images.
    """

    teacher: Teacher
    seen: Normalisation
    kind: str = "hard"
    alpha: float = 0.5
    temperature: float = 1.0
    place: str = "logits"
    features: float = 0.0

    def taught(self, variables: dict, images: Float[Array, "batch height width 3"]) -> tuple:
        """Returns the teacher's logits and features for the student's augmented images."""
        return self.teacher(variables, images, self.seen, bool(self.features))

    def outputs(self, model: nn.Module, variables: dict, images: Array, **options) -> tuple[Outputs, dict]:
        """Returns what the student gives for images in training, and the collections that it has updated."""
        method = "token_logits" if self.place == "token" else None
        given, updated = model.apply(
            variables,
            images,
            train=True,
            method=method,
            **options,
            **capturing(model, bool(self.features), mutable=["batch_stats"]),
        )
        logits = given if self.place == "token" else (given, given)
        return (*logits, pooled_features(updated) if self.features else None), updated

    def losses(
        self, outputs: Outputs, taught: tuple, label_loss: Float[Array, "batch"], mask: Array
    ) -> Float[Array, "batch"]:
        """Returns the loss of every example.

        Args:
          taught: the teacher's logits and features.
          label_loss: of the student's first logits by the labels.
        """
        _, student, features = outputs
        teacher, teacher_features = taught
        if self.kind == "hard":
            teaching = -jnp.take_along_axis(jax.nn.log_softmax(student), teacher.argmax(-1)[:, None], axis=-1)[:, 0]
        else:
            target, log_student = (jax.nn.log_softmax(logits / self.temperature) for logits in (teacher, student))
            teaching = self.temperature**2 * (jnp.exp(target) * (target - log_student)).sum(-1)
        total = (1 - self.alpha) * label_loss + self.alpha * teaching
        if self.features:
            total = total + self.features * similarity_loss(features, teacher_features, mask)
        return total


def similarity_loss(
    features: Float[Array, "batch width"], teacher: Float[Array, "batch other_width"], mask: Array
) -> Float[Array, "batch"]:
    """Returns each image's share of the squared distance between two matrices of similarities, rows of length 1.

    Rows that are masked count on neither side.
    """
    both = mask[:, None] & mask[None, :]

    def similarities(x: Float[Array, "batch width"]) -> Float[Array, "batch batch"]:
        products = jnp.where(both, jnp.matmul(x, x.T, preferred_element_type=jnp.float32), 0.0)
        return products / jnp.maximum(jnp.sqrt((products**2).sum(axis=1, keepdims=True) + 1e-12), 1e-6)

    return ((similarities(features) - similarities(teacher)) ** 2).sum(axis=1) / jnp.maximum(mask.sum(), 1)


def capturing(model: nn.Module, wanted: bool, mutable: list[str]) -> dict[str, object]:
    """Returns the options of `apply` by which the model's features are kept, where they are wanted."""
    if not wanted:
        return {"mutable": mutable}

    def kept(module: nn.Module, method: str) -> bool:
        return method in ("features", "merged_features") and type(module) is type(model)

    return {"mutable": [*mutable, "intermediates"], "capture_intermediates": kept}


def pooled_features(captured: dict) -> Float[Array, "batch width"]:
    """Returns the mean of the captured tokens or places of a map, float32."""
    kept = captured["intermediates"]
    (features,) = kept.get("features") or kept["merged_features"]  # the first may call the second
    features = features.tokens if isinstance(features, MergedTokens) else features
    features = features.astype(jnp.float32)
    return features.mean(axis=tuple(range(1, features.ndim - 1)))


def check_distill(config: ConfigDict) -> None:
    """Raises a `UserError` where keys of `distill` do not go together, or are set while it names no teacher."""
    wanted = config.distill
    if wanted.teacher is None:
        defaults = flatten(default_config())
        for key, value in flatten(config).items():
            if key.startswith("distill.") and defaults.get(key) != value:
                raise UserError(f"{key} is set to {value!r}, but distill.teacher names no teacher")
    if wanted.kind not in KINDS:
        raise UserError(f"distill.kind must be {' or '.join(KINDS)}, not {wanted.kind!r}")
    if wanted.kind == "hard" and wanted.temperature != default_config().distill.temperature:
        raise UserError(f"distill.temperature={wanted.temperature} is of distill.kind=soft; hard takes the class alone")


def load_teacher(config: ConfigDict, class_names: Sequence[str]) -> tuple[Teacher, dict] | None:
    """Returns the teacher that `distill.teacher` names and its variables, or None where it names none.

    What it is, what its file did not tell, and classes that are in another order or named otherwise, are printed.

    Args:
      class_names: of the data.

    Raises:
      UserError: it cannot be read, or has other classes.
    """
    wanted = config.distill
    if wanted.teacher is None:
        return None
    weights = load_weights(wanted.teacher, **wanted.model)
    if weights.classes != len(class_names):
        raise UserError(
            f"distill.teacher {wanted.teacher} has {weights.classes} classes, the data has {len(class_names)}"
        )
    say(f"teacher of {weights.source}: {weights.name}, {weights.parameter_count:,} parameters")
    for note in weights.notes:
        say(f"  note: {note}")
    seen = weights.preprocessing
    size = tuple(weights.image_size or seen.size)
    order = order_of_classes(weights, list(class_names))
    return Teacher(weights.module, Normalisation(seen.mean, seen.std), size, order), weights.variables


def order_of_classes(weights: Weights, class_names: list[str]) -> tuple[int, ...] | None:
    """Returns where classes stand in a teacher's logits, or None where in the same places; says where they differ.

    The same classes may be named otherwise by whoever made the weights, so names alone are no mistake.
    """
    other = weights.first_other_class(class_names)
    if other is None:
        return None
    theirs = weights.class_names
    if len(set(theirs)) == len(theirs) and set(theirs) == set(class_names):
        say("  note: its classes are in another order; they are matched by name")
        return tuple(theirs.index(name) for name in class_names)
    say(f"  note: {other}: taken to be the same, in the same order")
    return None


def make_distillation(config: ConfigDict, teacher: Teacher, model: nn.Module, seen: Normalisation) -> Distillation:
    """Returns the distillation that a config asks for; by default on the distillation token where the model has one.

    Raises:
      UserError: it is asked for on a token that the model has not.
    """
    wanted = config.distill
    has_token = bool(getattr(model, "dist_classifier", False) and model.num_classes)
    place = wanted.place or ("token" if has_token else "logits")
    if place not in PLACES or (place == "token" and not has_token):
        raise UserError(f"distill.place must be logits, or token with a distilled model, not {wanted.place!r}")
    return Distillation(teacher, seen, wanted.kind, wanted.alpha, wanted.temperature, place, wanted.features)


class Taught:
    """A jitted training step that also takes a teacher's variables: called without them, like one that does not."""

    def __init__(self, step: jax.stages.Wrapped, variables: dict):
        self.step, self.variables = step, variables

    def __call__(self, state, batch):
        return self.step(state, batch, self.variables)

    def lower(self, state, batch) -> jax.stages.Lowered:
        """Lowers the step for abstract arguments."""
        return self.step.lower(state, batch, self.variables)

    def trace(self, state, batch) -> jax.stages.Traced:
        """Traces the step for abstract arguments."""
        return self.step.trace(state, batch, self.variables)
