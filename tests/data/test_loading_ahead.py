"""Loading ahead: the same batches from threads and processes; what cannot be read is masked, named once, counted."""

import collections
import dataclasses

import numpy as np
import pytest

from tests.data.examples import EXAMPLES, PROBLEMS, TRANSFORM, Bare, Files, assert_same, source, train_batches
from vit_jax.data.host import HostTransform
from vit_jax.data.loading import EvalBatches, HostRows, iterate
from vit_jax.data.memory import KeptArray, KeptImages
from vit_jax.data.unreadable import Unreadable
from vit_jax.errors import UserError

PLAIN = HostTransform((6, 5))


def eval_batches(of=None, batch_size: int = 4) -> EvalBatches:
    return EvalBatches(of or source(), batch_size, PLAIN)


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (5, 7), (1000, 1003), (4, 4)])
def test_threads_give_the_batches_in_order(start, stop):
    loaded = list(iterate(train_batches(), start, stop))
    assert len(loaded) == stop - start
    for position, batch in zip(range(start, stop), loaded, strict=True):
        assert_same(batch, train_batches()(position).batch)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("make", [train_batches, eval_batches])
def test_threads_change_nothing(make, threads):
    for of in (source(), Files()):
        batches = make(of=of, batch_size=8)
        for position in range(3):
            assert_same(dataclasses.replace(batches, threads=threads)(position), batches(position))


def from_processes(batches, start: int, stop: int, workers: int) -> tuple[list, set[str]]:
    unreadable = Unreadable(3)
    return list(iterate(batches, start, stop, workers, unreadable)), unreadable.names


@pytest.mark.parametrize("workers", [1, 4])
def test_processes_give_the_same_batches_in_order(workers):
    """In mid-epoch too, and of one host of two; with examples that cannot be read."""
    batches = train_batches(host=HostRows(1, 2), repeats=3, of=Files())
    loaded, names = from_processes(batches, 3, 20, workers)
    assert len(loaded) == 17
    for position, batch in enumerate(loaded, 3):
        assert_same(batch, batches(position).batch)
    alone, names_alone = from_processes(batches, 3, 20, 0)
    for batch, other in zip(loaded, alone, strict=True):
        assert_same(batch, other)
    assert names == names_alone == {"2.png", "5.png", "7.png"}


def test_processes_evaluate_a_set_that_is_kept_in_memory():
    batches = eval_batches(KeptArray(Bare(source()), 1e6))
    loaded, _ = from_processes(batches, 0, 7, 1)
    assert len(loaded) == 7
    for number, batch in enumerate(loaded):
        assert_same(batch, eval_batches()(number).batch)


KINDS = {
    "files": lambda: Files(),
    "kept-array": lambda: KeptArray(Files((6, 5)), 1e6),
    "kept-images": lambda: KeptImages(Files(), 1e6),
}


@pytest.mark.parametrize(
    "transform", [PLAIN, HostTransform((6, 5), crop="pad"), TRANSFORM], ids=["none", "pad", "affine"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_training_masks_what_cannot_be_read(kind, transform):
    batches, healthy = (train_batches(13, of=of, transform=transform) for of in (KINDS[kind](), source()))
    for position in (0, 1, 0):  # 13 rows: some examples come twice, and the third time around there is a memory
        (batch, problems), expected = batches(position), healthy(position).batch
        rows = expected["label"]
        bad = np.isin(rows, list(PROBLEMS))
        assert bad.any()
        np.testing.assert_array_equal(batch["mask"], ~bad)
        assert not batch["image"][bad].any()
        assert not batch["label"][bad].any()
        np.testing.assert_array_equal(batch["image"][~bad], expected["image"][~bad])
        np.testing.assert_array_equal(batch["label"][~bad], rows[~bad])
        assert problems == tuple(PROBLEMS[row] for row in rows[bad].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_masks_what_cannot_be_read(kind):
    batches = eval_batches(KINDS[kind]())
    seen = []
    for number in range(3):
        (batch, problems), expected = batches(number), eval_batches()(number).batch
        bad = np.isin(expected["label"], list(PROBLEMS))
        np.testing.assert_array_equal(batch["mask"], expected["mask"] & ~bad)
        assert not batch["image"][bad].any()
        assert not batch["label"][bad].any()
        np.testing.assert_array_equal(batch["image"][~bad], expected["image"][~bad])
        assert problems == tuple(PROBLEMS[row] for row in expected["label"][bad].tolist())
        seen += batch["label"][batch["mask"]].tolist()
    assert seen == [row for row in range(EXAMPLES) if row not in PROBLEMS]


def test_a_last_row_that_cannot_be_read_is_one_problem_however_often_it_pads(capsys):
    class LastGone(Bare):
        def __getitem__(self, row):
            if row == EXAMPLES - 1:
                raise OSError("gone")
            return super().__getitem__(row)

    unreadable = Unreadable(1)
    *_, last = iterate(eval_batches(LastGone(source())), 0, 3, unreadable=unreadable)
    assert last["mask"].tolist() == [True, False, False, False]
    assert unreadable.names == {"row 9"}
    assert capsys.readouterr().err == "cannot read row 9: gone (masked; 1 so far)\n"


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_named_once_over_many_epochs(kind, capsys):
    unreadable = Unreadable(3)
    batches = list(iterate(train_batches(of=KINDS[kind]()), 0, 10, unreadable=unreadable))  # four epochs
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(" (masked")[0] for line in lines) == [
        f"cannot read {name}: {why}" for name, why in PROBLEMS.values()
    ]
    assert [line.rpartition("; ")[2] for line in lines] == ["1 so far)", "2 so far)", "3 so far)"]
    assert unreadable.names == {"2.png", "5.png", "7.png"}
    counts = collections.Counter(label for batch in batches for label in batch["label"][batch["mask"]].tolist())
    assert counts == {row: 4 for row in range(EXAMPLES) if row not in PROBLEMS}
    assert sum((~batch["mask"]).sum() for batch in batches) == 4 * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_the_limit_end_the_run(workers):
    batches = iterate(eval_batches(Files()), 0, 3, workers, Unreadable(2))
    assert next(batches)["mask"].tolist() == [True, True, False, True]
    with pytest.raises(UserError, match=r"^3 images cannot be read, 7\.png the last .*data\.max_bad = 2") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_none_is_allowed_where_nobody_counts():
    with pytest.raises(UserError, match=r"2\.png .*data\.max_bad = 0"):
        next(iterate(eval_batches(Files()), 0, 3))


def test_a_mistake_in_a_source_is_no_unreadable_image():
    class Mistaken(Bare):
        def __getitem__(self, row):
            return self.of[row][2]

    with pytest.raises(IndexError):
        list(iterate(eval_batches(Mistaken(source())), 0, 3, unreadable=Unreadable(100)))
