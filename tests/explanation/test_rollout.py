import numpy as np
import pytest

from tests.explanation.examples import random_attention
from vit_jax.errors import UserError
from vit_jax.explanation.rollout import discarded, fused, rollout

MAPS = [random_attention(2, 3, 6, 6, seed=i) for i in range(4)]


def plain_rollout(maps, fusion, ratio):
    """Attention rollout in ten lines of NumPy, image by image."""
    images = []
    for image in zip(*maps, strict=True):
        total, each = np.eye(6), []
        for heads in image:
            step = getattr(np, fusion)(heads.astype(np.float64), axis=0)
            for place in np.argsort(step, axis=None)[: int(ratio * step.size)]:
                step[np.unravel_index(place, step.shape)] = 0
            step = 0.5 * step + 0.5 * np.eye(6)
            total = step / step.sum(1, keepdims=True) @ total
            each.append(total)
        images.append(each)
    return np.swapaxes(images, 0, 1)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.7])
def test_is_the_product_of_the_layers_with_their_residuals(fusion, ratio):
    found = rollout(MAPS, fusion, ratio)
    np.testing.assert_allclose(found, plain_rollout(MAPS, fusion, ratio), atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_fusions_differ():
    assert np.abs(rollout(MAPS, "max") - rollout(MAPS, "min")).max() > 0.01


def test_uniform_attention_ends_uniform_but_for_each_token_itself():
    uniform = [np.full((1, 2, 5, 5), 0.2, np.float32)] * 3
    last = np.asarray(rollout(uniform)[-1][0])
    np.testing.assert_allclose(last, (1 - 0.5**3) / 5 + 0.5**3 * np.eye(5), atol=1e-6)


def test_exactly_a_share_is_discarded_even_of_equal_weights():
    kept = np.asarray(discarded(np.full((2, 4, 4), 0.25, np.float32), 0.5))
    assert [(image > 0).sum() for image in kept] == [8, 8]


def test_what_cannot_be_asked_for():
    with pytest.raises(UserError, match="heads are fused by mean, max, min, not 'sum'"):
        fused(MAPS[0], "sum")
    for ratio in (1.0, -0.1):
        with pytest.raises(UserError, match="from 0 to less than 1"):
            rollout(MAPS, discard_ratio=ratio)
