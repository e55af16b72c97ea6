"""The rate at which devices multiply large matrices: the ceiling that a model is measured against."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.layers.types import DTypeLike

SIZES = {"cpu": (1536, 2048)}
"""Rows of the square matrices by platform: large enough for the full rate, small enough to take under a second."""

ACCELERATOR_SIZES = (4096, 8192, 12288)

TRIALS, CALLS = 6, 4


def matmul_rate(dtype: DTypeLike, devices: Sequence[jax.Device], sizes: Sequence[int] | None = None) -> float:
    """Returns the floating-point operations a second of square products on all devices together.

    Operands are of `dtype`, results float32, precision is the default; the left operand contracts its last axis, as in
    all of this package's layers. The best of several sizes and trials, as it is a ceiling.

    Args:
      sizes: rows of the matrices; by default such as suit the platform.
    """
    sizes = SIZES.get(devices[0].platform, ACCELERATOR_SIZES) if sizes is None else sizes
    return max(_best(jnp.dtype(dtype), devices, size) for size in sizes)


def _best(dtype: np.dtype, devices: Sequence[jax.Device], size: int) -> float:
    """Each device multiplies matrices of its own: the left one is split by rows."""
    mesh = Mesh(np.array(devices), ("device",))
    rows, whole = NamedSharding(mesh, PartitionSpec("device")), NamedSharding(mesh, PartitionSpec())

    def operand(shape: tuple[int, int], layout: NamedSharding) -> jax.Array:
        return jax.jit(lambda: jax.random.uniform(jax.random.key(0), shape).astype(dtype), out_shardings=layout)()

    left, right = operand((len(devices) * size, size), rows), operand((size, size), whole)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32), out_shardings=rows)
    jax.block_until_ready(product(left, right))
    best = float("inf")
    for _ in range(TRIALS):
        begun = time.perf_counter()
        for _ in range(CALLS):
            result = product(left, right)
        jax.block_until_ready(result)
        best = min(best, (time.perf_counter() - begun) / CALLS)
    return 2.0 * size**3 * len(devices) / best
