"""The order of examples and their random numbers: pure functions of seed, position, pass and row."""

import collections
import pickle

import numpy as np
import pytest

from vit_jax.data.order import Order, draws


def stream(order: Order, batches: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [order.rows(position) for position in range(batches)]
    passes, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return passes, rows


def epoch_of(seed: int, epoch: int, examples: int = 50) -> list[int]:
    return Order(examples, examples, seed).rows(epoch)[1].tolist()


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 8), (3, 10), (1, 2)])
def test_every_example_comes_once_an_epoch(examples, batch_size):
    # As many batches as there are examples are as many epochs as a batch has rows, straddled or not.
    epochs, rows = stream(Order(examples, batch_size, seed=3), examples)
    assert epochs.tolist() == np.repeat(np.arange(batch_size), examples).tolist()
    for epoch in range(batch_size):
        assert sorted(rows[epochs == epoch]) == list(range(examples))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_of(seed, epoch) for seed in (0, 1, -1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == len(orders)
    assert list(range(50)) not in orders


def test_stream_does_not_depend_on_the_batch_size():
    whole = stream(Order(10, 1, seed=5), 24)
    for batch_size in (3, 8, 24):
        np.testing.assert_array_equal(whole, stream(Order(10, batch_size, seed=5), 24 // batch_size))


@pytest.mark.parametrize("repeats", [1, 3])
def test_rows_are_pure_in_position(repeats):
    positions = range(12)
    forwards = {p: Order(10, 4, seed=1, repeats=repeats).rows(p) for p in positions}
    order = Order(10, 4, seed=1, repeats=repeats)
    order.rows(7)
    copy = pickle.loads(pickle.dumps(order))
    for p in (*reversed(positions), 5, 0, 11):
        np.testing.assert_array_equal(order.rows(p), forwards[p])
        np.testing.assert_array_equal(copy.rows(p), forwards[p])


def test_a_far_position_is_reached_at_once():
    epochs, rows = Order(10, 4, seed=0).rows(10**9)
    assert epochs.tolist() == [4 * 10**8] * 4
    assert len(set(rows)) == 4


def test_repeats_come_in_a_row_and_are_passes_of_their_own():
    passes, rows = stream(Order(10, 6, seed=3, repeats=3), 20)  # four epochs of 30
    plain = stream(Order(10, 10, seed=3), 4)[1]
    np.testing.assert_array_equal(rows, np.repeat(plain, 3))
    for epoch in range(4):
        part = slice(30 * epoch, 30 * (epoch + 1))
        assert passes[part].reshape(10, 3).tolist() == [[3 * epoch, 3 * epoch + 1, 3 * epoch + 2]] * 10


@pytest.mark.parametrize(("examples", "batch_size", "repeats"), [(7, 4, 3), (5, 16, 2), (4, 3, 5), (1, 2, 3)])
def test_every_example_comes_equally_often_with_every_pass_once(examples, batch_size, repeats):
    epochs = 2 * batch_size
    passes, rows = stream(Order(examples, batch_size, seed=3, repeats=repeats), 2 * examples * repeats)
    counts = collections.Counter(zip(passes.tolist(), rows.tolist(), strict=True))
    assert counts == {(turn, row): 1 for turn in range(epochs * repeats) for row in range(examples)}
    assert collections.Counter(rows.tolist()) == dict.fromkeys(range(examples), epochs * repeats)


def test_a_batch_with_repeats_holds_fewer_examples():
    _, rows = Order(1000, 12, seed=0, repeats=3).rows(5)
    assert sorted(collections.Counter(rows.tolist()).values()) == [3] * 4


def test_a_batch_may_end_amid_repeats():
    order = Order(10, 4, seed=1, repeats=3)
    passes, rows = stream(order, 3)
    assert passes.tolist() == [0, 1, 2] * 4
    assert rows.tolist() == np.repeat(epoch_of(1, 0, 10)[:4], 3).tolist()
    np.testing.assert_array_equal(order.rows(1), (passes[4:8], rows[4:8]))


def test_repeats_of_an_example_have_numbers_of_their_own():
    passes, rows = Order(10, 30, seed=1, repeats=3).rows(0)
    assert len(np.unique(draws(1, passes, rows, 20))) == 30 * 20


def test_once_is_no_repeat():
    for position in (0, 4, 10**9):
        np.testing.assert_array_equal(
            Order(10, 4, seed=1, repeats=1).rows(position), Order(10, 4, seed=1).rows(position)
        )


def test_draws_depend_on_seed_epoch_and_row_alone():
    epochs, rows = np.array([0, 0, 1, 1, 7]), np.array([0, 3, 0, 3, 9])
    together = draws(11, epochs, rows, 6)
    for i in range(5):
        np.testing.assert_array_equal(draws(11, epochs[i : i + 1], rows[i : i + 1], 6)[0], together[i])
    np.testing.assert_array_equal(draws(11, epochs[::-1], rows[::-1], 6), together[::-1])
    np.testing.assert_array_equal(draws(11, epochs, rows, 4), together[:, :4])
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize("other", [(12, 0, 3), (11, 1, 3), (11, 0, 4), (11, 3, 0), (-11, 0, 3)])
def test_another_seed_epoch_or_row_changes_every_number(other):
    def numbers(seed, epoch, row):
        return draws(seed, np.array([epoch]), np.array([row]), 20)

    assert not np.isin(numbers(*other), numbers(11, 0, 3)).any()


def test_draws_are_uniform():
    numbers = draws(0, np.repeat([0, 1], 500), np.tile(np.arange(500), 2), 100)
    count = numbers.size
    assert numbers.shape == (1000, 100)
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / count)
    assert abs(numbers.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / count)
    distance = np.abs(np.sort(numbers.ravel()) - np.arange(count) / count).max()
    assert distance < 1.95 / np.sqrt(count)  # Kolmogorov-Smirnov at 0.1 %


def test_draws_of_neighbours_are_uncorrelated():
    epochs, rows = np.zeros(1000, np.int64), np.arange(1000)
    here = draws(0, epochs, rows, 100)
    pairs = {
        "number": (here[:, :-1], here[:, 1:]),
        "row": (here[:-1], here[1:]),
        "epoch": (here, draws(0, epochs + 1, rows, 100)),
        "seed": (here, draws(1, epochs, rows, 100)),
        "epoch and row exchanged": (here[1:], draws(0, rows, epochs, 100)[1:]),
    }
    for name, (a, b) in pairs.items():
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(a.size), name
