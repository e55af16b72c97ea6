"""The attention weights of every layer, formed again where training and inference never form them."""

import re
from collections.abc import Mapping

import flax.linen as nn
import flax.traverse_util
from jaxtyping import Array, Float

from vit_jax.layers.attention import ATTENTION

NUMBERED = re.compile(r"(?:stage|block|layer)_(\d+)/")
"""What numbers a layer, in the names under which its weights are sown."""

Sown = Mapping[str, Float[Array, "groups heads queries keys"]]


def attention_maps(
    module: nn.Module, variables: dict, images: Float[Array, "batch height width 3"]
) -> list[Float[Array, "batch heads queries keys"]]:
    """Returns the attention weights of each encoder block, first to last, float32; each row sums to 1.

    Where attention is in windows, the first axis is that of the windows of all images: those of the first, row by row
    of the map, then those of the second. Those of blocks whose windows are shifted belong to a rolled map.
    `vit_jax.explanation.placement` lays them back onto the image.

    Raises:
      ValueError: the model has no attention.
    """
    _, sown = module.apply(variables, images, mutable=[ATTENTION])
    by_name = in_order(sown.get(ATTENTION, {}))
    blocks = [weights for name, weights in by_name.items() if number_of(name)]
    if not blocks:
        raise ValueError(f"a {type(module).__name__} has no attention")
    return blocks


def in_order(sown: dict) -> Sown:
    """Returns what was sown by the names of the layers, first to last, attention pooling after all blocks.

    A name is the place of a block in the network: `block_3`, `stage_1/block_0`, `stage_2/block_1/layer_0`, or
    `map_pool`.
    """
    named = flax.traverse_util.flatten_dict(sown, sep="/")
    order = sorted(named, key=lambda name: (not number_of(name), number_of(name)))
    return {layer_name(name): named[name] for name in order}


def number_of(name: str) -> tuple[int, ...]:
    """Returns the numbers of a block, outermost first; none of attention that pools."""
    return tuple(map(int, NUMBERED.findall(f"{name}/")))


def layer_name(name: str) -> str:
    """Returns the name of a layer: that of its variables without what all have in common."""
    parts = [part for part in name.split("/") if part not in ("encoder", "transformer", "attention", "weights")]
    return "/".join(parts)
