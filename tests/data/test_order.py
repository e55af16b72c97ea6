"""The order of examples and their random numbers: pure functions of seed, position, epoch and row."""

import pickle

import numpy as np
import pytest

from vit_jax.data.order import Order, draws


def stream(order: Order, batches: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [order.rows(position) for position in range(batches)]
    epochs, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return epochs, rows


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


def test_rows_are_pure_in_position():
    positions = range(12)
    forwards = {p: Order(10, 4, seed=1).rows(p) for p in positions}
    order = Order(10, 4, seed=1)
    order.rows(7)
    copy = pickle.loads(pickle.dumps(order))
    for p in (*reversed(positions), 5, 0, 11):
        np.testing.assert_array_equal(order.rows(p), forwards[p])
        np.testing.assert_array_equal(copy.rows(p), forwards[p])


def test_a_far_position_is_reached_at_once():
    epochs, rows = Order(10, 4, seed=0).rows(10**9)
    assert epochs.tolist() == [4 * 10**8] * 4
    assert len(set(rows)) == 4


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
