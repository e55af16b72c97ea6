"""The training state."""

import jax
from flax import struct


def initial_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the key of the initial values, and the one that the state keeps."""
    params_key, state_key = jax.random.split(jax.random.key(seed))
    return params_key, state_key


def step_key(state_key: jax.Array, step: int | jax.Array) -> jax.Array:
    """Returns the key of one step."""
    return jax.random.fold_in(state_key, step)


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes, and that a checkpoint holds.

    Attributes:
      step: int32 scalar, steps taken.
      batch_stats: running statistics of models with batch normalisation, else empty.
      ema_params: average of the parameters, or None where none is kept.
      ema_batch_stats: average of the running statistics, or None where none is kept.
      rng: key data, uint32 `[2]`; the step's own key is folded from it and `step`.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: tuple
    ema_params: dict | None
    ema_batch_stats: dict | None
    rng: jax.Array

    @property
    def key(self) -> jax.Array:
        """The key of this step."""
        return step_key(jax.random.wrap_key_data(self.rng), self.step)

    @property
    def evaluated(self) -> dict:
        """The variables that evaluation uses: the averages where they are kept."""
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}
