"""What the attention of a model takes, as its kind tells it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.layers.attention_kind import Cost


def attention_cost(model: nn.Module, variables, image_size: tuple[int, int]) -> Cost | None:
    """Returns the cost of the attention of all blocks for one image, or None where no kind of attention tells it.

    Args:
      variables: of the model, maybe abstract.
      image_size: height and width in pixels.
    """
    if not hasattr(model, "attention_kind"):
        return None
    tokens = functools.partial(model.apply, train=False, method="placed_tokens")
    layout = jax.eval_shape(tokens, variables, jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)).layout
    grid = layout.grid if layout.places is None else (1, layout.places.shape[1])  # then grids are not needed
    one = model.attention_kind.cost(grid, layout.prefix, model.heads, model.width // model.heads)
    return Cost(one.flops * model.depth, one.largest)


def attention_lines(model: nn.Module, variables, image_size: tuple[int, int]) -> list[str]:
    """Returns a line about the attention of a model, where it has one that tells."""
    cost = attention_cost(model, variables, image_size)
    if cost is None:
        return []
    megabytes = cost.largest * jnp.dtype(jnp.float32).itemsize / 1e6
    return [
        f"attention {model.attention!r}: {cost.flops / 1e9:,.3g} GFLOP an image in scores and mixing, forward; its "
        f"largest array takes {megabytes:,.3g} MB an image in float32"
    ]
