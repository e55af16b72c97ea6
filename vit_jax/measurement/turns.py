"""Timing side by side: each repeat lets every program run in turn, as the machine's speed drifts meanwhile."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence

from vit_jax.measurement.memory import out_of_memory
from vit_jax.measurement.programs import Facts, Program


@dataclasses.dataclass
class Measured:
    """What was found about one program.

    Attributes:
      seconds: a call takes, one mean a repeat.
      latencies: of all single calls, in seconds, where each was waited for (mode "infer").
      calls: of a turn.
      failure: why it could not be run, or None.
    """

    program: Program
    facts: Facts | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    latencies: list[float] = dataclasses.field(default_factory=list)
    calls: int = 1
    failure: str | None = None


def side_by_side(
    programs: Sequence[Program],
    repeats: int,
    seconds: float,
    each: bool,
    say: Callable[[str], None] = lambda line: None,
) -> list[Measured]:
    """Returns the timings of programs. All are compiled and warmed up before any is timed.

    One that runs out of memory is left out from then on; the others go on.

    Args:
      seconds: how long each turn takes at least.
      each: wait for every call, as in serving; else only for a turn's last, as in training.
      say: is told what is being done.
    """
    measured = [Measured(program) for program in programs]
    for one in measured:
        say(f"compiling {one.program.label}")
        with_memory(one, lambda one=one: _prepare(one, seconds))
    for repeat in range(repeats):
        for one in measured:
            if one.failure is None:
                say(f"repeat {repeat + 1} of {repeats}: {one.program.label}")
                with_memory(one, lambda one=one: _turn(one, each))
    return measured


def with_memory(one: Measured, act: Callable[[], None]) -> None:
    """Acts, and notes it where there is not enough memory; other errors pass."""
    try:
        act()
    except Exception as error:
        if not out_of_memory(error):
            raise
        one.failure = f"out of memory: {str(error).splitlines()[0][:160] if str(error) else type(error).__name__}"


def _prepare(one: Measured, seconds: float) -> None:
    """Compiles, and finds out how many calls a turn takes."""
    one.facts = one.program.prepare()
    with one.program.running() as (call, wait):
        call()
        wait()
        begun = time.perf_counter()
        call()
        wait()
    one.calls = max(1, math.ceil(seconds / max(time.perf_counter() - begun, 1e-9)))


def _turn(one: Measured, each: bool) -> None:
    with one.program.running() as (call, wait):
        call()
        wait()
        marks = [time.perf_counter()]
        for number in range(one.calls):
            call()
            if each or number == one.calls - 1:
                wait()
                marks.append(time.perf_counter())
    one.seconds.append((marks[-1] - marks[0]) / one.calls)
    if each:
        one.latencies += [end - start for start, end in itertools.pairwise(marks)]
