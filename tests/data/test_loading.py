"""Batches: pure in position, the same from threads, processes and hosts, every evaluation row once."""

import pickle

import numpy as np
import pytest

from vit_jax.data.host import DRAWS, Affine, HostTransform
from vit_jax.data.loading import EvalBatches, HostRows, TrainBatches, iterate
from vit_jax.data.order import Order, draws
from vit_jax.data.sources import ArraySource

EXAMPLES = 10
TRANSFORM = HostTransform((6, 5), crop="pad", pad=2, affine=Affine(rotation=20))
WHOLE = HostRows()


def source(examples: int = EXAMPLES) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (examples, 6, 5, 3), dtype=np.uint8)
    return ArraySource(images, np.arange(examples), [str(i) for i in range(examples)])


def train_batches(batch_size: int = 4, host: HostRows = WHOLE) -> TrainBatches:
    return TrainBatches(source(), Order(EXAMPLES, batch_size, seed=7), TRANSFORM, host)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys() == {"image", "label", "mask"}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Training.


def test_train_batch_is_what_order_draws_and_transform_say():
    batch = train_batches()(3)
    epochs, rows = Order(EXAMPLES, 4, seed=7).rows(3)
    uniform = draws(7, epochs, rows, DRAWS)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["mask"].tolist() == [True] * 4
    assert batch["label"].tolist() == rows.tolist()
    for image, row, numbers in zip(batch["image"], rows, uniform, strict=True):
        np.testing.assert_array_equal(image, TRANSFORM.train(source()[int(row)][0], numbers))


def test_train_batches_are_pure_in_position():
    batches = train_batches()
    forwards = [batches(position) for position in range(6)]
    copy = pickle.loads(pickle.dumps(batches))
    for position in (5, 0, 3, 3, 1):
        assert_same(batches(position), forwards[position])
        assert_same(copy(position), forwards[position])
        assert_same(train_batches()(position), forwards[position])


def test_augmentation_is_new_every_epoch():
    by_epoch = [train_batches(EXAMPLES)(epoch) for epoch in (0, 1)]
    first, second = (batch["image"][np.argsort(batch["label"])] for batch in by_epoch)
    assert (first != second).any((1, 2, 3)).all()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_parts_make_the_global_batch(count):
    for position in (0, 2):  # the second straddles two epochs
        parts = [train_batches(host=HostRows(index, count))(position) for index in range(count)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_same(joined, train_batches()(position))


# Evaluation.


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 4, 6, 10, 16])
def test_evaluation_covers_every_row_once(batch_size, hosts):
    seen = []
    for index in range(hosts):
        batches = EvalBatches(source(), batch_size, HostTransform((6, 5)), HostRows(index, hosts))
        assert len(batches) == -(-EXAMPLES // batch_size)
        for number in range(len(batches)):
            batch = batches(number)
            assert batch["image"].shape == (batch_size // hosts, 6, 5, 3)
            assert (batch["label"].dtype, batch["mask"].dtype) == (np.int32, np.bool_)
            np.testing.assert_array_equal(batch["image"], source().images[batch["label"]])
            seen += batch["label"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(EXAMPLES))


def test_only_the_end_is_padded():
    batches = EvalBatches(source(), 4, HostTransform((6, 5)))
    assert [batches(number)["mask"].tolist() for number in range(3)] == [
        [True] * 4,
        [True] * 4,
        [True, True, False, False],
    ]


def test_evaluation_uses_the_evaluation_view():
    transform = HostTransform((4, 4), crop="pad", resize=5)
    batch = EvalBatches(source(), 4, transform)(1)
    np.testing.assert_array_equal(batch["image"][2], transform.evaluate(source().images[6]))


# Loading ahead.


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (5, 7), (1000, 1003), (4, 4)])
def test_threads_give_the_batches_in_order(start, stop):
    loaded = list(iterate(train_batches(), start, stop))
    assert len(loaded) == stop - start
    for position, batch in zip(range(start, stop), loaded, strict=True):
        assert_same(batch, train_batches()(position))


@pytest.mark.parametrize(
    ("batches", "stop"), [(train_batches(), 7), (EvalBatches(source(), 4, TRANSFORM), 3)], ids=["train", "eval"]
)
def test_processes_give_the_same_batches_in_order(batches, stop):
    loaded = list(iterate(batches, 0, stop, workers=2))
    assert len(loaded) == stop
    for position, batch in enumerate(loaded):
        assert_same(batch, batches(position))


def test_an_example_that_cannot_be_read_is_an_error_not_a_gap():
    class Broken(ArraySource):
        def __getitem__(self, row):
            if row == 5:
                raise ValueError("not a readable image: row 5")
            return super().__getitem__(row)

    broken = Broken(source().images, source().labels, source().class_names)
    loaded = iterate(EvalBatches(broken, 4, TRANSFORM), 0, 3)
    next(loaded)
    with pytest.raises(ValueError, match="row 5"):
        next(loaded)
