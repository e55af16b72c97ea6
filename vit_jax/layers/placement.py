"""Where activations lie while a model runs on several devices."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jaxtyping import Array, Float

_BATCH: contextvars.ContextVar[jax.sharding.Sharding | None] = contextvars.ContextVar("batch", default=None)


@contextlib.contextmanager
def batch_laid_out(layout: jax.sharding.Sharding) -> Iterator[None]:
    """While a function is traced in it, `over_batch` holds activations in this layout of the batch axis."""
    token = _BATCH.set(layout)
    try:
        yield
    finally:
        _BATCH.reset(token)


def over_batch(x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Returns activations, split over the devices as the batch is, every other axis whole on each of them.

    Without it XLA is free to let the layout of sharded parameters spread: it then splits the channels, keeps the whole
    batch on every device, and sums or gathers activations in every layer, which are many times larger than the
    parameters. Held like this, parameters are gathered where they are used (Rajbhandari et al. 2020, ZeRO stage 3).
    Outside of `batch_laid_out` it does nothing.
    """
    layout = _BATCH.get()
    return x if layout is None else jax.lax.with_sharding_constraint(x, layout)
