"""Low-rank adaptation (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models").

A kernel W stays as it is, and W + (alpha / rank) a b takes its place, of which only a and b are trained. The factors
are parameters like any other, under the name of their kernel: `lora/encoder/block_0/attention/query/a`.
`vit_jax.models.lora.merge` forms the sums, inside the jitted step as in every export, so no layer knows of them and
every architecture can be adapted.

What that costs: the backward pass forms the gradient of each whole kernel before those of its factors, so a step takes
about the FLOPs of full fine-tuning, and while it runs the memory of such gradients. Each micro-batch forms the sums and
their gradients anew, 6 * rank FLOPs for each scalar of a kernel: little beside a batch of images. What it saves is the
optimizer's state, which is that of the factors and the head alone. An average of the parameters (`train.ema_decay`)
averages the factors, not their products.
"""

import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vit_jax.config import default_config
from vit_jax.errors import UserError
from vit_jax.models.lora import LORA
from vit_jax.training.frozen import matching, some
from vit_jax.training.optimizer import input_axes


def lora_scale(config: ConfigDict) -> float:
    """Returns alpha / rank, or 0.0 where LoRA is off."""
    return config.lora.alpha / config.lora.rank if config.lora.rank else 0.0


def with_lora(key: jax.Array, params: dict, config: ConfigDict) -> dict:
    """Returns parameters with the factors that a config asks for, under `lora`; without LoRA the parameters themselves.

    A kernel of several axes is factored as the matrix that it stands for: `[*inputs, *outputs]` into
    a `[*inputs, rank]` and b `[rank, *outputs]`. a is normal with variance 1 / inputs, b is zero, so the start equals
    the base exactly. They have the kernel's type. As their names do not end in `kernel`, weight decay, which would draw
    the model back to its base, leaves them alone.

    Raises:
      UserError: `lora.targets` is no regular expression or matches no kernel, or keys of LoRA are set while it is off.
    """
    rank = config.lora.rank
    if not rank:
        unused = [key for key, default in default_config().lora.items() if config.lora[key] != default]
        if unused:
            raise UserError(f"lora.{unused[0]} is set to {config.lora[unused[0]]!r}, but lora.rank is 0: LoRA is off")
        return params
    flat = flatten_dict(params, sep="/")
    kernels = [name for name in flat if name.endswith("/kernel")]
    targets = sorted(matching("lora.targets", config.lora.targets, kernels))
    if not targets:
        raise UserError(f"lora.targets {config.lora.targets!r} matches no kernel; they are called {some(kernels)}")
    factors = {}
    for i, name in enumerate(targets):
        kernel = flat[name]
        split = input_axes(name, kernel.ndim)
        inputs, outputs = kernel.shape[:split], kernel.shape[split:]
        a = jax.random.normal(jax.random.fold_in(key, i), (*inputs, rank), kernel.dtype) * math.prod(inputs) ** -0.5
        factors[name.removesuffix("kernel") + "a"] = a
        factors[name.removesuffix("kernel") + "b"] = jnp.zeros((rank, *outputs), kernel.dtype)
    return {**params, LORA: unflatten_dict(factors, sep="/")}
