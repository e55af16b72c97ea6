"""A class's logit, and its gradients by attention weights and by what layers give."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit_jax.explanation.attention import in_order
from vit_jax.layers.attention import ADDED, ATTENTION

Tap = tuple[tuple[str, ...], str]
"""A module's path and one of its methods: `(("encoder", "block_3"), "__call__")`."""


class Gradients(NamedTuple):
    """Attention weights, and the gradients of the classes' logits by them.

    Attributes:
      weights: by name of the layer, as `vit_jax.explanation.attention.in_order` gives them.
      by_weights: their gradients, of the same shapes.
    """

    weights: dict[str, Float[Array, "groups heads queries keys"]]
    by_weights: dict[str, Float[Array, "groups heads queries keys"]]


def attention_gradients(
    module: nn.Module,
    variables: dict,
    images: Float[Array, "batch height width 3"],
    classes: Int[Array, "batch"],
) -> Gradients:
    """Returns the gradients of each image's logit of a class by all attention weights.

    A weight's gradient is that by a number added to it, after the softmax; the other weights stay as they are.
    """
    weights, by_weights = _attention_gradients(plain(module), variables, images, classes)
    return Gradients(in_order(weights), in_order(by_weights))


@functools.partial(jax.jit, static_argnames="module")
def _attention_gradients(module, variables, images, classes):
    """Returns both as they are sown: the order of a dictionary does not survive compilation."""

    def total(added):
        given = {ADDED: added} if added else {}
        logits, sown = module.apply({**variables, **given}, images, mutable=[ATTENTION])
        return of_classes(logits, classes).sum(), sown.get(ATTENTION, {})

    shapes = jax.eval_shape(lambda: total({})[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    by_weights, weights = jax.grad(total, has_aux=True)(zeros)
    return weights, by_weights


@functools.partial(jax.jit, static_argnames=("module", "tap"))
def layer_gradients(
    module: nn.Module,
    variables: dict,
    images: Float[Array, "batch height width 3"],
    classes: Int[Array, "batch"],
    tap: Tap,
) -> tuple[Float[Array, "batch ... width"], Float[Array, "batch ... width"]]:
    """Returns what a layer gives, and the gradients of each image's logit of a class by it."""
    module = plain(module)

    def total(delta):
        with tapped(tap, delta) as values:
            logits = module.apply(variables, images)
        return of_classes(logits, classes).sum(), values[0]

    _, values = jax.eval_shape(lambda: total(None))
    by_values, values = jax.grad(total, has_aux=True)(jnp.zeros(values.shape, values.dtype))
    return values, by_values


def of_classes(logits: Float[Array, "batch classes"], classes: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """Returns each image's logit of its class."""
    return jnp.take_along_axis(logits.astype(jnp.float32), classes[:, None], axis=1)[:, 0]


def plain(module: nn.Module) -> nn.Module:
    """Returns the same model with its blocks run as a plain loop, each under its own name."""
    fields = {"scan_layers": False, "remat": "none"}
    return module.clone(**{name: value for name, value in fields.items() if hasattr(module, name)})


@functools.partial(jax.jit, static_argnames=("module", "tap"))
def layer_values(
    module: nn.Module, variables: dict, images: Float[Array, "batch height width 3"], tap: Tap
) -> Float[Array, "batch ... width"]:
    """Returns what a layer gives."""
    with tapped(tap, None) as values:
        plain(module).apply(variables, images)
    return values[0]


@contextlib.contextmanager
def tapped(tap: Tap, delta: Array | None) -> Iterator[list[Array]]:
    """Within it, `delta`, if there is any, is added to what a module's method gives, which is put in the list.

    Of tokens in a structure those are meant. A method that calls that of its base class counts once.
    """
    values: list[Array] = []
    within = False

    def add(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        nonlocal within
        if within or (context.module.path, context.method_name) != tap:
            return call(*args, **kwargs)
        within = True
        given = call(*args, **kwargs)
        within = False
        x = getattr(given, "tokens", given)
        values.append(x)
        if delta is None:
            return given
        if x is given:
            return x + delta
        replace = getattr(given, "_replace", None) or given.replace
        return replace(tokens=x + delta)

    with nn.intercept_methods(add):
        yield values
