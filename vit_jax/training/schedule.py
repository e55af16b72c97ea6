"""Learning-rate schedules: a linear warm-up, then cosine, linear, rsqrt or constant."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError


def make_schedule(config: ConfigDict, peak: float, clock: Clock) -> optax.Schedule:
    """Returns step -> learning rate for the `schedule` group of a config.

    Steps are counted from 0. The warm-up rises linearly from 0 at step 0 to `peak` at step `warmup`; cosine and linear
    fall to `end_lr` at step `total_steps`, the one after the last.

    Raises:
      UserError: the name is unknown, or the warm-up is longer than the training.
    """
    warmup = to_steps(config.warmup, clock, "schedule.warmup")
    if warmup > clock.total_steps:
        raise UserError(f"schedule.warmup is {warmup} steps, longer than the training's {clock.total_steps}")
    rest = max(clock.total_steps - warmup, 1)
    if config.name == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.end_lr / peak if peak else 0.0)
    elif config.name == "linear":
        after = optax.linear_schedule(peak, config.end_lr, rest)
    elif config.name == "constant":
        after = optax.constant_schedule(peak)
    elif config.name == "rsqrt":
        timescale = max(to_steps(config.timescale, clock, "schedule.timescale"), 1)

        def after(step):
            return peak / jnp.sqrt(jnp.maximum(1.0, (step + warmup) / timescale))

    else:
        raise UserError(f"schedule.name must be cosine, linear, rsqrt or constant, not {config.name!r}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
