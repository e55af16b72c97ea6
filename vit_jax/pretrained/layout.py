"""How a library names and describes the parameters of one family of models, and the one reader and writer of all.

Vision Transformers, which come in many variants, have readers of their own (`timm`, `huggingface`). Every other family
tells in a `Layout` what is special to it.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import flax.linen as nn
import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.names import Convolution, Entry, entry, read, write
from vit_jax.pretrained.weights import (
    STATISTICS,
    Weights,
    adapted,
    checked_fields,
    expressible,
    judged,
    make_weights,
    parameter_shapes,
)

Arrays = Mapping[str, np.ndarray]
Document = Mapping[str, object]

COUNTERS = {
    r"num_batches_tracked$": "a counter of training steps",
    r"relative_(position_index|coords_table)$": "computed from the window's size",
    r"attention_bias_idxs$": "computed from the grid's size",
}
"""Buffers of PyTorch's modules that are not learned."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A family's form in one library.

    Attributes:
      kind: the library, as messages name it: `timm` or `Hugging Face`.
      model: the class of the family's models.
      recognises: whether a file's arrays are named as this family's.
      fields: the model's fields, told from arrays and `config.json`; raises a `UserError` where nothing tells them.
      completed: fields that arrays tell only together with those and the caller's, and with the image size that they
        were learned for, where that is known; and notes of what was assumed.
      table: the names of a model's arrays.
      trunk: pattern of names that must all be known: what stands there and is unknown would change the outputs.
      size: an image size, height and width, that a model with these fields takes; parameters are shaped for it.
      usual_size: that of the published models' images, where nothing tells it.
      fixed_size: whether parameters belong to that size alone, and are resized for another.
      told_size: the image size that the arrays of such a model tell, or None.
      preprocessing: of `config.json`, `preprocessor_config.json` and the image size that they state.
      stated_size, stated_names: what `config.json` says.
      config: `config.json` of weights.
      preprocessor: `preprocessor_config.json` of weights, or None where the library has no such document.
      renamed: arrays of a file under the names, and in the shapes, of the table; older ones among them.
      written: arrays of the table as the library keeps those of a model.
      unused: reasons by patterns of names why arrays of a file are not used.
      notes: what a person should know of a file's arrays, such as what was added to them.
      for_rgb: arrays of the table for images whose channels are red, green, blue, where `preprocessor_config.json` says
        that theirs are others, and what a person should know of that.
      allowed: values that fields may have in this library.
    """

    kind: str
    model: type[nn.Module]
    recognises: Callable[[Arrays], bool]
    fields: Callable[[Arrays, Document], dict[str, object]]
    table: Callable[[nn.Module], list[Entry]]
    trunk: str
    size: Callable[[nn.Module], tuple[int, int]]
    preprocessing: Callable[[Document, Document, tuple[int, int]], Preprocessing]
    stated_size: Callable[[Document], tuple[int, int] | None]
    stated_names: Callable[[Document, int], list[str] | None]
    config: Callable[[Weights], dict[str, object]]
    preprocessor: Callable[[Weights], dict[str, object]] | None = None
    renamed: Callable[[Arrays], dict[str, np.ndarray]] = dict
    written: Callable[[nn.Module, Arrays], dict[str, np.ndarray]] = lambda module, arrays: dict(arrays)
    usual_size: tuple[int, int] = (224, 224)
    fixed_size: bool = False
    completed: Callable[[Arrays, Document, tuple[int, int] | None], tuple[dict[str, object], list[str]]] = (
        lambda arrays, fields, image_size: ({}, [])
    )
    told_size: Callable[[Arrays], tuple[int, int] | None] = lambda arrays: None
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Callable[[Arrays], list[str]] = lambda arrays: []
    for_rgb: Callable[[Arrays, Document], tuple[Arrays, list[str]]] = lambda arrays, preprocessor: (arrays, [])
    allowed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


def read_layout(
    layout: Layout,
    arrays: Arrays,
    config: Document,
    preprocessor: Document,
    source: str,
    image_size: tuple[int, int] | None = None,
    **overrides,
) -> Weights:
    """Returns the weights of a file in a layout.

    Args:
      config, preprocessor: `config.json` and `preprocessor_config.json` from beside it, or empty.
      image_size: that the parameters were learned for, where the caller knows it.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: an array is missing or does not fit, or nothing tells a field.
    """
    notes, (arrays, turned) = layout.notes(arrays), layout.for_rgb(layout.renamed(arrays), preprocessor)
    with understood("config.json"):
        fields = layout.fields(arrays, config)
        image_size = image_size or layout.stated_size(config) or layout.told_size(arrays)
    told = {**fields, **checked_fields(layout.model, overrides)}
    completed, assumptions = layout.completed(arrays, told, image_size)
    name, fields, module = adapted(layout.model, {**fields, **completed}, overrides)
    learned = image_size or layout.size(module)
    found, unknown = read(layout.table(module), arrays, parameter_shapes(module, learned), source)
    buffers, others = buffer_lines(unknown)
    unused = buffers + judged(others, layout.unused, layout.trunk, source)
    seen = layout.preprocessing(
        config, preprocessor, image_size or (learned if layout.fixed_size else layout.usual_size)
    )
    assumed = "no config.json beside it: what names and shapes do not tell is as published models have it"
    return make_weights(
        name,
        fields,
        found,
        learned if layout.fixed_size else seen.size,  # on which the parameters do not depend
        seen,
        source,
        layout.stated_names(config, module.num_classes),
        position_resize="bicubic",
        unused=unused,
        notes=notes + turned + assumptions + ([] if config else [assumed]),
    )


def buffer_lines(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns one line for each kind of buffer among names, and the names of what is none."""
    kinds, others = {}, []
    for name in names:
        reason = next((why for pattern, why in COUNTERS.items() if re.search(pattern, name)), None)
        if reason is None:
            others.append(name)
        else:
            kinds.setdefault(reason, []).append(name)
    more = {reason: f" and {len(found) - 1} more" if len(found) > 1 else "" for reason, found in kinds.items()}
    return [f"{found[0]}{more[reason]} ({reason})" for reason, found in kinds.items()], others


