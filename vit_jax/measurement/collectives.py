"""What the chips of a compiled program send to each other, read from its HLO text."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from vit_jax.measurement.hlo import (
    Computation,
    Instruction,
    Program,
    bytes_in,
    loop_start,
    parse,
    shapes_in,
    trip_count,
    unchanged,
)

SENT: dict[str, Callable[[float, int], float]] = {
    "all-gather": lambda size, group: size * (group - 1),
    "all-reduce": lambda size, group: 2 * size * (group - 1) / group,
    "reduce-scatter": lambda size, group: size * (group - 1) / group,
    "all-to-all": lambda size, group: size * (group - 1) / group,
    "collective-permute": lambda size, group: size,
}
"""Bytes that a chip sends, by the bytes it puts in and the chips that take part: the least that any algorithm sends
(Chan et al. 2007, "Collective communication: theory, practice, and experience", table 1). A permutation sends all."""

UNCOUNTED = ("collective-broadcast", "ragged-all-to-all", "send", "recv")
"""Operations that talk to other chips too, which no program here has; where one is met, it is said."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between chips.

    Attributes:
      kind: a key of `SENT`.
      group: how many chips take part, each in its own group.
      times: how often it runs in one run of the program.
      sent: bytes that a chip sends each time.
      shapes: of all arrays that go in and come out.
    """

    name: str
    kind: str
    group: int
    times: int
    sent: float
    shapes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one run of a program sends.

    Attributes:
      collectives: all of them.
      notes: what the figures rest on beside the text.
    """

    collectives: tuple[Collective, ...]
    notes: tuple[str, ...]

    @property
    def sent(self) -> dict[str, int]:
        """Returns the bytes that a chip sends, by kind."""
        total = Counter()
        for each in self.collectives:
            total[each.kind] += each.times * each.sent
        return {kind: round(size) for kind, size in sorted(total.items())}


def traffic(text: str) -> Traffic:
    """Returns what the chips of a compiled program send, by the text of `jax.stages.Compiled.as_text`.

    A collective inside a loop counts as often as the loop runs; of the branches of a condition, the one that sends
    most is taken. A pair of `-start` and `-done` is one collective.

    Raises:
      ValueError: the text is no HLO module, or notes its groups in a way that is not known.
    """
    program, notes = parse(text), {}
    found = tuple(_walk(program, program.entry, 1, {}, notes))
    return Traffic(found, tuple(notes))


def _walk(
    program: Program, name: str, times: int, known: dict[int, int], notes: dict[str, None]
) -> Iterator[Collective]:
    """Yields the collectives of a computation and of those that it calls.

    Args:
      known: integers among the elements of its parameter.
      notes: gets what must be said.
    """
    computation = program.computations[name]
    for instruction in computation.instructions.values():
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in SENT:
            yield _collective(program, computation, instruction, kind, times)
        elif kind in UNCOUNTED:
            notes[f"{kind} is not counted"] = None
        elif opcode == "while":
            (body,) = instruction.called("body")
            start = loop_start(computation, instruction, known)
            trips = trip_count(program, instruction, start)
            runs = times * (1 if trips is None else trips)
            inner = tuple(_walk(program, body, runs, unchanged(program, body, start), notes))
            if inner and trips is None:
                notes[f"how often loop {instruction.name} runs is not known: what it sends is counted once"] = None
            yield from inner
        elif opcode == "conditional":
            branches = instruction.called("branch_computations", "true_computation", "false_computation")
            sent = [tuple(_walk(program, branch, times, {}, notes)) for branch in branches]
            yield from max(sent, key=lambda several: sum(each.times * each.sent for each in several))
        elif opcode in ("fusion", "call", "async-start"):
            for called in instruction.called("calls", "to_apply"):
                yield from _walk(program, called, times, {}, notes)


def _collective(
    program: Program, computation: Computation, instruction: Instruction, kind: str, times: int
) -> Collective:
    given = " ".join(computation.instructions[operand].result for operand in instruction.operands)
    group = 1 if kind == "collective-permute" else _group(instruction, program.chips)
    sliced = kind == "all-reduce" and computation.root.opcode == "dynamic-slice"
    if sliced and computation.origin(computation.root.operands[0]) is instruction:
        kind = "reduce-scatter"  # the TPU compiler writes one as a fusion of these two
    shapes = tuple(shapes_in(f"{given} {instruction.result}"))
    return Collective(instruction.name, kind, group, times, SENT[kind](bytes_in(given), group), shapes)


def _group(instruction: Instruction, chips: int) -> int:
    """Returns how many chips form a group; HLO has three notations for groups.

    `{{0,1},{2,3}}` lists them, `[2,4]<=[8]` are two groups of four, and `mesh['a'=2,'b'=8] {'b':(2)4}` are the chips
    along some axes of a mesh, or along a part of an axis, here of size four. `{}` is all chips.
    """
    listed = re.search(r"replica_groups=\{(?:\{([\d,]+)\})?", instruction.rest)
    if listed:
        return len(listed[1].split(",")) if listed[1] else chips
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", instruction.rest)
    if counted:
        return int(counted[1])
    along = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", instruction.rest)
    if along is None:
        raise ValueError(f"{instruction.name}: groups in a notation that is not known: {instruction.rest[:80]}")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", along[1])}
    axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", along[2])
    return math.prod(int(part) if part else sizes[name] for name, part in axes)
