"""Exact metrics, against NumPy: every example once, ties by class order, NaN counts as wrong."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from vit_jax.data.device import Normalisation
from vit_jax.data.host import HostTransform
from vit_jax.data.loading import EvalBatches
from vit_jax.data.sources import ArraySource
from vit_jax.evaluation.classification import EvalStep, Results, evaluate
from vit_jax.training.losses import sigmoid_loss, softmax_loss

CLASSES, EXAMPLES = 10, 23


class PixelLogits(nn.Module):
    """Takes the first pixels for logits, times one factor a class."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train):
        factors = self.param("factors", nn.initializers.ones, (self.classes,))
        return images.reshape(len(images), -1)[:, : self.classes] * factors


UNIT = Normalisation((0.0, 0.0, 0.0), (0.1, 0.1, 0.1))  # logits from 0 to 10
STEPS = {loss: jax.jit(EvalStep(PixelLogits(), UNIT, loss)) for loss in (softmax_loss, sigmoid_loss)}


def pixels(levels: int = 256) -> ArraySource:
    random = np.random.default_rng(0)
    images = random.integers(0, levels, (EXAMPLES, 2, 2, 3)).astype(np.uint8)
    return ArraySource(images, random.integers(0, CLASSES, EXAMPLES), [str(i) for i in range(CLASSES)])


def results_of(source: ArraySource, batch_size: int = 8, loss=softmax_loss, factors=1.0) -> Results:
    batches = EvalBatches(source, batch_size, HostTransform((2, 2)))
    variables = {"params": {"factors": np.broadcast_to(np.float32(factors), CLASSES)}}
    return evaluate(STEPS[loss], variables, (batches(number).batch for number in range(len(batches))))


def logits_of(source: ArraySource) -> np.ndarray:
    return source.images.reshape(EXAMPLES, -1)[:, :CLASSES] / 25.5


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns each true class's place when classes are sorted, best first, equals by their number."""
    sorted_classes = np.argsort(-logits, axis=1, kind="stable")
    return (sorted_classes == labels[:, None]).argmax(1)


@pytest.mark.parametrize("batch_size", [1, 8, 23, 32])
def test_metrics_equal_numpys_whatever_the_padding(batch_size):
    source = pixels()
    logits = logits_of(source)
    rank = ranks(logits, source.labels)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(EXAMPLES), source.labels]
    metrics = results_of(source, batch_size).metrics()
    assert metrics["examples"] == EXAMPLES
    assert metrics["top1"] == pytest.approx((rank == 0).mean())
    assert metrics["top5"] == pytest.approx((rank < 5).mean())
    assert metrics["loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert 0 < metrics["top1"] < metrics["top5"] < 1


def test_loss_is_the_one_asked_for():
    source = pixels()
    logits, labels = logits_of(source), np.eye(CLASSES)[source.labels]
    expected = (np.log1p(np.exp(logits)) - labels * logits).sum(1).mean()
    assert results_of(source, loss=sigmoid_loss).metrics()["loss"] == pytest.approx(expected, rel=1e-5)


def test_masked_rows_count_nowhere():
    source = pixels()
    batch = EvalBatches(source, 32, HostTransform((2, 2)))(0).batch
    batch["label"][EXAMPLES:], batch["image"][EXAMPLES:] = 3, 255
    batch["mask"][[0, 5]] = False
    results = evaluate(STEPS[softmax_loss], {"params": {"factors": np.ones(CLASSES, np.float32)}}, [batch])
    counted = np.delete(np.arange(EXAMPLES), [0, 5])
    assert results.metrics()["examples"] == EXAMPLES - 2
    assert results.label.tolist() == source.labels[counted].tolist()
    assert results.rank.tolist() == ranks(logits_of(source), source.labels)[counted].tolist()


def test_of_equal_logits_the_first_class_is_predicted():
    source = pixels(levels=3)  # ties everywhere
    results = results_of(source)
    assert results.rank.tolist() == ranks(logits_of(source), source.labels).tolist()
    np.testing.assert_array_equal(results.rank == 0, results.predicted == results.label)


def test_constant_logits_are_not_right_by_default():
    results = results_of(pixels(), factors=0.0)
    labels = pixels().labels
    assert results.predicted.tolist() == [0] * EXAMPLES
    assert results.rank.tolist() == labels.tolist()
    assert results.metrics()["top1"] == pytest.approx((labels == 0).mean())
    assert results.metrics()["top5"] == pytest.approx((labels < 5).mean())


def test_nan_counts_as_wrong():
    metrics = results_of(pixels(), factors=np.nan).metrics()
    assert metrics["top1"] == 0
    assert metrics["top5"] == 0
    assert np.isnan(metrics["loss"])


def test_one_nan_class_makes_every_prediction_wrong():
    factors = np.ones(CLASSES)
    factors[4] = np.nan
    results = results_of(pixels(), factors=factors)
    assert results.metrics()["top1"] == results.metrics()["top5"] == 0
    assert (results.predicted == -1).all()
    assert results.confusion(CLASSES).sum() == 0


def test_confusion_counts_true_by_predicted():
    results = Results(
        loss=np.zeros(5), rank=np.zeros(5), predicted=np.array([1, 1, 0, 2, 1]), label=np.array([1, 1, 1, 2, 0])
    )
    assert results.confusion(4).tolist() == [[0, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_confusion_agrees_with_top1():
    results = results_of(pixels())
    counts = results.confusion(CLASSES)
    assert counts.trace() / counts.sum() == pytest.approx(results.metrics()["top1"])
    assert counts.sum(1).tolist() == np.bincount(pixels().labels, minlength=CLASSES).tolist()
    assert counts.sum(0).tolist() == np.bincount(results.predicted, minlength=CLASSES).tolist()
