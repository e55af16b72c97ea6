"""What every reader returns: parameters under our names, the architecture they belong to, and what travels along."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.imagenet import imagenet_classes
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.layers.position import sincos2d
from vit_jax.models.registry import check_field, create_model, field_types, name_of
from vit_jax.pretrained.names import families

POSITIONS = "position_embed/embedding"

STATISTICS = "batch_stats/"
"""What the flat names of running statistics begin with, where they stand among those of the parameters."""

WITHOUT_PARAMETERS = ("gelu", "norm_epsilon")
"""Fields that can be overridden in any file, as no array depends on them."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters of a model, read from a file or made by training.

    Attributes:
      name: of the architecture, one that `create_model` knows.
      fields: of that architecture, those that its name does not fix.
      params: under our flat names, such as `encoder/block_0/norm_0/scale`; running statistics of batch norms are among
        them, such as `batch_stats/stem/norm/mean`.
      image_size: height and width in pixels that the position grid was learned for, or None where nothing tells.
      preprocessing: what their evaluation does to an image; its size may be another than `image_size`.
      class_names: in the order of the logits, or None where they are not known.
      position_resize: how their positions are best resized to another grid, `linear` or `bicubic` (see `surgery`).
      source: where they come from, for messages.
      unused: what the file holds beside them, each with the reason why it is not used.
      notes: what else a person should know, such as what was assumed.
      loss: what makes probabilities of their logits: `softmax`, or `sigmoid` where they were trained with that.
    """

    name: str
    fields: dict[str, object]
    params: dict[str, np.ndarray]
    image_size: tuple[int, int] | None
    preprocessing: Preprocessing
    source: str
    class_names: list[str] | None = None
    position_resize: str = "linear"
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    loss: str = "softmax"

    @functools.cached_property
    def module(self) -> nn.Module:
        """The model."""
        return create_model(self.name, **self.fields)

    @property
    def variables(self) -> dict:
        """What `module.apply` takes."""
        return variables_of(self.params)

    @property
    def parameter_count(self) -> int:
        """Number of scalars that training would learn."""
        return sum(array.size for name, array in self.params.items() if not name.startswith(STATISTICS))

    @property
    def classes(self) -> int:
        """Number of classes of the head, 0 where there is none."""
        return self.module.num_classes

    def first_other_class(self, class_names: Sequence[str]) -> str | None:
        """Returns a line about the first of as many classes that is named otherwise, or None where there is none."""
        theirs = self.class_names or []
        if len(theirs) != len(class_names):
            return None
        both = enumerate(zip(theirs, class_names, strict=True))
        return next((f"class {i} was {one!r}, is {other!r}" for i, (one, other) in both if one != other), None)


def parameter_shapes(module: nn.Module, image_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter and running statistic of a model for an image size, by flat name.

    Raises:
      UserError: the model's fields or the image size do not fit together.
    """
    return dict(_parameter_shapes(module, tuple(image_size)))


