"""Losses: what class weights do to them."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.training.losses import class_weights, make_loss, weighted

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])


def test_balanced_weights_give_every_class_the_same_share():
    weights = class_weights("balanced", LABELS, 3)
    shares = np.bincount(LABELS) * weights
    np.testing.assert_allclose(shares, len(LABELS) / 3)


@pytest.mark.parametrize("text", ["1, 2, 0.5", "(1,2,0.5)", "2,4,1"])
def test_numbers_keep_their_ratios_and_have_mean_one_over_the_examples(text):
    weights = class_weights(text, LABELS, 3)
    np.testing.assert_allclose(weights / weights[0], [1, 2, 0.5])
    np.testing.assert_allclose(weights[LABELS].mean(), 1)


def test_a_class_without_examples_does_not_blow_up_the_others():
    weights = class_weights("balanced", LABELS, 5)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights[LABELS].mean(), 1)


def test_labels_that_could_not_be_read_do_not_count():
    some = np.append(LABELS, [-1, -1])
    np.testing.assert_array_equal(class_weights("balanced", some, 3), class_weights("balanced", LABELS, 3))


@pytest.mark.parametrize("text", ["balance", "1,2", "1,2,3,4", "1,-2,3", "1,nan,2", "1,,2", "0,0,0", ""])
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match=r"train\.class_weights must be 'balanced' or 3 numbers"):
        class_weights(text, LABELS, 3)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_weighted_loss_is_the_loss_times_the_weight_of_the_class(name):
    loss, weights = make_loss(name), np.array([0.5, 1.0, 4.0])
    logits = jnp.array(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    labels = jnp.array([[0, 0, 1], [1, 0, 0], [0.25, 0.75, 0]], jnp.float32)
    expected = np.asarray(loss(logits, labels)) * [4.0, 0.5, 0.875]
    np.testing.assert_allclose(weighted(loss, weights)(logits, labels), expected, rtol=1e-6)
