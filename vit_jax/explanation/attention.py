"""The attention weights of every layer, formed again where training and inference never form them."""

import re

import flax.linen as nn
import flax.traverse_util
from jaxtyping import Array, Float

from vit_jax.layers.attention import ATTENTION


def attention_maps(
    module: nn.Module, variables: dict, images: Float[Array, "batch height width 3"]
) -> list[Float[Array, "batch heads queries keys"]]:
    """Returns the attention weights of each encoder block, first to last, float32; each row sums to 1.

    Where attention is in windows, the first axis is that of the windows of all images: those of the first, row by row
    of the map, then those of the second. Those of blocks whose windows are shifted belong to a rolled map.

    Raises:
      ValueError: the model has no attention.
    """
    _, sown = module.apply(variables, images, mutable=[ATTENTION])
    named = flax.traverse_util.flatten_dict(sown.get(ATTENTION, {}), sep="/")
    numbers = {name: tuple(map(int, re.findall(r"(?:stage|block)_(\d+)/", name))) for name in named}
    blocks = {numbers[name]: array for name, array in named.items() if numbers[name]}
    if not blocks:
        raise ValueError(f"a {type(module).__name__} has no attention")
    return [blocks[i] for i in sorted(blocks)]