def write_layout(layout: Layout, weights: Weights) -> tuple[dict[str, np.ndarray], dict[str, dict], list[str]]:
    """Returns the arrays of a folder, its JSON documents by name, and what a person should know of them.

    Raises:
      UserError: the library cannot express the model.
    """
    expressible(weights.module, layout.kind, (layout.model,), **layout.allowed)
    arrays = layout.written(weights.module, write(layout.table(weights.module), weights.params, layout.kind))
    documents = {"config.json": layout.config(weights)}
    if layout.preprocessor is not None:
        documents["preprocessor_config.json"] = layout.preprocessor(weights)
    return arrays, documents, []


def batch_norm_entries(theirs: str, ours: str) -> Iterator[Entry]:
    """Yields the entries of a batch norm, running statistics included."""
    yield entry(f"{theirs}.weight", f"{ours}/scale")
    yield entry(f"{theirs}.bias", f"{ours}/bias")
    yield entry(f"{theirs}.running_mean", f"{STATISTICS}{ours}/mean")
    yield entry(f"{theirs}.running_var", f"{STATISTICS}{ours}/var")


def conv_entries(theirs: str, ours: str, bias: bool = True) -> Iterator[Entry]:
    """Yields the entries of a convolution, grouped ones included."""
    yield entry(f"{theirs}.weight", f"{ours}/kernel", Convolution())
    if bias:
        yield entry(f"{theirs}.bias", f"{ours}/bias")


def agreed(stated: Mapping[str, object], **allowed: tuple) -> None:
    """Raises a `UserError` for the first key of `config.json` that asks for what no model here has."""
    for key, values in allowed.items():
        if stated.get(key, values[0]) not in values:
            one_of = " or ".join(repr(value) for value in values)
            raise UserError(f"config.json: {key} {stated[key]!r} is not known here, only {one_of}")


def depths_of(names: Iterable[str], pattern: str) -> tuple[int, ...]:
    """Returns the number of blocks of each stage, whose numbers the pattern's two groups find in names.

    Raises:
      UserError: they find none.
    """
    blocks = {}
    for name in names:
        if match := re.match(pattern, name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    if not blocks:
        raise UserError("the file holds no encoder blocks; it is incomplete or of another architecture")
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


RATIOS = (2.0, 4.0, *(number / parts for parts in (1, 2, 4) for number in range(1, 16 * parts + 1)))
"""What hidden widths are tried to be multiples of, in this order."""


def ratio_of(pairs: Iterable[tuple[int, int]], made: Callable[[int, float], int], stated: object = None) -> float:
    """Returns the number that makes all hidden widths.

    Args:
      pairs: of a width and the hidden one beside it, as arrays tell them.
      made: the hidden width, of a width and the number.
      stated: what `config.json` says, if anything.

    Raises:
      UserError: there is no such number.
    """
    pairs = list(pairs)
    first = () if stated is None else (float(stated),)
    for ratio in (*first, *RATIOS, *(hidden / width for width, hidden in pairs if width)):
        if all(made(width, ratio) == hidden for width, hidden in pairs):
            return ratio
    listed = ", ".join(f"{hidden} beside {width}" for width, hidden in dict.fromkeys(pairs))
    raise UserError(f"no one ratio makes the hidden widths of the file's blocks ({listed})")


def huggingface_document(weights: Weights, kind: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Returns `config.json` of a Hugging Face model.

    Args:
      kind: of the library's classes, such as `ConvNext`.
      fields: what its config has beside what all have.
    """
    names = weights.class_names or [f"LABEL_{i}" for i in range(weights.classes)]
    return {
        "architectures": [f"{kind}ForImageClassification" if weights.classes else f"{kind}Model"],
        "model_type": kind.lower(),
        "num_channels": 3,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "torch_dtype": "float32",
        **fields,
    }
