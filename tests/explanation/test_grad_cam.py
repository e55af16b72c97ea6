import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures
from vit_jax.errors import UserError
from vit_jax.explanation import feature_maps, heat_maps
from vit_jax.explanation.gradients import layer_gradients, tapped


def by_definition(model, features, classify):
    """Returns the ReLU of the channels weighted by their mean gradients, from the rest of the network alone."""

    def logit(features):
        return model.module.apply(model.variables, features, method=classify)[:, 2].sum()

    gradients = jax.jit(jax.grad(logit))(jnp.asarray(features))
    weights = np.asarray(gradients).mean((1, 2))
    return np.maximum(np.einsum("brcw,bw->brc", features, weights), 0)


def test_of_a_convolutional_network():
    model = loaded("convnext")
    features = feature_maps(model, pictures(model))
    assert features.shape == (2, 2, 3, 12)
    expected = by_definition(model, features, lambda module, x: module.head_dense(module.pooled(module.last(x))))
    found = heat_maps(model, pictures(model), "grad_cam", "class 2")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found.max() > 0


def test_of_tokens_that_are_averaged():
    model = loaded("vit", pool="gap", registers=1)
    features = feature_maps(model, pictures(model))
    assert features.shape == (2, 2, 3, 16)

    def classify(module, x):
        return module.head_dense(module.norm(x.reshape(2, 6, 16)).mean(1))

    np.testing.assert_allclose(
        heat_maps(model, pictures(model), "grad_cam", 2), by_definition(model, features, classify), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("family", ["vit", "vit_distilled", "beit", "mixer", "swin", "mobilevit", "efficientformer"])
def test_of_every_family(family):
    model = loaded(family)
    found = heat_maps(model, pictures(model), "grad_cam", 2)
    assert found.shape[0] == 2
    assert np.isfinite(found).all()
    assert (found >= 0).all()


def test_a_block_that_calls_its_base_class_counts_once():
    """The gradient by a BEiT block's tokens against finite differences of what comes after it."""
    model = loaded("beit")
    x = jnp.asarray(model.preprocessing.normalised(pictures(model)))
    tap = (("encoder", "block_0"), "__call__")
    values, gradients = layer_gradients(model.module, model.variables, x, jnp.array([1, 1]), tap)
    direction = np.random.default_rng(0).normal(size=values.shape).astype(np.float32)

    def moved(step):
        with tapped(tap, step * direction) as found:
            logits = model.module.apply(model.variables, x)
        assert len(found) == 1
        return float(logits[:, 1].sum())

    slope = (moved(0.01) - moved(-0.01)) / 0.02
    np.testing.assert_allclose(float((gradients * direction).sum()), slope, rtol=0.02, atol=2e-3)


def test_the_last_block_of_a_model_that_reads_its_cls_token():
    model = loaded("vit")
    image = pictures(model)
    np.testing.assert_array_equal(
        heat_maps(model, image, "grad_cam", 1), heat_maps(model, image, "grad_cam", 1, layer=0)
    )
    with pytest.raises(UserError, match="after block_1, the last block, the classifier reads the cls token alone"):
        heat_maps(model, image, "grad_cam", 1, layer=-1)
    one_block = loaded("vit", depth=1)
    assert heat_maps(one_block, image, "grad_cam", 1).shape == (2, 2, 3)
