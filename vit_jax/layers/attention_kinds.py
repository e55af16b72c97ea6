"""The kinds of attention by name, and which of their options and positions go together."""

import dataclasses
import typing

from vit_jax.layers.attention_kind import Full, TopK
from vit_jax.layers.attention_linear import Linear, Performer
from vit_jax.layers.attention_windows import Axial, Local, Sparse

if typing.TYPE_CHECKING:
    from vit_jax.models.vit import VisionTransformer

KINDS = {
    "full": Full,
    "relative": Full,
    "local": Local,
    "axial": Axial,
    "sparse": Sparse,
    "topk": TopK,
    "linear": Linear,
    "performer": Performer,
}
"""The values of `attention`; `relative` is full attention with a table of relative positions in each block."""

OPTIONS = {
    "attention_window": "window",
    "attention_shift": "shift",
    "attention_stride": "stride",
    "attention_topk": "k",
    "attention_features": "features_count",
}
"""Fields of a model, and what they are to the kinds that have them."""


def attention_kind(name: str, position: str, options: dict[str, int | bool | None]) -> Full:
    """Returns the kind of attention of that name, with positions that are part of it.

    Args:
      position: `rope2d` and `relative` are of the attention; others leave it alone.
      options: values of the fields of `OPTIONS`; None and False for what is left open.

    Raises:
      ValueError: an option is not of this kind, or has no sense, or the positions do not go with it.
    """
    kind = KINDS[name]
    known = {field.name for field in dataclasses.fields(kind)}
    given = {}
    for option, value in options.items():
        if value is None or value is False:
            continue
        if OPTIONS[option] not in known:
            having = [other for other, of in KINDS.items() if OPTIONS[option] in of.__dataclass_fields__]
            raise ValueError(f"{option} is an option of attention {' and '.join(having)}, not of {name!r}")
        if value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")
        given[OPTIONS[option]] = value
    relative = "relative" in (name, position)
    if relative and not kind.has_scores:
        raise ValueError(f"position 'relative' is added to scores, which attention {name!r} does not form")
    return kind(relative=relative, rotary=position == "rope2d", **given)


def check_attention(model: "VisionTransformer") -> None:
    """Raises a `ValueError` for fields of a model that do not go with its kind of attention and its positions."""
    name, kind = model.attention, model.attention_kind
    if model.attention_dropout and not kind.has_scores:
        raise ValueError(f"attention_dropout drops weights, which attention {name!r} does not form: it must be 0")
    if model.merge_tokens and kind.placed:
        of_kind = kind.needs_grid or name == "relative"
        what = f"attention {name!r}" if of_kind else f"position {model.position!r}"
        raise ValueError(f"merged tokens stand nowhere, but {what} goes by places: merge_tokens must be 0")
    if model.attention_kernel == "cudnn" and (kind.relative or type(kind) is not Full):
        what = f"attention {name!r}" if name != "full" else f"position {model.position!r}"
        raise ValueError(f"attention_kernel 'cudnn' is of plain full attention: it cannot do {what}")
    if kind.rotary and model.width // model.heads % 4:
        raise ValueError(
            "position 'rope2d' turns pairs of channels by row and by column: the channels of a head must be a multiple "
            f"of 4, not {model.width // model.heads}"
        )
