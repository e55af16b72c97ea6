"""Batch normalisation."""

import flax.linen as nn
from jaxtyping import Array, Float


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015), with PyTorch's momentum and epsilon.

    In training the statistics are those of the whole global batch: under `jit` a mean over the batch axis is one over
    all devices, so they are synchronised over the mesh. Running statistics are in the collection `batch_stats`, which
    the caller makes mutable in training. Statistics are float32; the result is of the compute type.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def __call__(self, x: Float[Array, "batch ... channels"], train: bool) -> Float[Array, "batch ... channels"]:
        """Normalises by the batch's statistics in training, else by the running ones."""
        return super().__call__(x, use_running_average=not train)
