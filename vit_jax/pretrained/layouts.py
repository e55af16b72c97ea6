"""All layouts, and which of them a file or a model has."""

import flax.linen as nn

from vit_jax.pretrained import beit, convnext, efficientformer, mobilevit, resnet, swin
from vit_jax.pretrained.layout import Arrays, Layout

LAYOUTS: tuple[Layout, ...] = (
    convnext.TIMM,
    convnext.HUGGINGFACE,
    resnet.TIMM,
    resnet.HUGGINGFACE,
    swin.TIMM,
    swin.HUGGINGFACE,
    beit.TIMM,
    beit.HUGGINGFACE,
    mobilevit.TIMM,
    mobilevit.HUGGINGFACE,
    efficientformer.TIMM,
)


def layout_of_arrays(arrays: Arrays) -> Layout | None:
    """Returns the layout as which arrays are named, or None."""
    return next((layout for layout in LAYOUTS if layout.recognises(arrays)), None)


def layout_of_model(module: nn.Module, kind: str) -> Layout | None:
    """Returns the layout of a model in a library (`timm`, `Hugging Face`), or None where it has none there."""
    return next((layout for layout in LAYOUTS if type(module) is layout.model and layout.kind == kind), None)
