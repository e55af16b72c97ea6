"""FlexiViT in the training step: each step draws one patch size, and is the step of a model of that size."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.training.examples import experiment_of, flat, start
from vit_jax.errors import UserError
from vit_jax.training.experiment import Experiment
from vit_jax.training.sharding import batch_sharding, place

KEYS = {"model__patch_embed": "flexible", "model__patch_base": (4, 4), "augment__mixup": 0.0}


def experiment(*sizes: int, **keys) -> Experiment:
    return experiment_of(**KEYS, model__patch_sizes=sizes, model__patch_size=(sizes[0],) * 2, **keys)


def taken(experiment: Experiment, numbers: range) -> list[tuple[float, dict]]:
    """Returns loss and new parameters of single steps of these numbers, all from the same start and batch."""
    state = start(experiment)
    batch = place(experiment.train_batches()(0).batch, batch_sharding(experiment.mesh))
    step = jax.jit(experiment.train_step.__wrapped__)
    quick = step.lower(state, batch).compile(compiler_options={"xla_backend_optimization_level": 0})
    results = []
    for number in numbers:
        after, metrics = quick(dataclasses.replace(state, step=state.step + number), batch)
        results.append((float(metrics["loss"]), flat(after.params)))
    return results


def test_each_step_is_that_of_one_size_and_all_sizes_come_up():
    numbers = range(6)
    drawn = taken(experiment(2, 4), numbers)
    alone = {size: taken(experiment(size), numbers) for size in (2, 4)}
    found = []
    for i, (loss, params) in enumerate(drawn):
        losses = {size: results[i][0] for size, results in alone.items()}
        assert abs(losses[2] - losses[4]) > 1e-3
        (size,) = (size for size, other in losses.items() if abs(loss - other) < 1e-5)
        for name, array in alone[size][i][1].items():
            np.testing.assert_allclose(params[name], array, rtol=1e-4, atol=1e-5)
        found.append(size)
    assert set(found) == {2, 4}


def test_a_size_that_does_not_divide_the_images_is_an_error_before_training():
    with pytest.raises(UserError, match="on 8x8 images: image height 8 is not a multiple of patch height 3"):
        experiment(2, 3)
