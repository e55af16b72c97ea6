"""Class-specific relevance: its rule against plain loops, and its gradients against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures, random_attention
from vit_jax.explanation import heat_maps
from vit_jax.explanation.attention import in_order
from vit_jax.explanation.gradients import attention_gradients, of_classes, plain
from vit_jax.explanation.observation import Observation, sown_weights
from vit_jax.explanation.relevance import relevance, weighted
from vit_jax.layers.attention import ADDED

WEIGHTS = [random_attention(2, 3, 5, 5, seed=i) for i in range(3)]
GRADIENTS = [np.random.default_rng(i).normal(size=(2, 3, 5, 5)).astype(np.float32) for i in range(3)]


def test_is_the_rule_of_the_paper_written_out():
    found = relevance(WEIGHTS, GRADIENTS)
    for image in range(2):
        total = np.eye(5)
        for layer in range(3):
            step = np.zeros((5, 5))
            for head in range(3):
                step += np.maximum(WEIGHTS[layer][image, head] * GRADIENTS[layer][image, head], 0) / 3
            total = total + step @ total
            np.testing.assert_allclose(found[layer, image], total, rtol=1e-5)


def test_what_speaks_against_the_class_does_not_count():
    assert not np.asarray(weighted(WEIGHTS[0], -np.ones_like(WEIGHTS[0]))).any()


def observed(family, **fields):
    model = loaded(family, **fields)
    return Observation(model, model.preprocessing.normalised(pictures(model)), np.array([1, 3]))


@functools.partial(jax.jit, static_argnames="module")
def total_logit(module, variables, x, classes, added):
    """Returns the sum of the classes' logits with arrays added to the attention weights."""
    return of_classes(module.apply({**variables, ADDED: added}, x), classes).sum()


@pytest.mark.parametrize(
    ("family", "fields"),
    [("vit", {"pool": "map"}), ("vit", {"registers": 2}), ("beit", {}), ("swin", {}), ("mobilevit", {})],
)
def test_gradients_by_the_weights_are_those_of_finite_differences(family, fields):
    """Each layer's weights are moved along a random direction, the others left as they are."""
    seen = observed(family, **fields)
    given = seen.module, seen.variables, jnp.asarray(seen.x), jnp.asarray(seen.classes)
    leaves, structure = jax.tree.flatten(sown_weights(*given[:3]))
    names = in_order(structure.unflatten(range(len(leaves))))
    by_weights = attention_gradients(*given).by_weights
    assert list(by_weights) == list(names)
    zeros = [np.zeros(leaf.shape, np.float32) for leaf in leaves]
    np.testing.assert_allclose(
        total_logit(*given, structure.unflatten(zeros)), seen.logits[[0, 1], [1, 3]].sum(), rtol=1e-5
    )
    generator = np.random.default_rng(0)
    for name, index in names.items():
        direction = generator.normal(size=leaves[index].shape).astype(np.float32)

        def moved(step, index=index, direction=direction):
            added = [step * direction if i == index else zero for i, zero in enumerate(zeros)]
            return float(total_logit(*given, structure.unflatten(added)))

        slope = (moved(0.01) - moved(-0.01)) / 0.02
        expected = float((by_weights[name] * direction).sum())
        assert abs(expected) > 1e-3, name
        assert abs(slope - expected) <= 0.02 * abs(expected) + 2e-3, name


@pytest.mark.parametrize("fields", [{"scan_layers": True, "remat": "full", "fused_qkv": True}])
def test_options_change_no_gradient(fields):
    expected = observed("vit").gradient_layers
    found = observed("vit", **fields).gradient_layers
    assert list(found) == list(expected) == ["block_0", "block_1"]
    for name, layer in found.items():
        np.testing.assert_allclose(layer.weights, expected[name].weights, atol=1e-5)


def relevance_by_hand(seen):
    last = np.asarray(
        relevance([layer.weights[:, 0] for layer in seen.blocks], [g.weights[:, 0] for g in gradients(seen)])
    )
    return last[-1]


def gradients(seen):
    return [layer for name, layer in seen.gradient_layers.items() if name != "map_pool"]


@pytest.mark.parametrize(
    ("family", "fields", "rows"),
    [("vit", {}, [0]), ("vit_distilled", {}, [0, 1]), ("vit", {"pool": "gap", "registers": 1}, range(1, 7))],
)
def test_the_map_is_the_rows_of_what_the_model_reads(family, fields, rows):
    seen = observed(family, **fields)
    whole = relevance_by_hand(seen) - np.eye(seen.maps[0].shape[-1])
    expected = whole[:, list(rows)].mean(1)[:, -6:].reshape(2, 2, 3)
    model = loaded(family, **fields)
    found = heat_maps(model, pictures(model), "relevance", ["class 1", 3])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert (found >= 0).all()
    assert np.ptp(found) > 0


def test_a_probe_weighs_the_rows_by_its_own_relevance():
    seen = observed("vit", pool="map")
    probe = weighted(seen.layers["map_pool"].weights[:, 0], seen.gradient_layers["map_pool"].weights[:, 0])[:, 0]
    expected = np.einsum("bq,bqk->bk", probe, relevance_by_hand(seen)).reshape(2, 2, 3)
    model = loaded("vit", pool="map")
    np.testing.assert_allclose(heat_maps(model, pictures(model), "relevance", [1, 3]), expected, rtol=1e-4, atol=1e-7)


def test_the_class_matters():
    model = loaded("vit")
    one, other = (heat_maps(model, pictures(model), "relevance", number) for number in (0, 4))
    assert np.abs(one - other).max() > 0.1 * np.abs(one).max()


def test_blocks_run_as_a_plain_loop():
    module = plain(loaded("vit", scan_layers=True, remat="dots").module)
    assert (module.scan_layers, module.remat) == (False, "none")
    assert plain(loaded("convnext").module).remat == "none"
