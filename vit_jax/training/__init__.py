"""Training: state, step, loop, optimizers and schedules, sharding, checkpoints, metrics."""
