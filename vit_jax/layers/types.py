"""Types that the layers share."""

from collections.abc import Callable
from typing import Any

import jax

DTypeLike = Any
"""What `jnp.dtype` takes: a dtype, a scalar type, or a name such as "bfloat16"."""

Initializer = Callable[..., jax.Array]
"""`(key, shape, dtype) -> array`."""
