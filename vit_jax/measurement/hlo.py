"""The text of a compiled program: XLA's HLO, read into computations and instructions."""

import dataclasses
import math
import re

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAMED = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      result: its type, as it is written.
      operands: names of instructions; of a constant or a parameter, what stands in its brackets.
      rest: the attributes, as they are written.
    """

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    def called(self, *attributes: str) -> list[str]:
        """Returns the computations that the attributes name."""
        found = re.findall(rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        return [name.lstrip("%") for names in found for name in re.findall(r"%?[\w.\-]+", names)]


@dataclasses.dataclass(frozen=True)
class Computation:
    """The instructions of a computation by name, and the one whose result is its own."""

    instructions: dict[str, Instruction]
    root: Instruction

    def origin(self, name: str) -> Instruction | None:
        """Returns the instruction that makes a value, past those that only hand it on; None for no such name."""
        found = self.instructions.get(name)
        while found is not None and found.opcode in ("copy", "bitcast", "convert", "reshape"):
            found = self.instructions.get(found.operands[0])
        return found

    def element(self, name: str) -> int | None:
        """Returns which element of the computation's own parameter a value is, or None where it is none."""
        found = self.origin(name)
        if found is None or found.opcode != "get-tuple-element":
            return None
        source = self.origin(found.operands[0])
        return int(found.rest.split("index=")[1].split(",")[0]) if source and source.opcode == "parameter" else None

    def number(self, name: str, known: dict[int, int]) -> int | None:
        """Returns the integer that a value is, or None; `known` are those among the parameter's elements."""
        found = self.origin(name)
        if found is not None and found.opcode == "constant" and re.fullmatch(r"-?\d+", found.operands[0]):
            return int(found.operands[0])
        return known.get(self.element(name))


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a module by name, the name of the first, and how many chips it is for."""

    computations: dict[str, Computation]
    entry: str
    chips: int


def parse(text: str) -> Program:
    """Returns the computations of a module.

    Raises:
      ValueError: the text is no HLO module.
    """
    computations, entry, name, lines, root = {}, None, None, {}, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines, root = header[2], {}, None
            entry = name if header[1] else entry
        elif line.startswith("}") and name is not None:
            computations[name] = Computation(lines, root)
            name = None
        elif name is not None and (start := _NAMED.match(line)):
            lines[start[2]] = _instruction(start[2], line[start.end() :])
            root = lines[start[2]] if start[1] else root
    if entry is None:
        raise ValueError("no HLO module: it has no ENTRY computation")
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
    return Program(computations, entry, math.prod(map(int, counts)))


def _instruction(name: str, line: str) -> Instruction:
    end = _closing(line, 0) if line.startswith("(") else line.index(" ")
    opcode, _, _ = line[end:].strip().partition("(")
    begin = line.index("(", end)
    close = _closing(line, begin)
    inside = line[begin + 1 : close - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or (inside,)
    return Instruction(name, line[:end], opcode, operands, line[close:])


def _closing(line: str, begin: int) -> int:
    """Returns where the bracket that opens at `begin` has been closed."""
    depth = 0
    for mark in re.compile(r"[()]").finditer(line, begin):
        depth += 1 if mark[0] == "(" else -1
        if depth == 0:
            return mark.end()
    raise ValueError(f"no HLO instruction: {line[:80]!r}")


def shapes_in(types: str) -> list[tuple[int, ...]]:
    """Returns the shapes of all arrays in a type as it is written."""
    return [_shape(sizes) for _, sizes in _ARRAY.findall(types)]


def bytes_in(types: str) -> float:
    """Returns the bytes of all arrays in a type as it is written; the name of an element's type ends in its bits."""
    total = 0.0
    for kind, sizes in _ARRAY.findall(types):
        bits = 8 if kind == "pred" else int((re.search(r"\d+", kind) or ["0"])[0])
        total += math.prod(_shape(sizes)) * bits / 8
    return total


def _shape(sizes: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, sizes.split(","))))


def loop_start(computation: Computation, loop: Instruction, known: dict[int, int]) -> dict[int, int]:
    """Returns the integers among the values that a loop starts from."""
    given = computation.origin(loop.operands[0])
    if given is None or given.opcode != "tuple":
        return {}
    numbers = {i: computation.number(name, known) for i, name in enumerate(given.operands)}
    return {i: number for i, number in numbers.items() if number is not None}


def unchanged(program: Program, body: str, start: dict[int, int]) -> dict[int, int]:
    """Returns those of a loop's first values that it hands on as they are."""
    computation = program.computations[body]
    if computation.root.opcode != "tuple":
        return {}
    return {i: n for i, n in start.items() if computation.element(computation.root.operands[i]) == i}


def trip_count(program: Program, loop: Instruction, start: dict[int, int]) -> int | None:
    """Returns how often a loop runs, or None.

    XLA says so for most backends. Where it does not (TPU), the loop must count: its condition compares an element
    with a limit, and its body adds a step to that element.
    """
    if told := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(told[1])
    condition, body = (program.computations[loop.called(part)[0]] for part in ("condition", "body"))
    test, last = condition.root, body.root
    if test.opcode != "compare" or "direction=LT" not in test.rest or last.opcode != "tuple":
        return None
    counter, limit = condition.element(test.operands[0]), condition.number(test.operands[1], start)
    if counter is None or limit is None or counter not in start:
        return None
    step = body.origin(last.operands[counter])
    if step is None or step.opcode != "add":
        return None
    same = unchanged(program, loop.called("body")[0], start)
    added = [body.number(name, same) for name in step.operands if body.element(name) != counter]
    if len(added) != 1 or added[0] is None or added[0] < 1:
        return None
    return max(0, math.ceil((limit - start[counter]) / added[0]))
