"""Models with batch norms through the training step: the statistics are those of the whole batch on any devices."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.training.examples import start
from vit_jax.config import default_config, resolve
from vit_jax.training.experiment import build
from vit_jax.training.sharding import batch_sharding, place

TRANSFORMER = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 12}

FIELDS = {
    "mobilevit": {
        "depths": (1, 2),
        "widths": (8, 8),
        "transformer_depths": (0, 1),
        "transformer_widths": (0, 8),
        "heads": 2,
        "stem_width": 8,
        "last_width": 8,
    },
    "efficientformer": {
        "depths": (1, 1),
        "widths": (8, 8),
        "heads": 2,
        "head_dim": 4,
        "value_dim": 8,
        "layer_scale": 0.5,
    },
    "conv_stem": {"name": "vit", "patch_embed": "conv_stem", "patch_size": 2, **TRANSFORMER},
    "hybrid": {
        "name": "vit",
        "patch_embed": "hybrid",
        "resnet": "resnet18_cifar",
        "resnet_stage": 2,
        "patch_size": 4,
        **TRANSFORMER,
    },
}


def stepped(name: str, devices: int) -> tuple[float, dict]:
    """Returns the loss of a step of a small model on digits, and the running statistics after it."""
    config = default_config()
    config.model.drop_path = 0.2
    config.model.update({"name": name, **FIELDS[name]})
    config.train.duration, config.train.batch_size = "2 steps", 16
    config.schedule.warmup = "0 steps"
    config.mesh.data = devices
    experiment = build(resolve(config), devices=jax.devices()[:devices])
    state = start(experiment)
    batch = place(experiment.train_batches()(0).batch, batch_sharding(experiment.mesh))
    step = experiment.train_step.lower(state, batch).compile(compiler_options={"xla_backend_optimization_level": 0})
    state, metrics = step(state, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))
    return float(metrics["loss"]), jax.device_get(state.batch_stats)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_one_and_eight_devices_take_the_same_step(name):
    (alone, statistics), (together, others) = (stepped(name, devices) for devices in (1, 8))
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), statistics, others)
    means = [leaf for path, leaf in flatten_dict(statistics).items() if path[-1] == "mean"]
    assert min(np.abs(mean).max() for mean in means) > 0  # all have moved
