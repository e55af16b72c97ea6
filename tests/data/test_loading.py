"""Batches of a position: what order, draws and transform say, whichever way they are made; every row once."""

import collections
import pickle

import numpy as np
import pytest

from tests.data.examples import EXAMPLES, TRANSFORM, Bare, Files, assert_same, source, train_batches
from vit_jax.data.host import HostTransform
from vit_jax.data.loading import EvalBatches, HostRows, Loaded, iterate
from vit_jax.data.memory import KeptArray
from vit_jax.data.order import Order, draws


@pytest.mark.parametrize("repeats", [1, 3])
def test_train_batch_is_what_order_draws_and_transform_say(repeats):
    batch, problems = train_batches(repeats=repeats)(3)
    passes, rows = Order(EXAMPLES, 4, seed=7, repeats=repeats).rows(3)
    uniform = draws(7, passes, rows, TRANSFORM.draws)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["mask"].tolist() == [True] * 4
    assert batch["label"].tolist() == rows.tolist()
    assert problems == ()
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


def test_augmentation_is_new_every_epoch_and_every_repeat():
    epochs = [train_batches(EXAMPLES)(epoch).batch for epoch in (0, 1)]
    first, second = (batch["image"][np.argsort(batch["label"])] for batch in epochs)
    assert (first != second).any((1, 2, 3)).all()
    repeated = train_batches(3 * EXAMPLES, repeats=3)(0).batch
    views = repeated["image"].reshape(EXAMPLES, 3, 6, 5, 3)
    for other in (1, 2):
        assert (views[:, 0] != views[:, other]).any((1, 2, 3)).all()


@pytest.mark.parametrize(("batch_size", "repeats"), [(4, 1), (7, 1), (4, 3), (16, 3)])
def test_every_example_comes_once_an_epoch(batch_size, repeats):
    epochs = 3
    batches = iterate(train_batches(batch_size, repeats=repeats), 0, -(-epochs * EXAMPLES * repeats // batch_size))
    labels = [label for batch in batches for label in batch["label"].tolist()]
    assert EXAMPLES * repeats % batch_size  # so that batches straddle epochs
    for epoch in range(epochs):
        part = labels[epoch * EXAMPLES * repeats : (epoch + 1) * EXAMPLES * repeats]
        assert collections.Counter(part) == dict.fromkeys(range(EXAMPLES), repeats)


def joined(parts: list[Loaded]) -> Loaded:
    batch = {name: np.concatenate([part.batch[name] for part in parts]) for name in parts[0].batch}
    return Loaded(batch, sum((part.problems for part in parts), ()))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_parts_make_the_global_batch(count):
    for of in (source(), Files(), KeptArray(Files((6, 5)), 1e6)):
        for position in (0, 2):  # the second straddles two epochs
            parts = [train_batches(host=HostRows(index, count), of=of)(position) for index in range(count)]
            assert_same(joined(parts), train_batches(of=of)(position))


@pytest.mark.parametrize("batch_size", [4, 23])  # the larger holds examples more than once
@pytest.mark.parametrize("crop", ["none", "pad"])
def test_copying_pixels_equals_image_by_image(crop, batch_size):
    transform = HostTransform((6, 5), crop=crop, pad=2)
    general = train_batches(batch_size, of=Bare(source()), transform=transform)
    copied = train_batches(batch_size, of=source(), transform=transform)
    kept = train_batches(batch_size, of=KeptArray(Bare(source()), 1e6), transform=transform)
    assert (general.copies_pixels, copied.copies_pixels, kept.copies_pixels) == (False, True, True)
    for position in (0, 1, 2, 3, 1, 0):  # the first time from files, later from memory
        expected = general(position)
        assert_same(copied(position), expected)
        assert_same(kept(position), expected)
    assert expected.batch["mask"].all()


@pytest.mark.parametrize(
    "transform", [TRANSFORM, HostTransform((6, 5), crop="random"), HostTransform((5, 6)), HostTransform((12, 10))]
)
def test_pixels_are_not_copied_where_they_must_change(transform):
    assert not train_batches(transform=transform).copies_pixels
    assert train_batches(transform=transform)(0).batch["image"].shape == (4, *transform.size, 3)


def test_images_in_memory_are_left_alone():
    batches = train_batches(transform=HostTransform((6, 5)))
    batches(0).batch["image"][:] = 0
    np.testing.assert_array_equal(batches.source.images, source().images)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 4, 6, 10, 16])
def test_evaluation_covers_every_row_once(batch_size, hosts):
    seen = []
    for index in range(hosts):
        batches = EvalBatches(source(), batch_size, HostTransform((6, 5)), HostRows(index, hosts))
        assert len(batches) == -(-EXAMPLES // batch_size)
        for number in range(len(batches)):
            batch, problems = batches(number)
            assert batch["image"].shape == (batch_size // hosts, 6, 5, 3)
            assert (batch["label"].dtype, batch["mask"].dtype) == (np.int32, np.bool_)
            assert problems == ()
            shown = batch["mask"]
            np.testing.assert_array_equal(batch["image"][shown], source().images[batch["label"][shown]])
            assert not batch["image"][~shown].any()
            seen += batch["label"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(EXAMPLES))


def test_only_the_end_is_padded():
    batches = EvalBatches(source(), 4, HostTransform((6, 5)))
    masks = [batches(number).batch["mask"].tolist() for number in range(3)]
    assert masks == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert batches(2).batch["label"].tolist() == [8, 9, 0, 0]


def test_evaluation_goes_round():
    batches = EvalBatches(source(), 4, TRANSFORM)
    for number in range(3):
        assert_same(batches(number + 3), batches(number))
        assert_same(batches(number + 3 * 10**9), batches(number))
    numbers = [batch["label"][0] for batch in iterate(batches, 2, 7)]
    assert numbers == [8, 0, 4, 8, 0]


def test_evaluation_uses_the_evaluation_view():
    transform = HostTransform((4, 4), crop="pad", resize=5)
    batch, _ = EvalBatches(source(), 4, transform)(1)
    np.testing.assert_array_equal(batch["image"][2], transform.evaluate(source().images[6]))