@functools.lru_cache(maxsize=64)
def _parameter_shapes(module: nn.Module, image_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Cached, as reading a file and making a model of it ask for the same several times."""
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), image)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"a {type(module).__name__} for {image_size[0]}x{image_size[1]} images: {error}") from error
    return {name: leaf.shape for name, leaf in flat(variables).items()}


def flat(variables: Mapping) -> dict[str, np.ndarray]:
    """Returns the nested variables of a model by flat names; those of running statistics begin with `STATISTICS`."""
    statistics = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}), sep="/")
    params = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    return params | {STATISTICS + name: leaf for name, leaf in statistics.items()}


def variables_of(arrays: Mapping[str, np.ndarray]) -> dict:
    """Returns what `module.apply` takes, of arrays by flat names: the opposite of `flat`."""
    params = {name: array for name, array in arrays.items() if not name.startswith(STATISTICS)}
    statistics = {name.removeprefix(STATISTICS): array for name, array in arrays.items() if name not in params}
    trees = {"params": params, **({"batch_stats": statistics} if statistics else {})}
    return {collection: flax.traverse_util.unflatten_dict(tree, sep="/") for collection, tree in trees.items()}


def square_grid(tokens: int) -> tuple[int, int] | None:
    """Returns the rows and columns of a square grid of that many patches, or None where it is not square."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None


def checked_fields(model: type[nn.Module], overrides: Mapping[str, object]) -> dict[str, object]:
    """Returns fields as the model takes them.

    Raises:
      UserError: one is no field of the model, or of another type.
    """
    known = field_types(model)
    return {key: check_field(model.__name__, known, key, value) for key, value in overrides.items()}


def adapted(
    model: type[nn.Module], fields: dict[str, object], overrides: Mapping[str, object]
) -> tuple[str, dict[str, object], nn.Module]:
    """Returns an architecture's name, the fields that the name leaves open, and the model.

    Args:
      fields: as a reader found them; overridden by what the caller knows.

    Raises:
      UserError: an override is no field of the model, or of another type.
    """
    name, rest = name_of(model, {**fields, **checked_fields(model, overrides)})
    return name, rest, create_model(name, **rest)


def without_zero_rows(arrays: Mapping[str, np.ndarray], name: str, rows: int) -> tuple[dict[str, np.ndarray], bool]:
    """Returns arrays whose position embedding has lost its first rows, and whether it had any but zeros there.

    A writer whose format wants a position for the cls token writes zeros where ours has none; here they go again.
    """
    positions = arrays.get(name)
    if not rows or positions is None or positions.ndim != 3 or np.any(positions[:, :rows]):
        return dict(arrays), True
    return {**arrays, name: positions[:, rows:]}, False


def with_positions(weights: Weights, kind: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the parameters of a Vision Transformer with learned positions for every token but registers, as formats
    want them that know no others, and what was added. The model's outputs stay the same.

    Raises:
      UserError: the positions are fixed ones, and nothing tells for which image size.
    """
    module, params, notes = weights.module, dict(weights.params), []
    tokens = len(getattr(module, "class_token_names", ()))
    if getattr(module, "position", None) == "sincos2d":
        if weights.image_size is None:
            raise UserError(f"the {kind} format stores positions, for one image size; give --image_size")
        height, width = getattr(module, "stride", module.patch_size)
        rows, columns = -(-weights.image_size[0] // height), -(-weights.image_size[1] // width)
        grid = sincos2d(rows, columns, module.width)
        params[POSITIONS] = np.concatenate([np.zeros((tokens, module.width), np.float32), grid])[None]
        notes.append(f"the {kind} format knows learned positions only: sincos2d is written as such")
    elif tokens and POSITIONS in params and not module.cls_position:
        positions = params[POSITIONS]
        params[POSITIONS] = np.concatenate([np.zeros_like(positions[:, :1])] * tokens + [positions], axis=1)
        notes.append(f"the {kind} format has a position for the cls token: zeros are written, which changes nothing")
    return params, notes


def make_weights(
    name: str,
    fields: dict[str, object],
    params: dict[str, np.ndarray],
    image_size: tuple[int, int] | None,
    preprocessing: Preprocessing,
    source: str,
    class_names: Sequence[str] | None = None,
    position_resize: str = "linear",
    unused: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Weights:
    """Returns weights as a reader gives them: float32, and with ImageNet's names where there are 1,000 classes.

    Raises:
      UserError: there is another number of class names than of classes.
    """
    params = {key: np.asarray(array, np.float32) for key, array in sorted(params.items())}
    classes = create_model(name, **fields).num_classes
    notes = tuple(notes)
    if class_names is None and classes == 1000:
        class_names = imagenet_classes()
        notes += ("1,000 classes without names: taken to be ImageNet's, in the usual order",)
    if classes and "head/kernel" in params and not params["head/kernel"].any():
        notes += ("the head is all zeros: it was never trained",)
    if class_names is not None and len(class_names) != classes:
        raise UserError(f"{source}: {len(class_names)} class names for {classes} classes")
    names = None if class_names is None else list(class_names)
    return Weights(
        name, fields, params, image_size, preprocessing, source, names, position_resize, tuple(unused), notes
    )


def assumed(config: Mapping[str, object], heads: int | None) -> list[str]:
    """Returns the note for a file beside which no `config.json` lies.

    Args:
      heads: what was assumed as their number, or None where something told it.
    """
    if config:
        return []
    settled = f"{heads} heads (heads=N settles it), " if heads else ""
    return [f"no config.json beside it: {settled}activation, epsilon and preprocessing as published models have them"]


def depth_of(names: Iterable[str], pattern: str) -> int:
    """Returns one more than the largest number that the pattern's group finds in names.

    Raises:
      UserError: it finds none.
    """
    numbers = [int(found[1]) for name in names if (found := re.match(pattern, name))]
    if not numbers:
        raise UserError("the file holds no encoder blocks; it is incomplete or of another architecture")
    return max(numbers) + 1


def nominal_size(module: nn.Module, tokens: int) -> tuple[int, int]:
    """Returns height and width in pixels of an image of that many patches: square, or else one row of them."""
    rows, columns = square_grid(tokens) or (1, tokens)
    height, width = getattr(module, "stride", module.patch_size)
    return rows * height, columns * width


def expressible(module: nn.Module, kind: str, models: tuple[type[nn.Module], ...], **allowed: tuple) -> None:
    """Raises a `UserError` that names the first field of a model for which a format has no form.

    Args:
      models: classes that the format can hold.
      allowed: values that fields may have, of those that the model has.
    """
    if type(module) not in models:
        raise UserError(f"the {kind} format has no form for {type(module).__name__} models")
    for field, values in {"attention": ("full",), **allowed}.items():
        if hasattr(module, field) and getattr(module, field) not in values:
            one_of = " or ".join(repr(value) for value in values)
            advice = f"; --model.{field}={values[0]} writes it all the same, as another model"
            raise UserError(
                f"the {kind} format cannot express {field}={getattr(module, field)!r}, only {one_of}"
                + (advice if field in WITHOUT_PARAMETERS else "")
            )


def judged(unknown: Sequence[str], reasons: Mapping[str, str], trunk: str, source: str) -> list[str]:
    """Returns one line for each kind of array that no parameter takes, with the reason.

    Args:
      reasons: by a pattern of their names, why arrays of a file are not used.
      trunk: pattern of names that must all be used: what stands there and is unknown would change the outputs.

    Raises:
      UserError: an unknown array belongs to the trunk.
    """
    lines = []
    for name in families(unknown):
        reason = next((why for pattern, why in reasons.items() if re.search(pattern, name)), None)
        if reason is None and re.search(trunk, name):
            raise UserError(f"{source}: {name} belongs to no part of a model known here; its outputs would be wrong")
        lines.append(f"{name} ({reason or 'unknown'})")
    return lines
