"""Losses: what class weights do to them, and how the sigmoid loss may take mixed labels."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.examples import experiment_of, steps
from vit_jax.config import default_config
from vit_jax.errors import UserError
from vit_jax.training.losses import class_weights, make_loss, thresholded, weighted

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])


def train_keys(**keys):
    """Returns the `train` group of a config with these keys set."""
    train = default_config().train
    train.update(keys)
    return train


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
    loss, weights = make_loss(train_keys(loss=name)), np.array([0.5, 1.0, 4.0])
    logits = jnp.array(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    labels = jnp.array([[0, 0, 1], [1, 0, 0], [0.25, 0.75, 0]], jnp.float32)
    expected = np.asarray(loss(logits, labels)) * [4.0, 0.5, 0.875]
    np.testing.assert_allclose(weighted(loss, weights)(logits, labels), expected, rtol=1e-6)


def test_the_mean_over_classes_is_pytorchs_binary_cross_entropy():
    logits, labels = np.array([[2.0, -1.0, 0.5]]), np.array([[0.3, 0.7, 0.0]])
    share = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(share) + (1 - labels) * np.log(1 - share)).mean(axis=1)
    mean = make_loss(train_keys(loss="sigmoid", class_mean=True))
    np.testing.assert_allclose(mean(jnp.array(logits), jnp.array(labels)), expected, rtol=1e-5)


def test_labels_above_the_threshold_are_whole():
    labels = jnp.array([[0.7, 0.3, 0.0], [0.85, 0.15, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(thresholded(labels, 0.2), [[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(thresholded(labels, 0.0), [[1, 1, 0], [1, 1, 0], [1, 0, 0]])
    assert thresholded(labels, None) is labels


def test_a_step_learns_from_whole_labels_before_they_are_smoothed():
    keys = {"train__loss": "sigmoid", "augment__mixup": 1.0, "train__ema_decay": None}
    losses = {}
    for threshold in (None, 0.0):
        experiment = experiment_of(**keys, train__label_threshold=threshold, train__label_smoothing=0.5)
        losses[threshold] = float(steps(experiment, 1)[2][0]["loss"])
    assert abs(losses[None] - losses[0.0]) > 1e-3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "hinge"}, "train.loss must be one of softmax, sigmoid, not 'hinge'"),
        ({"class_mean": True}, "train.class_mean is set to True, but only the sigmoid loss has such a thing"),
        ({"label_threshold": 0.0}, "train.label_threshold is set to 0.0, but only the sigmoid loss"),
        ({"loss": "sigmoid", "label_threshold": 0.1, "class_weights": "balanced"}, "set one"),
    ],
)
def test_what_does_not_go_together_is_one_line(keys, message):
    with pytest.raises(UserError) as error:
        make_loss(train_keys(**keys))
    assert message in str(error.value)
