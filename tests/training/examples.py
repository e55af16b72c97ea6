"""A small experiment, and a few of its steps, that the tests of fine-tuning share."""

from collections.abc import Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from tests.training.conftest import small_config
from vit_jax.config import resolve
from vit_jax.training.experiment import Experiment, build
from vit_jax.training.sharding import batch_sharding, place
from vit_jax.training.state import TrainState


def experiment_of(devices: Sequence[jax.Device] | None = None, **keys) -> Experiment:
    """Returns the small experiment, on one device by default, with the keys `group__key` set.

    Nothing is dropped out, so that steps of models that are built differently can be compared.
    """
    config = small_config()
    config.mesh.data, config.model.dropout = 1, 0.0
    for name, value in keys.items():
        group, key = name.split("__")
        config[group][key] = value
    return build(resolve(config), devices=jax.devices()[:1] if devices is None else devices)


def start(experiment: Experiment) -> TrainState:
    """Returns a first state whose head is not zero, as it otherwise is: else nothing before it has a gradient."""

    def filled(params: dict) -> dict:
        kernel = params["head"]["kernel"]
        values = jax.device_put(0.1 * jax.random.normal(jax.random.key(1), kernel.shape), kernel.sharding)
        return {**params, "head": {**params["head"], "kernel": values}}

    state = experiment.init()
    average = None if state.ema_params is None else filled(state.ema_params)
    return state.replace(params=filled(state.params), ema_params=average)


def steps(experiment: Experiment, count: int) -> tuple[dict, TrainState, list[dict]]:
    """Returns the first parameters, the state after some steps, and the metrics of each."""
    state, batches, metrics = start(experiment), experiment.train_batches(), []
    first = jax.device_get(state.params)
    for position in range(count):
        batch = place(batches(position).batch, batch_sharding(experiment.mesh))
        state, measured = experiment.train_step(state, batch)
        metrics.append(jax.device_get(measured))
    return first, state, metrics


def flat(tree: dict) -> dict[str, np.ndarray]:
    """Returns the arrays by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}
