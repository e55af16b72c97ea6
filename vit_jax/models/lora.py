"""Low-rank factors beside the parameters of a model, and their sum (Hu et al. 2022)."""

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

LORA = "lora"
"""The key of the parameters under which all factors are."""


def merge(params: dict, scale: float) -> dict:
    """Returns the parameters of the bare model: each adapted kernel as W + scale * a b, and no factors.

    Pure, and differentiable in all. Parameters without factors are returned as they are. The products are taken in
    float32 on every device, so that an export equals what was trained.

    Args:
      scale: `lora_scale` of the config that the parameters were trained with.

    Raises:
      ValueError: there are factors, but the scale is 0: that of a config without LoRA.
    """
    if LORA not in params:
        return params
    if scale == 0:
        raise ValueError("the parameters hold LoRA's factors, but the config has lora.rank 0, and so no scale for them")
    flat = flatten_dict({name: part for name, part in params.items() if name != LORA}, sep="/")
    factors = flatten_dict(params[LORA], sep="/")
    for name in [name.removesuffix("/a") for name in factors if name.endswith("/a")]:
        kernel, a, b = flat[f"{name}/kernel"], factors[f"{name}/a"], factors[f"{name}/b"]
        product = jnp.tensordot(a, b, axes=1, precision="highest", preferred_element_type=jnp.float32)
        flat[f"{name}/kernel"] = kernel + (scale * product).astype(kernel.dtype)
    return unflatten_dict(flat, sep="/")
