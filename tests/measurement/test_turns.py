"""The order in which programs are timed, and what happens to one that runs out of memory."""

import pytest

from tests.measurement.examples import FakeProgram
from vit_jax.measurement.samples import percentile, spread
from vit_jax.measurement.turns import side_by_side


def test_all_are_prepared_before_any_is_timed_and_then_take_turns():
    log = []
    programs = [FakeProgram(name, log) for name in "ab"]
    measured = side_by_side(programs, repeats=2, seconds=0.0, each=False)
    prepared = [f"{what} {name}" for name in "ab" for what in ("prepare", "begin", *["call", "wait"] * 2, "end")]
    turn = ("begin", "call", "wait", "call", "wait", "end")  # the first call warms up
    assert log == prepared + [f"{what} {name}" for _ in range(2) for name in "ab" for what in turn]
    assert [len(one.seconds) for one in measured] == [2, 2]


@pytest.mark.parametrize("each", [False, True])
def test_when_calls_are_waited_for(each):
    log = []
    (one,) = side_by_side([FakeProgram("a", log)], repeats=3, seconds=1e-3, each=each)
    turn = log[-(one.calls * (2 if each else 1) + 5) :] if each else log[-(one.calls + 5) :]
    timed = turn[turn.index("wait a") + 1 : -1]
    assert one.calls > 3
    assert timed == ["call a", "wait a"] * one.calls if each else [*["call a"] * one.calls, "wait a"]
    assert len(one.latencies) == (3 * one.calls if each else 0)


@pytest.mark.parametrize(("fails", "timed"), [("prepare", 0), ("begin", 0), ("call", 0)])
def test_one_without_memory_is_left_out_and_the_others_go_on(fails, timed):
    log = []
    programs = [FakeProgram("a", log), FakeProgram("b", log, fails), FakeProgram("c", log)]
    first, second, third = side_by_side(programs, repeats=2, seconds=0.0, each=False)
    assert second.failure == "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 99999 bytes."
    assert len(second.seconds) == timed
    assert first.failure is third.failure is None
    assert len(first.seconds) == len(third.seconds) == 2
    assert log.count(f"{fails} b") == 1


def test_other_errors_are_not_hidden():
    program = FakeProgram("a", [])
    program.prepare = lambda: (_ for _ in ()).throw(ValueError("a mistake"))
    with pytest.raises(ValueError, match="a mistake"):
        side_by_side([program], repeats=1, seconds=0.0, each=False)


def test_spread_and_percentiles():
    assert spread([3.0]) == 0.0
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert percentile([7.0], 0.95) == 7.0
